// SPDX-License-Identifier: GPL-2.0-only
//! The QEMU command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How the guest's instructions are run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// by the processor
    Kvm,
    /// by emulation
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// How the guest sees its disks; decided by what its kernel has built in, or its initrd loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// Debian's kernels
    Nvme,
    /// small kernels of our own
    Virtio,
}

impl Disks {
    fn root_device(self) -> &'static str {
        match self {
            Self::Nvme => "nvme,drive=root,serial=tcp-splice",
            Self::Virtio => "virtio-blk-pci,drive=root",
        }
    }
}

/// A machine to boot.
#[derive(Debug, Clone)]
pub struct Machine {
    /// bzImage
    pub kernel: PathBuf,
    /// loads what the root file system needs, for kernels that do not have it built in
    pub initrd: Option<PathBuf>,
    /// image of the root file system, opened with snapshot=on
    pub base: PathBuf,
    /// kind of disks
    pub disks: Disks,
    /// number of processors
    pub cpus: u32,
    /// MiB
    pub memory: u32,
    /// more words for the kernel's command line
    pub append: String,
    /// counts the guest's instructions, which takes emulation
    pub counter: Option<Counter>,
}

/// The plugin that counts instructions (insn/src/lib.rs).
#[derive(Debug, Clone)]
pub struct Counter {
    /// the plugin
    pub plugin: PathBuf,
    /// the file that it writes
    pub out: PathBuf,
    /// the file to which it writes where the instructions are
    pub profile: Option<PathBuf>,
}

/// How a guest runs whose instructions are counted. Its clock is the count itself, one nanosecond for each, so that neither timers nor
/// anything else that looks at the time depends on the host's load. Without ERMS and FSRM the kernel copies by words, as the module does:
/// `rep movsb` would be one instruction for any number of bytes.
const COUNTED: [&str; 6] = [
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0",
    "-cpu",
    "max,-erms,-fsrm",
];

/// Where the guest's channels end on the host: files in one directory.
pub struct Channels<'a>(pub &'a Path);

impl Channels<'_> {
    /// The serial console: the kernel's messages.
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// JSON lines, see [`crate::verdict`].
    pub fn verdict(&self) -> PathBuf {
        self.0.join("verdict")
    }

    /// A tar stream.
    pub fn files(&self) -> PathBuf {
        self.0.join("files.tar")
    }
}

impl Machine {
    /// The command that boots this machine. Standard output (and input for a shell) is the guest's.
    pub fn command(
        &self,
        accel: Accel,
        payload: &Path,
        channels: &Channels,
        shell: bool,
    ) -> Command {
        // setpriv: should this program be killed, QEMU goes with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "qemu-system-x86_64"]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        self.processors(&mut command, accel);
        command
            .arg("-smp")
            .arg(self.cpus.to_string())
            .arg("-m")
            .arg(self.memory.to_string());
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-append")
            .arg(self.command_line());
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        self.disks(&mut command, payload);
        command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        command
            .arg("-chardev")
            .arg(file("console", &channels.console()))
            .args(["-serial", "chardev:console"]);
        port(
            &mut command,
            "verdict",
            &file("verdict", &channels.verdict()),
        );
        port(&mut command, "files", &file("files", &channels.files()));
        if shell {
            command.args([
                "-chardev",
                "stdio,id=shell,signal=off,mux=on",
                "-mon",
                "shell",
            ]);
            command.args(["-device", "virtconsole,chardev=shell"]);
        } else {
            // Not the stdio backend: that one hangs up when standard input ends.
            port(&mut command, "output", "file,id=output,path=/dev/fd/1");
        }
        command
    }

    fn processors(&self, command: &mut Command, accel: Accel) {
        let Some(counter) = &self.counter else {
            command.args(match accel {
                Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
                Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
            });
            return;
        };
        let profile = counter.profile.as_deref();
        let profile =
            profile.map_or_else(String::new, |path| format!(",profile={}", escaped(path)));
        command.args(COUNTED).arg("-plugin").arg(format!(
            "file={},out={}{profile}",
            escaped(&counter.plugin),
            escaped(&counter.out)
        ));
    }

    /// A panic and an oops end the guest at once (`-no-reboot`); warnings do not, so that the log shows all
    /// of them, but every one is a failure in the end (see [`crate::klog`]). The watchdogs are patient, since
    /// an emulated processor may have to wait for the host's.
    fn command_line(&self) -> String {
        let (root, payload) = match self.disks {
            Disks::Nvme => ("/dev/nvme0n1", "/dev/vda"),
            Disks::Virtio => ("/dev/vda", "/dev/vdb"),
        };
        format!(
            "console=ttyS0 loglevel=4 log_buf_len=4M panic=-1 oops=panic watchdog_thresh=60 \
             rcupdate.rcu_cpu_stall_timeout=60 root={root} rootfstype=ext4 rw \
             init=/usr/sbin/tcp-splice-init SPLICE_PAYLOAD={payload} {}",
            self.append
        )
    }

    fn disks(&self, command: &mut Command, payload: &Path) {
        let drive = |id: &str, path: &Path, more: &str| {
            format!("file={},format=raw,if=none,id={id},{more}", escaped(path))
        };
        command
            .arg("-drive")
            .arg(drive("root", &self.base, "snapshot=on,cache=unsafe"));
        command
            .arg("-drive")
            .arg(drive("payload", payload, "readonly=on"));
        command.args([
            "-device",
            self.disks.root_device(),
            "-device",
            "virtio-blk-pci,drive=payload",
        ]);
    }
}

fn port(command: &mut Command, name: &str, chardev: &str) {
    command.arg("-chardev").arg(chardev);
    command.arg("-device").arg(format!(
        "virtserialport,chardev={name},name=tcp_splice.{name}"
    ));
}

fn file(id: &str, path: &Path) -> String {
    format!("file,id={id},path={}", escaped(path))
}

/// QEMU's options end at a comma; a doubled one is a comma.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
