// SPDX-License-Identifier: GPL-2.0-only
//! What has to be installed on the host, and installing it.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sys;
use crate::ui::{self, Step};

/// Debian packages for making and booting the guest.
pub const VM_PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "mmdebstrap",
    "debian-archive-keyring",
    "e2fsprogs",
    "ca-certificates",
    "util-linux",
    "tar",
];

/// Debian packages for building everything that the host tests test.
pub const TEST_PACKAGES: &[&str] = &[
    "gcc",
    "libc6-dev",
    "make",
    "pkg-config",
    "clang",
    "libbpf-dev",
    "libelf-dev",
    "zlib1g-dev",
];

/// What the host does beside the guest, which makes times longer.
pub fn line() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!("host: {cpus} CPUs, load {load} before the guest was booted")
}

/// Installs those of `packages` that are missing, saying so.
///
/// # Errors
/// When this is no Debian-like machine, or apt-get fails.
pub fn need(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    ui::line(format_args!(
        "installing Debian packages that this needs: {list}"
    ));
    if !sys::have("apt-get") {
        bail!("failed to find apt-get: install these yourself: {list}");
    }
    let log = tempfile::NamedTempFile::new()?;
    let mut step = Step::start("apt-get update");
    sys::run_logged(
        sys::privileged("apt-get").arg("update"),
        log.path(),
        &mut step,
    )?;
    step.done("");
    let mut step = Step::start("apt-get install");
    let mut install = sys::privileged("env");
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "--no-install-recommends",
    ]);
    sys::run_logged(install.args(&missing), log.path(), &mut step)
        .with_context(|| format!("failed to install {list}"))?;
    step.done("");
    Ok(())
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    if !sys::have("dpkg-query") {
        bail!("failed to find dpkg-query: this needs Debian, or a distribution made from it");
    }
    let query = Command::new("dpkg-query")
        .args(["-W", "-f=${binary:Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("failed to start dpkg-query")?;
    let installed = String::from_utf8_lossy(&query.stdout).into_owned();
    Ok(packages
        .iter()
        .filter(|package| !is_installed(&installed, package))
        .copied()
        .collect())
}

/// Looks `package` up in lines of `name[:architecture] state`.
fn is_installed(list: &str, package: &str) -> bool {
    list.lines().any(|line| match line.split_once(' ') {
        Some((name, state)) => name.split(':').next() == Some(package) && state == "installed",
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::is_installed;

    #[test]
    fn installed_means_the_very_package_in_that_state() {
        let list = "make installed\nlibelf-dev:amd64 installed\nclang not-installed\n";
        assert!(is_installed(list, "make"));
        assert!(is_installed(list, "libelf-dev"));
        assert!(!is_installed(list, "clang"));
        assert!(!is_installed(list, "libelf"));
    }
}
