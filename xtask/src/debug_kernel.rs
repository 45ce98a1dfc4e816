// SPDX-License-Identifier: GPL-2.0-only
//! Kernels that find bugs, built once from Debian's kernel source and kept in the cache: one with KASAN, lockdep and the like, one with KCSAN.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::rootfs::Rootfs;
use crate::ui::Step;
use crate::{cache, rootfs, sys};

const KERNEL: &str = include_str!("../kernel.config");
const DEBUG: &str = include_str!("../debug.config");
const KCSAN: &str = include_str!("../kcsan.config");
const MAKE_KERNEL: &str = include_str!("../host/make-kernel.sh");

/// What the kernel's own build needs.
const PACKAGES: &[&str] = &[
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libssl-dev",
    "libelf-dev",
    "dwarves",
    "python3",
    "perl",
    "xz-utils",
    "cpio",
    "kmod",
];

/// Words for the kernel's command line. Without the first, it interprets ACPI's routing table for a minute and a half.
const WORDS: &str = "acpi=noirq printk.time=1";

/// The first warning, hung task or soft lockup ends the guest: what comes after it is not worth waiting for, and may be its fault.
const PANIC_WORDS: &str = "panic_on_warn=1 hung_task_panic=1 softlockup_panic=1";

/// How long KCSAN holds up an access to see whether another one comes, in microseconds: what suffices on two processors of one's own is over in
/// emulation before a busy host has let the other one run at all.
const RACE_WORDS: &str = "kcsan.udelay_task=1000 kcsan.udelay_interrupt=200";

/// Which checkers a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkers {
    /// all but KCSAN
    Debug,
    /// KCSAN, which excludes KASAN
    Kcsan,
}

impl Checkers {
    fn config(self) -> String {
        let more = match self {
            Self::Debug => DEBUG,
            Self::Kcsan => KCSAN,
        };
        format!("{KERNEL}{more}")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Debug => "the debug kernel",
            Self::Kcsan => "the kernel with KCSAN",
        }
    }

    /// What its command line needs. KCSAN warns of races in the kernel's own code, too: nothing ends there.
    pub fn words(self) -> String {
        match self {
            Self::Debug => format!("{WORDS} {PANIC_WORDS}"),
            Self::Kcsan => format!("{WORDS} {RACE_WORDS}"),
        }
    }
}

/// The finished kernel: `bzImage`, `kver` and the tree that modules are built against.
pub struct DebugKernel {
    /// where it lies in the cache
    pub tree: PathBuf,
    /// its version
    pub kver: String,
    /// what it is for
    pub checkers: Checkers,
}

impl DebugKernel {
    /// What QEMU boots.
    pub fn image(&self) -> PathBuf {
        self.tree.join("bzImage")
    }
}

/// The first two numbers of a kernel's version, as Debian names its source packages.
fn series(kver: &str) -> &str {
    let dots = kver.match_indices('.').map(|(at, _)| at);
    dots.take(2)
        .last()
        .and_then(|at| kver.get(..at))
        .unwrap_or(kver)
}

/// A kernel with these checkers, of the same series as the guest's own: from the cache, or built now.
///
/// # Errors
/// When it cannot be built.
pub fn get(rootfs: &Rootfs, checkers: Checkers) -> Result<DebugKernel> {
    let packages = format!(
        "{},{}",
        rootfs::from_kernel_suite(&format!("linux-source-{}", series(&rootfs.kver))),
        PACKAGES.join(",")
    );
    let config = checkers.config();
    let key = cache::key(&[&config, MAKE_KERNEL, &packages]);
    let name = format!("debug-kernel-{key}");
    let cache = cache::dir()?;
    let _lock = cache::lock(&cache, &name)?;
    let tree = cache::made_once(&name, |dir| {
        let root_lock = cache::lock(&cache, "kernel-root")?;
        let root = rootfs::directory(
            "kernel-root",
            "the root file system to build the debug kernel in (once)",
            &packages,
        )?;
        drop(root_lock);
        let script = rootfs::write_script(dir, "make-kernel.sh", MAKE_KERNEL)?;
        let config = rootfs::write_script(dir, "fragment.config", &config)?;
        let mut step = Step::start(format!(
            "building {} (once; a quarter of an hour on two cores)",
            checkers.name()
        ));
        let mut command = sys::privileged_script(&script);
        command.args([root.join("root"), dir.to_path_buf(), config]);
        sys::run_logged(&mut command, &dir.join("make-kernel.log"), &mut step)?;
        step.done("");
        Ok(())
    })?;
    let kver = fs::read_to_string(tree.join("kver"))
        .context("failed to find the version of the debug kernel")?;
    Ok(DebugKernel {
        kver: kver.trim().to_owned(),
        tree,
        checkers,
    })
}

#[cfg(test)]
mod tests {
    use super::{Checkers, series};

    #[test]
    fn kasan_and_kcsan_exclude_each_other() {
        let (debug, kcsan) = (Checkers::Debug.config(), Checkers::Kcsan.config());
        assert!(debug.contains("\nCONFIG_KASAN=y\n") && !debug.contains("KCSAN=y"));
        assert!(kcsan.contains("\nCONFIG_KCSAN=y\n") && !kcsan.contains("KASAN=y"));
        for config in [debug, kcsan] {
            assert!(config.contains("\nCONFIG_DEBUG_INFO_BTF_MODULES=y\n"));
        }
    }

    #[test]
    fn series_is_major_and_minor() {
        assert_eq!(series("7.2.12+deb13-cloud-amd64"), "7.2");
        assert_eq!(series("6.12.107-amd64"), "6.12");
    }
}
