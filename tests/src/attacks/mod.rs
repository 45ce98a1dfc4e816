// SPDX-License-Identifier: GPL-2.0-only
//! Attacks on the pairing, one a file. Whatever the attacker does, honest connections end as plain TCP or as the right pair.

mod attacker;
pub mod equal_numbers;
pub mod flood;
mod numbers;
mod packet;
pub mod repair;
pub mod stuck;
mod tenant;
pub mod tenants;
pub mod tun;
pub mod userns;

use anyhow::{Result, ensure};
use tcp_splice_world::counters::Counters;

use crate::env::wait_until;

/// Checks that each of these counters moved by exactly so much since `before`, and that no other connection was refused.
fn moved_exactly(before: &Counters, want: &[(&str, u64)]) -> Result<()> {
    let moved = Counters::read()?.since(before);
    for (name, count) in want {
        let got = moved.get(name)?;
        ensure!(
            got == *count,
            "{name} moved by {got}, not {count}: {:?}",
            moved.moved()
        );
    }
    let refused = want.iter().filter(|(name, _)| name.starts_with("refused_"));
    let expected: u64 = refused.map(|(_, count)| count).sum();
    ensure!(
        moved.refused() == expected,
        "more was refused than {want:?}: {:?}",
        moved.moved()
    );
    Ok(())
}

/// Waits until a counter has moved by so much.
fn await_counter(before: &Counters, name: &str, count: u64) -> Result<()> {
    wait_until(&format!("{count} more of {name}"), || {
        Ok(Counters::read()?.since(before).get(name)? >= count)
    })
}
