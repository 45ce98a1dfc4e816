// SPDX-License-Identifier: GPL-2.0-only
//! The guest's root file system: made once, kept in the cache under a key of its recipe.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::offers::Kernel;
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

/// What `compat` needs besides: other people's suites, and what those of the kernel are built from. Userspace's headers have to be the kernel's
/// own, since its tests use its newest calls.
const COMPAT_PACKAGES: &[&str] = &[
    "libpython3.13-testsuite",
    "python3",
    "stress-ng",
    "libssl-dev",
    "xz-utils",
];
const COMPAT_KERNEL_PACKAGES: &[&str] = &["linux-source", "linux-libc-dev"];

/// What `bench` measures besides: servers that no test needs.
const BENCH_PACKAGES: &[&str] = &["memcached", "postgresql-17"];

/// What the initrds of Debian's other kernels are made with.
const INITRD_PACKAGE: &str = "busybox-static";
/// Keeps the packages of kernels from making an initrd when they are installed, a minute each: these would not be used.
const NO_INITRD: &str = "INITRD=No";

const MAKE_ROOT: &str = include_str!("../host/make-root.sh");
const KEEP_KERNELS: &str = include_str!("../host/keep-kernels.sh");
const MAKE_SELFTESTS: &str = include_str!("../host/make-selftests.sh");
const MAKE_IMAGE: &str = include_str!("../host/make-image.sh");
const STUB: &str = include_str!("../guest/stub.sh");

/// What a root file system is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// tests, demo, a shell
    Usual,
    /// all that, and other people's test suites
    Compat,
    /// all that is usual, and the servers that are measured
    Bench,
}

impl Flavour {
    /// The directory in the cache begins with it.
    fn name(self) -> &'static str {
        match self {
            Self::Usual => "root",
            Self::Compat => "compat-root",
            Self::Bench => "bench-root",
        }
    }

    fn what(self) -> String {
        let more = match self {
            Self::Usual => "",
            Self::Compat => " with other people's test suites",
            Self::Bench => " with the servers that are measured",
        };
        format!("the guest's root file system{more} (Debian {SUITE}; once, a few minutes)")
    }

    /// The script that is run over the finished root before it becomes an image, empty for none.
    fn finish(self) -> &'static str {
        match self {
            Self::Usual | Self::Bench => "",
            Self::Compat => MAKE_SELFTESTS,
        }
    }

    /// Packages with commas in between.
    fn packages(self) -> String {
        let (kernel, more) = match self {
            Self::Usual => (&[][..], &[][..]),
            Self::Compat => (COMPAT_KERNEL_PACKAGES, COMPAT_PACKAGES),
            Self::Bench => (&[][..], BENCH_PACKAGES),
        };
        let kernel = KERNEL_PACKAGES.iter().chain(kernel);
        let others = PACKAGES.iter().chain(more);
        kernel
            .map(|package| from_kernel_suite(package))
            .chain(others.map(|&package| package.to_owned()))
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// A finished root file system in the cache.
#[derive(Clone)]
pub struct Rootfs {
    /// where everything below lies
    pub dir: PathBuf,
    finish: &'static str,
    /// the distribution's kernel
    pub vmlinuz: PathBuf,
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
        let key = match self.finish {
            "" => cache::key(&[MAKE_IMAGE, STUB]),
            finish => cache::key(&[MAKE_IMAGE, STUB, finish]),
        };
        self.dir.join(format!("base-{key}.img"))
    }

    /// What the kernel is booted with if it does not have built in what the root file system needs.
    pub fn initrd(&self) -> Option<PathBuf> {
        let path = self.dir.join(format!("kernels/initrd-{}", self.kver));
        path.exists().then_some(path)
    }

    /// The same with another of its kernels.
    #[must_use]
    pub fn with_kernel(&self, kver: &str) -> Self {
        Self {
            vmlinuz: self.dir.join(format!("kernels/vmlinuz-{kver}")),
            kver: kver.to_owned(),
            ..self.clone()
        }
    }
}

/// The root file system and its image: from the cache, or made now.
///
/// # Errors
/// When it cannot be made.
pub fn get(flavour: Flavour) -> Result<Rootfs> {
    let _lock = cache::lock(&cache::dir()?, flavour.name())?;
    let dir = directory(flavour.name(), &flavour.what(), &flavour.packages())?;
    finished(dir, flavour.finish())
}

