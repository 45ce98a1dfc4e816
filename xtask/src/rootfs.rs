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
        self.dir.join("base.img")
    }

    /// The distribution's kernel.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    fn open(dir: PathBuf) -> Option<Self> {
        let kver = fs::read_to_string(dir.join("kver")).ok()?.trim().to_owned();
        Some(Self { dir, kver })
    }
}

/// The root file system: from the cache, or made now.
///
/// # Errors
/// When it cannot be made.
pub fn get() -> Result<Rootfs> {
    let cache = cache::dir()?;
    let dir = cache.join(format!("root-{}", recipe_key()));
    if let Some(rootfs) = Rootfs::open(dir.clone()) {
        return Ok(rootfs);
    }
    let _lock = cache::lock(&cache, "root")?;
    if let Some(rootfs) = Rootfs::open(dir.clone()) {
        return Ok(rootfs);
    }
    // Made under another name and renamed when finished: an interrupted run leaves no half of it.
    let unfinished = cache.join("root.unfinished");
    remove(&unfinished)?;
    fs::create_dir(&unfinished)
        .with_context(|| format!("failed to create {}", unfinished.display()))?;
    make(&unfinished)?;
    fs::rename(&unfinished, &dir)
        .with_context(|| format!("failed to rename to {}", dir.display()))?;
    Rootfs::open(dir).context("failed to find the version of the guest's kernel")
}

fn recipe_key() -> String {
    let packages = package_list();
    cache::key(&[SUITE, KERNEL_SUITE, &packages, MAKE_ROOT, MAKE_IMAGE, STUB])
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

fn make(dir: &Path) -> Result<()> {
    let script = |name: &str, text: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    };
    let make_root = script("make-root.sh", MAKE_ROOT)?;
    let make_image = script("make-image.sh", MAKE_IMAGE)?;
    let stub = script("stub.sh", STUB)?;
    let root = dir.join("root");

    let mut step = Step::start(format!(
        "making the guest's root file system (Debian {SUITE}, once, about 2 minutes)"
    ));
    let mut command = sys::privileged_script(&make_root);
    command
        .arg(&root)
        .args([SUITE, KERNEL_SUITE])
        .arg(package_list());
    command
        .arg(apt::mirror().unwrap_or_default())
        .arg(&stub)
        .args(apt::options());
    sys::run_logged(&mut command, &dir.join("make-root.log"), &mut step)?;
    step.done("");

    let mut step = Step::start("making the guest's disk image (once)");
    let mut command = sys::privileged_script(&make_image);
    command.args([
        &root,
        &dir.join("base.img"),
        &dir.join("vmlinuz"),
        &dir.join("kver"),
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
