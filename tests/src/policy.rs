// SPDX-License-Identifier: GPL-2.0-only
//! Driving `tcp-splice-ctl` and the module.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::program::{run, succeeds};

/// The control tool, found in PATH.
pub const CTL: &str = "tcp-splice-ctl";
/// The cgroup that holds every process.
pub const ROOT_CGROUP: &str = "/sys/fs/cgroup";
/// Module parameter: default size of later rings in KiB.
pub const RING_KBYTES: &str = "/sys/module/tcp_splice/parameters/ring_kbytes";

/// Module parameter: most memory of all rings in MiB, 0 for the default.
pub const MEMORY_MBYTES: &str = "/sys/module/tcp_splice/parameters/memory_mbytes";

/// Module parameter: how long a receive spins of its own accord at most, in microseconds.
pub const SPIN_US: &str = "/sys/module/tcp_splice/parameters/spin_us";
/// What it is by default.
pub const SPIN_US_DEFAULT: &str = "50";

/// Module parameter, where the module does not leave copying to the kernel: by bytes or by words.
pub const COPY_BYTES: &str = "/sys/module/tcp_splice/parameters/copy_bytes";

/// Module parameter, of the module for a kernel with checkers: how many of a thousand steps wait where others may come in between.
pub const DELAY_PER_MILLE: &str = "/sys/module/tcp_splice/parameters/delay_per_mille";

/// How long the kernel spins in epoll, poll and select, in microseconds.
pub const BUSY_POLL: &str = "/proc/sys/net/core/busy_poll";

/// Loads the module; already loaded is fine.
pub fn load() -> Result<()> {
    run(&["modprobe", "tcp_splice"]).map(drop)
}

/// Unloads the module. A policy that was just detached still holds it for a moment, so this tries until `limit` has passed.
pub fn unload(limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match run(&["rmmod", "tcp_splice"]) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

/// True when the module is loaded.
pub fn loaded() -> bool {
    std::path::Path::new("/sys/module/tcp_splice").exists()
}

/// Offers every connection of every process, with further options of `enable`.
pub fn enable(options: &[&str]) -> Result<()> {
    enable_for(ROOT_CGROUP, options)
}

/// Offers connections of the processes in one cgroup.
pub fn enable_for(cgroup: &str, options: &[&str]) -> Result<()> {
    let mut argv = vec![CTL, "enable", "--cgroup", cgroup];
    argv.extend(options);
    run(&argv).map(drop)
}

/// Offers nothing any more.
pub fn disable() -> Result<()> {
    run(&[CTL, "disable"]).map(drop)
}

/// Everything as a test expects it: module loaded, default ring size, every connection offered.
pub fn restore() -> Result<()> {
    load()?;
    std::fs::write(RING_KBYTES, "64")?;
    std::fs::write(MEMORY_MBYTES, "0")?;
    std::fs::write(SPIN_US, SPIN_US_DEFAULT)?;
    if std::path::Path::new(DELAY_PER_MILLE).exists() {
        std::fs::write(DELAY_PER_MILLE, "0")?;
    }
    disable()?;
    if let Err(error) = std::fs::write(BUSY_POLL, "0") {
        anyhow::ensure!(
            error.kind() == std::io::ErrorKind::NotFound,
            "{BUSY_POLL}: {error}"
        );
    }
    enable(&[])
}

/// True when the tool can be run at all.
pub fn tool_found() -> bool {
    succeeds(&[CTL, "--version"])
}
