// SPDX-License-Identifier: GPL-2.0-only
//! The guest's root file system: made once, kept in the cache under a key of its recipe.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ui::Step;
use crate::{apt, cache, sys};

const SUITE: &str = "trixie";
const KERNEL_SUITE: &str = "trixie-backports";

/// Packages from the newer suite.
const KERNEL_PACKAGES: &[&str] = &["linux-image-cloud-amd64", "linux-headers-cloud-amd64"];

/// What the build inside needs, what the guest needs to run, and the programs that tests and demo use.
#[rustfmt::skip]
const PACKAGES: &[&str] = &[
    "gcc", "make", "rustc", "cargo", "rust-src", "clang", "llvm", "libbpf-dev", "libelf-dev", "zlib1g-dev", "pkg-config", "dwarves",
    "kmod", "iproute2", "procps", "netbase", "util-linux", "e2fsprogs", "ca-certificates",
    "netperf", "redis-server", "redis-tools", "nginx-light", "wrk", "iperf3", "nftables", "ethtool",
    "bpftool", "strace", "less", "curl", "socat",
];

const MAKE_ROOT: &str = include_str!("../host/make-root.sh");
const MAKE_IMAGE: &str = include_str!("../host/make-image.sh");
const STUB: &str = include_str!("../guest/stub.sh");

/// A finished root file system in the cache.
pub struct Rootfs {
    /// where everything below lies
    pub dir: PathBuf,
    /// the version of its kernel
    pub kver: String,
}

impl Rootfs {
    /// The directory that is the root, for building inside it.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The disk image to boot from; never written to.
    pub fn image(&self) -> PathBuf {
        self.dir
            .join(format!("base-{}.img", cache::key(&[MAKE_IMAGE, STUB])))
    }

    /// The distribution's kernel.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }
}

/// The root file system and its image: from the cache, or made now.
///
/// # Errors
/// When it cannot be made.
pub fn get() -> Result<Rootfs> {
    let cache = cache::dir()?;
    let _lock = cache::lock(&cache, "root")?;
    let dir = cache.join(format!("root-{}", recipe_key()));
    if !dir.exists() {
        // Made under another name and renamed when finished: an interrupted run leaves no half of it.
        let unfinished = cache.join("root.unfinished");
        remove(&unfinished)?;
        fs::create_dir(&unfinished)
            .with_context(|| format!("failed to create {}", unfinished.display()))?;
        make_root(&unfinished)?;
        fs::rename(&unfinished, &dir)
            .with_context(|| format!("failed to rename to {}", dir.display()))?;
    }
    let mut rootfs = Rootfs {
        dir,
        kver: String::new(),
    };
    if !rootfs.image().exists() {
        make_image(&rootfs)?;
    }
    let kver = fs::read_to_string(rootfs.dir.join("kver"));
    kver.context("failed to find the version of the guest's kernel")?
        .trim()
        .clone_into(&mut rootfs.kver);
    Ok(rootfs)
}

fn recipe_key() -> String {
    cache::key(&[SUITE, KERNEL_SUITE, &package_list(), MAKE_ROOT])
}

fn package_list() -> String {
    let kernel = KERNEL_PACKAGES
        .iter()
        .map(|package| format!("{package}/{KERNEL_SUITE}"));
    kernel
        .chain(PACKAGES.iter().map(|&package| package.to_owned()))
        .collect::<Vec<_>>()
        .join(",")
}

fn write_script(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

fn make_root(dir: &Path) -> Result<()> {
    let script = write_script(dir, "make-root.sh", MAKE_ROOT)?;
    let mut step = Step::start(format!(
        "making the guest's root file system (Debian {SUITE}; once, a few minutes)"
    ));
    let mut command = sys::privileged_script(&script);
    command
        .arg(dir.join("root"))
        .args([SUITE, KERNEL_SUITE])
        .arg(package_list());
    command
        .arg(apt::mirror().unwrap_or_default())
        .args(apt::options());
    sys::run_logged(&mut command, &dir.join("make-root.log"), &mut step)?;
    step.done("");
    Ok(())
}

fn make_image(rootfs: &Rootfs) -> Result<()> {
    let dir = &rootfs.dir;
    let script = write_script(dir, "make-image.sh", MAKE_IMAGE)?;
    let stub = write_script(dir, "stub.sh", STUB)?;
    let mut step = Step::start("making the guest's disk image (once)");
    let mut command = sys::privileged_script(&script);
    command.args([
        rootfs.root(),
        rootfs.image(),
        rootfs.vmlinuz(),
        dir.join("kver"),
        stub,
    ]);
    sys::run_logged(&mut command, &dir.join("make-image.log"), &mut step)?;
    step.done("");
    Ok(())
}

/// Removes a directory that may hold files of root.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        sys::output(sys::privileged("rm").arg("-rf").arg(dir))
            .with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_comes_from_the_newer_suite() {
        let list = package_list();
        assert!(list.starts_with("linux-image-cloud-amd64/trixie-backports,"));
        assert!(list.contains(",rust-src,"));
    }

    #[test]
    fn setup_hook_is_fit_for_the_suites() {
        assert!(MAKE_ROOT.contains("kernel.list"));
        assert!(SUITE.chars().all(char::is_alphanumeric));
    }
}
