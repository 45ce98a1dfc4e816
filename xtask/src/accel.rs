// SPDX-License-Identifier: GPL-2.0-only
//! KVM where it works, emulation where it does not: found out by trying once, then remembered.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::guest::Boot;
use crate::payload::{Job, Payload};
use crate::qemu::{Accel, Machine};
use crate::{cache, sys, ui};

/// A kernel that runs at all under KVM has said hello long before.
const KVM_HELLO: Duration = Duration::from_secs(20);

/// What was found out, and for which machine that holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Memory {
    boot_id: String,
    qemu: String,
    kernel: String,
    accel: Accel,
}

/// The accelerator for booting `machine`.
///
/// # Errors
/// When QEMU cannot be started at all.
pub fn choose(machine: &Machine, payload: &Payload) -> Result<Accel> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        ui::line(format_args!("no KVM ({}): emulation it is", error.kind()));
        return Ok(Accel::Tcg);
    }
    let kernel = machine.kernel.to_string_lossy().into_owned();
    let path = cache::dir()?.join(format!("accel-{}.json", cache::key(&[&kernel])));
    let mut memory = Memory {
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        qemu: sys::output(Command::new("qemu-system-x86_64").arg("--version"))?,
        kernel,
        accel: Accel::Kvm,
    };
    if let Some(accel) = recall(&path, &memory) {
        return Ok(accel);
    }
    memory.accel = try_kvm(machine, payload)?;
    let _ = fs::write(&path, serde_json::to_string(&memory)?);
    Ok(memory.accel)
}

fn recall(path: &Path, now: &Memory) -> Option<Accel> {
    let then: Memory = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let same = then.boot_id == now.boot_id && then.qemu == now.qemu && then.kernel == now.kernel;
    same.then_some(then.accel)
}

fn try_kvm(machine: &Machine, payload: &Payload) -> Result<Accel> {
    ui::line("trying whether the guest boots under KVM (once, the answer is remembered)");
    let dir = cache::temporary("boot")?;
    let image = payload.image(dir.path(), &Job::Command(&["true".to_owned()]))?;
    let boot = Boot {
        machine,
        accel: Accel::Kvm,
        payload: &image,
        dir: dir.path(),
        shell: false,
        hello_limit: KVM_HELLO,
        time_limit: Some(KVM_HELLO),
        loud: false,
    };
    if boot.run()?.booted() {
        return Ok(Accel::Kvm);
    }
    ui::line("the guest does not boot under this machine's KVM: emulation it is");
    Ok(Accel::Tcg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_for_the_same_machine_only() -> Result<()> {
        let memory = |boot_id: &str, accel| Memory {
            boot_id: boot_id.into(),
            qemu: "7.2".into(),
            kernel: "vmlinuz".into(),
            accel,
        };
        let file = tempfile::NamedTempFile::new()?;
        fs::write(
            file.path(),
            serde_json::to_string(&memory("one", Accel::Tcg))?,
        )?;
        assert_eq!(
            recall(file.path(), &memory("one", Accel::Kvm)),
            Some(Accel::Tcg)
        );
        assert_eq!(recall(file.path(), &memory("two", Accel::Kvm)), None);
        fs::write(file.path(), "{")?;
        assert_eq!(recall(file.path(), &memory("one", Accel::Kvm)), None);
        Ok(())
    }
}
