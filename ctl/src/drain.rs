// SPDX-License-Identifier: GPL-2.0-only
//! `drain`: the module lets go of sockets, which live on as plain TCP.
//!
//! The kernel makes one pass over the sockets for each write to its file and waits for nobody; it says EAGAIN while some are left, because
//! a call holds their lock, or is halfway through. The waiting is done here.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::counters::Counters;
use crate::fault::Fault;
use crate::host;
use crate::ports::Ports;

/// Between two passes.
const PAUSE: Duration = Duration::from_millis(20);
/// Whoever watches is told after this time what is being waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Until nothing is left of the sockets that exist now, or `timeout` is over. Returns how many the module let go of.
pub fn drain(ports: Option<&Ports>, timeout: Duration) -> Result<u64> {
    let (path, mut file) = host::drain_file()?;
    let line = line(ports);
    let before = drained();
    let begin = Instant::now();
    let mut told = !io::stderr().is_terminal();
    loop {
        let left = match file.write(line.as_bytes()) {
            Ok(_) => calls(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("failed to write {path}")),
        };
        if left == Some(0) {
            return Ok(drained().saturating_sub(before));
        }
        if begin.elapsed() >= timeout {
            return Err(fault(left, timeout).into());
        }
        if !told && begin.elapsed() >= PATIENCE {
            told = true;
            eprintln!(
                "waiting up to {} s for calls that are under way",
                timeout.as_secs()
            );
        }
        sleep(PAUSE);
    }
}

fn fault(left: Option<u64>, timeout: Duration) -> Fault {
    let seconds = timeout.as_secs();
    match left {
        Some(calls) => Fault::StillInCalls { calls, seconds },
        None => Fault::StillHeld { seconds },
    }
}

/// What the kernel is told: the sockets that exist now, those with these ports.
fn line(ports: Option<&Ports>) -> String {
    let now = clock_gettime(ClockId::Monotonic);
    let mut line = format!("before={}", now.tv_sec * 1_000_000_000 + now.tv_nsec);
    if let Some(ports) = ports {
        let _ = write!(line, " ports={ports}");
    }
    line
}

fn counter(name: &str) -> Option<u64> {
    host::counters()
        .as_ref()
        .and_then(|counters: &Counters| counters.get(name))
}

fn drained() -> u64 {
    counter("drained").unwrap_or(0)
}

/// Of the drained sockets, those on which a call may still be inside the module. None once a grace period is over.
fn calls() -> Option<u64> {
    counter("drained_in_calls").or(Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_when_and_which() {
        let all = line(None);
        let number = all.strip_prefix("before=").unwrap();
        assert!(number.bytes().all(|byte| byte.is_ascii_digit()), "{all}");
        let some = line(Some(&"443,80".parse().unwrap()));
        assert!(some.ends_with(" ports=80,443"), "{some}");
    }
}
