// SPDX-License-Identifier: GPL-2.0-only
//! Lengths of messages for random programs: as often tiny as large.

use fastrand::Rng;

/// What most messages are shorter than.
const MOST: [usize; 6] = [1, 60, 700, 5000, 9000, 70_000];

/// The length of a message, at least 1.
pub fn length(rng: &mut Rng) -> usize {
    let most = MOST[rng.usize(..MOST.len())];
    rng.usize(1..=most)
}