/// A root file system of one suite with the headers of all these kernels and the images of those that boot; take one with
/// [`Rootfs::with_kernel`].
///
/// # Errors
/// When it cannot be made.
pub fn with_kernels(kernels: &[Kernel]) -> Result<Rootfs> {
    let last = kernels.last().context("no kernels to install")?;
    let mut packages: Vec<_> = PACKAGES
        .iter()
        .chain(&[INITRD_PACKAGE])
        .map(|&package| package.to_owned())
        .collect();
    for kernel in kernels {
        let (kver, suite) = (&kernel.kver, kernel.suite);
        packages.push(format!("linux-headers-{kver}/{suite}"));
        if kernel.boots {
            packages.push(format!("linux-image-{kver}/{suite}"));
        }
    }
    let name = format!("kernels-{}", last.root);
    let _lock = cache::lock(&cache::dir()?, &name)?;
    let what = format!(
        "a root file system with {} kernels (Debian {}; once, a few minutes)",
        kernels.len(),
        last.root
    );
    // Suites that go on without end may be older here than they say they may be.
    let old_lists = "Acquire::Check-Valid-Until \"false\";";
    let dir = directory_of(
        (last.root, last.suite),
        &name,
        &what,
        &packages.join(","),
        &[old_lists],
    )?;
    finished(dir, KEEP_KERNELS)
}

/// Makes the image in `dir` if it is not there yet. `finish` is run over the root before.
fn finished(dir: PathBuf, finish: &'static str) -> Result<Rootfs> {
    let mut rootfs = Rootfs {
        vmlinuz: dir.join("vmlinuz"),
        dir,
        finish,
        kver: String::new(),
    };
    if !rootfs.image().exists() {
        if !finish.is_empty() {
            run_finish(&rootfs)?;
        }
        make_image(&rootfs)?;
    }
    let kver = fs::read_to_string(rootfs.dir.join("kver"));
    kver.context("failed to find the version of the guest's kernel")?
        .trim()
        .clone_into(&mut rootfs.kver);
    Ok(rootfs)
}

/// A cached directory `NAME-KEY` whose `root/` is a root file system with these packages.
///
/// # Errors
/// When it cannot be made.
pub fn directory(name: &str, what: &str, packages: &str) -> Result<PathBuf> {
    directory_of((SUITE, KERNEL_SUITE), name, what, packages, &[])
}

fn directory_of(
    (suite, kernel_suite): (&str, &str),
    name: &str,
    what: &str,
    packages: &str,
    options: &[&str],
) -> Result<PathBuf> {
    let key = cache::key(&[suite, kernel_suite, packages, MAKE_ROOT]);
    cache::made_once(&format!("{name}-{key}"), |dir| {
        let script = write_script(dir, "make-root.sh", MAKE_ROOT)?;
        let mut step = Step::start(format!("making {what}"));
        let mut command = sys::privileged_script_with(&[NO_INITRD], &script);
        command
            .arg(dir.join("root"))
            .args([suite, kernel_suite, packages]);
        command
            .arg(apt::mirror().unwrap_or_default())
            .args(apt::options())
            .args(options);
        sys::run_logged(&mut command, &dir.join("make-root.log"), &mut step)?;
        step.done("");
        Ok(())
    })
}

/// Names a package of the suite that the kernel comes from.
pub fn from_kernel_suite(package: &str) -> String {
    format!("{package}/{KERNEL_SUITE}")
}

/// Writes a script of ours where it can be run from.
///
/// # Errors
/// When it cannot be written.
pub fn write_script(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

fn run_finish(rootfs: &Rootfs) -> Result<()> {
    let script = write_script(&rootfs.dir, "finish.sh", rootfs.finish)?;
    let mut step = Step::start(if rootfs.finish == MAKE_SELFTESTS {
        "building the kernel's own network tests (once)"
    } else {
        "putting the kernels where they are booted from, with initrds (once)"
    });
    let mut command = sys::privileged_script(&script);
    command.arg(rootfs.root());
    sys::run_logged(&mut command, &rootfs.dir.join("finish.log"), &mut step)?;
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
        rootfs.vmlinuz.clone(),
        dir.join("kver"),
        stub,
    ]);
    sys::run_logged(&mut command, &dir.join("make-image.log"), &mut step)?;
    step.done("");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_comes_from_the_newer_suite() {
        let list = Flavour::Usual.packages();
        assert!(list.starts_with("linux-image-cloud-amd64/trixie-backports,"));
        assert!(list.contains(",rust-src,"));
        assert!(!list.contains("python"));
    }

    #[test]
    fn every_flavour_comes_with_everything_usual() {
        let usual = Flavour::Usual.packages();
        for flavour in [Flavour::Compat, Flavour::Bench] {
            let packages = flavour.packages();
            let has = |package: &str| packages.split(',').any(|other| other == package);
            assert!(usual.split(',').all(has), "{flavour:?}");
        }
        let compat = Flavour::Compat.packages();
        assert!(compat.contains(",linux-source/trixie-backports,"));
    }

    #[test]
    fn setup_hook_is_fit_for_the_suites() {
        assert!(MAKE_ROOT.contains("kernel.list"));
        assert!(SUITE.chars().all(char::is_alphanumeric));
    }
}
