// SPDX-License-Identifier: GPL-2.0-only
//! `drain`: the module lets go of sockets, which live on as plain TCP.
//!
//! The kernel makes one pass over the sockets for each write to its file and waits for nobody; it says EAGAIN while some are left, because
//! a call holds their lock, or is halfway through. The waiting is done here.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

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
    let mut wait = Wait::new(timeout, "calls that hold a connection");
    loop {
        match file.write(line.as_bytes()) {
            Ok(_) => return Ok(drained().saturating_sub(before)),
            Err(error) if is_not_yet(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("failed to write {path}")),
        }
        let seconds = timeout.as_secs();
        ensure!(wait.more(), Fault::StillHeld { seconds });
    }
}

/// Somebody else has a connection, or what memory there is.
fn is_not_yet(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
    [WouldBlock, Interrupted, OutOfMemory].contains(&error.kind())
}

/// Until the module can be unloaded: nothing is offered any more, all sockets were drained, and calls that began before have ended. A
/// connection that was being offered when the policy went may have come behind the drain, so there are more of them.
pub fn release(timeout: Duration) -> Result<()> {
    let (path, mut file) = host::drain_file()?;
    let mut wait = Wait::new(timeout, "calls that began before");
    while let Some(users @ 1..) = host::module_users() {
        match file.write(b"\n") {
            Err(error) if !is_not_yet(&error) => {
                return Err(error).with_context(|| format!("failed to write {path}"));
            }
            _ => {}
        }
        let seconds = timeout.as_secs();
        ensure!(wait.more(), Fault::StillUsed { users, seconds });
    }
    Ok(())
}

/// A wait with an end, of which whoever watches hears when it takes long.
struct Wait {
    begin: Instant,
    timeout: Duration,
    what: &'static str,
    told: bool,
}

impl Wait {
    fn new(timeout: Duration, what: &'static str) -> Self {
        Self {
            begin: Instant::now(),
            timeout,
            what,
            told: !io::stderr().is_terminal(),
        }
    }

    /// Waits a moment; false when the time is over.
    fn more(&mut self) -> bool {
        let elapsed = self.begin.elapsed();
        if !self.told && elapsed >= PATIENCE {
            self.told = true;
            eprintln!(
                "waiting up to {} s for {}",
                self.timeout.as_secs(),
                self.what
            );
        }
        sleep(PAUSE);
        elapsed < self.timeout
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

/// Sockets that the module has let go of since it was loaded.
fn drained() -> u64 {
    let counters = host::counters();
    counters
        .and_then(|counters| counters.get("drained"))
        .unwrap_or(0)
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
