// SPDX-License-Identifier: GPL-2.0-only
//! Waiting for what must happen soon.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// How long anything may take that must happen soon. Never decides a test, only ends a hang.
pub const SOON: Duration = Duration::from_secs(30);

/// Waits until `done` holds; `what` names it in the error.
pub fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !done()? {
        ensure!(
            Instant::now() < deadline,
            "failed to see within {SOON:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
