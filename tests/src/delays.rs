// SPDX-License-Identifier: GPL-2.0-only
//! The module's waits between two of its steps, for whoever may come in between (kmod/delay.h): only on kernels with checkers.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pace;
use tcp_splice_world::policy::DELAY_PER_MILLE;

const DELAYED: &str = "/sys/module/tcp_splice/parameters/delayed";

/// True where the module has to have them.
pub fn available() -> bool {
    pace::checked_kernel()
}

/// The places where steps can wait.
pub fn places() -> Result<BTreeSet<String>> {
    Ok(waits()?.names().map(str::to_owned).collect())
}

/// Steps wait until this is dropped.
#[derive(Debug)]
pub struct Delays {
    before: Counters,
}

impl Delays {
    /// So many of a thousand steps wait.
    pub fn begin(per_mille: u32) -> Result<Self> {
        let before = waits()?;
        fs::write(DELAY_PER_MILLE, per_mille.to_string())
            .with_context(|| format!("failed to write to {DELAY_PER_MILLE}"))?;
        Ok(Self { before })
    }

    /// How often it has been waited at each place since this began.
    pub fn so_far(&self) -> Result<Counters> {
        Ok(waits()?.since(&self.before))
    }
}

impl Drop for Delays {
    fn drop(&mut self) {
        let _ = fs::write(DELAY_PER_MILLE, "0");
    }
}

fn waits() -> Result<Counters> {
    let text = fs::read_to_string(DELAYED);
    Counters::parse(&text.with_context(|| format!("failed to read {DELAYED}"))?)
}
