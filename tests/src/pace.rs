// SPDX-License-Identifier: GPL-2.0-only
//! How much of a long test is run.

use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// For how many seconds each storm, and each ping-pong, is to run.
pub const SECONDS: &str = "TCP_SPLICE_SECONDS";
/// How many round trips each ping-pong is to make.
pub const ROUND_TRIPS: &str = "TCP_SPLICE_ROUND_TRIPS";
/// What random programs begin with, so that one can be run again.
pub const SEED: &str = "TCP_SPLICE_SEED";

/// A round trip takes less than this, in milliseconds, also on the debug kernel.
const ROUND_TRIP: u64 = 2;

/// True on a kernel with checkers on (`make test-debug`, `make test-kcsan`), where everything takes many times longer.
pub fn checked_kernel() -> bool {
    ["kmemleak", "kcsan"]
        .iter()
        .any(|name| Path::new("/sys/kernel/debug").join(name).exists())
}

/// `usual`, or `checked` on a kernel with checkers on.
pub fn count(usual: u64, checked: u64) -> u64 {
    if checked_kernel() { checked } else { usual }
}

/// The number that an environment variable asks for.
fn asked(name: &str) -> Result<Option<u64>> {
    let Ok(text) = env::var(name) else {
        return Ok(None);
    };
    let number = text
        .parse()
        .with_context(|| format!("{name} is no number"))?;
    Ok(Some(number))
}

/// How long to go on, if that was asked for.
pub fn seconds() -> Result<Option<Duration>> {
    Ok(asked(SECONDS)?.map(Duration::from_secs))
}

/// How many round trips to make, if that was asked for.
pub fn round_trips() -> Result<Option<u64>> {
    asked(ROUND_TRIPS)
}

/// The seed that was asked for, or any. Printed, so that whoever reads of a failure finds it.
pub fn seed() -> Result<u64> {
    let seed = asked(SEED)?.unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    Ok(seed)
}

/// By how much a test may take longer than usual, for what was asked.
pub fn allowance() -> Duration {
    let longer = seconds().ok().flatten().unwrap_or_default();
    let trips = round_trips().ok().flatten().unwrap_or_default();
    2 * longer + Duration::from_millis(trips.saturating_mul(ROUND_TRIP))
}
