// SPDX-License-Identifier: GPL-2.0-only
//! Lists of all pairs, which have to be complete.

use std::fs;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::policy;
use tcp_splice_world::program::run;

/// The module's list.
pub const PATH: &str = "/proc/net/tcp_splice";

/// Reads the module's.
pub fn module(pairs: usize) -> Result<()> {
    let list = fs::read(PATH).with_context(|| format!("failed to read {PATH}"))?;
    complete(list.iter().filter(|byte| **byte == b'\n').count(), pairs)
}

/// Has the control tool make its own.
pub fn tool(pairs: usize) -> Result<()> {
    let list = run(&[policy::CTL, "list", "--json"])?;
    complete(list.matches("\"client\":").count(), pairs)
}

fn complete(found: usize, pairs: usize) -> Result<()> {
    ensure!(found == pairs, "{found} of {pairs} pairs are in the list");
    Ok(())
}
