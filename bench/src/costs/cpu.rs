// SPDX-License-Identifier: GPL-2.0-only
//! Which processors are used.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this process, and what it starts, on one processor meanwhile: two ends on one do not spin for each other, and no other processor has to
/// be woken.
pub fn on_first_cpu<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = sched_getaffinity(Pid::this())?;
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::this(), &first).context("failed to stay on one CPU")?;
    let done = work();
    sched_setaffinity(Pid::this(), &all).context("failed to use all CPUs again")?;
    done
}
