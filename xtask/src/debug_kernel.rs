// SPDX-License-Identifier: GPL-2.0-only
//! A kernel with KASAN, lockdep and the like, built once from Debian's kernel source and kept in the cache.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::rootfs::Rootfs;
use crate::ui::Step;
use crate::{cache, rootfs, sys};

const CONFIG: &str = include_str!("../debug.config");
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

/// The finished kernel: `bzImage`, `kver` and the tree that modules are built against.
pub struct DebugKernel {
    /// where it lies in the cache
    pub tree: PathBuf,
    /// its version
    pub kver: String,
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

/// The debug kernel, of the same series as the guest's own: from the cache, or built now.
///
/// # Errors
/// When it cannot be built.
pub fn get(rootfs: &Rootfs) -> Result<DebugKernel> {
    let _lock = cache::lock(&cache::dir()?, "debug-kernel")?;
    let packages = format!(
        "{},{}",
        rootfs::from_kernel_suite(&format!("linux-source-{}", series(&rootfs.kver))),
        PACKAGES.join(",")
    );
    let key = cache::key(&[CONFIG, MAKE_KERNEL, &packages]);
    let tree = cache::made_once(&format!("debug-kernel-{key}"), |dir| {
        let root = rootfs::directory(
            "kernel-root",
            "the root file system to build the debug kernel in (once)",
            &packages,
        )?;
        let script = rootfs::write_script(dir, "make-kernel.sh", MAKE_KERNEL)?;
        let config = rootfs::write_script(dir, "fragment.config", CONFIG)?;
        let mut step =
            Step::start("building the debug kernel (once; some ten minutes on two cores)");
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
    })
}

#[cfg(test)]
mod tests {
    use super::series;

    #[test]
    fn series_is_major_and_minor() {
        assert_eq!(series("7.2.12+deb13-cloud-amd64"), "7.2");
        assert_eq!(series("6.12.107-amd64"), "6.12");
    }
}
