// SPDX-License-Identifier: GPL-2.0-only
//! Which processors the ends use.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Where the client of a pair runs: pairs are spread over all processors, and its two ends are on two of them.
pub fn of_client(pair: usize) -> usize {
    (2 * pair + 1) % all()
}

/// Where its server runs.
pub fn of_server(pair: usize) -> usize {
    (2 * pair) % all()
}

fn all() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps this process on one processor.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::this(), &set)
        .with_context(|| format!("failed to stay on processor {cpu}"))
}
