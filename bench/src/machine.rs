// SPDX-License-Identifier: GPL-2.0-only
//! The machine the numbers belong to.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};
use tcp_splice_world::program::run;

/// What a reader has to know in order to judge the numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Release and version of the kernel.
    pub kernel: String,
    /// CPUs online.
    pub cpus: usize,
    /// What the CPU calls itself.
    pub cpu_model: String,
    /// How the machine runs: `tcg` (emulation), `kvm`, or `unknown`.
    pub accelerator: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Default size of a ring in KiB.
    pub ring_kbytes: String,
    /// The programs that measured.
    pub programs: BTreeMap<String, String>,
}

impl Machine {
    /// Looks around; `accelerator` overrules the environment's `TCP_SPLICE_ACCEL`, that overrules the kernel's command line.
    pub fn detect(accelerator: Option<&str>) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let accelerator = accelerator.map(str::to_owned);
        let release = read("/proc/sys/kernel/osrelease");
        let version = read("/proc/sys/kernel/version");
        Self {
            kernel: format!("{} {}", release.trim(), version.trim()),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu_model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            accelerator: accelerator
                .or_else(|| std::env::var("TCP_SPLICE_ACCEL").ok())
                .or_else(|| word(&read("/proc/cmdline"), "tcp_splice.accel="))
                .unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: memory(&read("/proc/meminfo")),
            ring_kbytes: read(tcp_splice_world::policy::RING_KBYTES)
                .trim()
                .to_owned(),
            programs: programs(),
        }
    }

    /// One line for the head of a report.
    pub fn line(&self) -> String {
        format!(
            "Linux {}, {} CPUs ({}), accelerator {}, {} MiB",
            self.kernel, self.cpus, self.cpu_model, self.accelerator, self.memory_mib
        )
    }
}

/// The value of a `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| line.split_once(':'));
    let found = values.find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned())
}

/// What follows `prefix` in one of the words of `text`.
fn word(text: &str, prefix: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    words
        .find_map(|word| word.strip_prefix(prefix))
        .map(str::to_owned)
}

fn memory(text: &str) -> u64 {
    let kbytes = field(text, "MemTotal").and_then(|value| value.split(' ').next()?.parse().ok());
    kbytes.unwrap_or(0_u64) / 1024
}

fn programs() -> BTreeMap<String, String> {
    // Some answer to standard error.
    let asked = [
        ("netperf", "netperf -V"),
        ("redis-server", "redis-server --version"),
        ("nginx", "nginx -v 2>&1"),
        ("postgres", "/usr/lib/postgresql/*/bin/postgres --version"),
        ("memcached", "memcached --version"),
        ("tcp-splice-ctl", "tcp-splice-ctl --version"),
    ];
    let answer = |(name, script): (&str, &str)| {
        let text = run(&["sh", "-c", script]).unwrap_or_default();
        let line = text.lines().next().unwrap_or("unknown").trim().to_owned();
        (name.to_owned(), line)
    };
    asked.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc() {
        assert_eq!(memory("MemTotal:       2048000 kB\n"), 2000);
        assert_eq!(
            field("a : b\nmodel name\t: X Y\n", "model name").unwrap(),
            "X Y"
        );
        let accel = word("quiet tcp_splice.accel=kvm ro", "tcp_splice.accel=");
        assert_eq!(accel.unwrap(), "kvm");
        assert_eq!(word("quiet", "tcp_splice.accel="), None);
    }
}
