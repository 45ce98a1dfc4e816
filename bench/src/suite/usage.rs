// SPDX-License-Identifier: GPL-2.0-only
//! A cgroup for all that is measured: only its connections are offered, and it counts the processor time of both ends.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tcp_splice_world::policy;

/// The cgroup, in which this process is while this exists.
#[derive(Debug)]
pub struct Usage {
    path: String,
    /// where this process was before
    home: PathBuf,
}

impl Usage {
    /// Makes the cgroup and moves this process into it, and so all that it starts.
    pub fn enter() -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("failed to read the cgroup")?;
        let line = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let line = line.context("failed to find a cgroup of version 2")?;
        let usage = Self {
            path: format!("{}/tcp-splice-bench", policy::ROOT_CGROUP),
            home: PathBuf::from(policy::ROOT_CGROUP).join(line),
        };
        fs::create_dir_all(&usage.path)
            .with_context(|| format!("failed to make {}", usage.path))?;
        fs::write(format!("{}/cgroup.procs", usage.path), "0")
            .with_context(|| format!("failed to enter {}", usage.path))?;
        Ok(usage)
    }

    /// Its directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Processor time of all its processes so far.
    pub fn seconds(&self) -> Result<f64> {
        let path = format!("{}/cpu.stat", self.path);
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        micros(&text)
            .map(|micros| micros as f64 / 1e6)
            .with_context(|| format!("failed to understand {path}"))
    }
}

fn micros(text: &str) -> Option<u64> {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    found?.trim().parse().ok()
}

impl Drop for Usage {
    fn drop(&mut self) {
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_stat() {
        assert_eq!(micros("usage_usec 12\nuser_usec 5\n"), Some(12));
        assert_eq!(micros("user_usec 5\n"), None);
    }
}
