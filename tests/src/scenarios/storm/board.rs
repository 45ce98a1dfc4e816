// SPDX-License-Identifier: GPL-2.0-only
//! What the processes of a storm tell each other.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail, ensure};
use tcp_splice_world::shared;

use super::deeds::Deed;

/// Most players of a storm at once.
pub const PLAYERS: usize = 8;

const STOP: usize = 0;
const WRONG: usize = 1;
const LOOKS: usize = 2;
const RUNS: usize = 3;
const MEDDLED: usize = 4;
const RING_BYTES: usize = 5;
const INSIDE: usize = 6;
const PIDS: usize = 8;
const DEEDS: usize = PIDS + PLAYERS;
const WORDS: usize = DEEDS + Deed::ALL.len();

/// A byte that has no business where it was found.
const WRONG_BIT: u64 = 1 << 63;

/// Words in memory that all processes of a storm share.
#[derive(Clone, Copy, Debug)]
pub struct Board(&'static [AtomicU64]);

impl Board {
    pub fn new() -> Result<Self> {
        Ok(Self(shared::words(WORDS)?))
    }

    fn add(&self, index: usize, count: u64) {
        self.0[index].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    /// Everybody is to come to an end.
    pub fn stop(&self) {
        self.0[STOP].store(1, Ordering::Relaxed);
    }

    pub fn stopped(&self) -> bool {
        self.get(STOP) != 0 || self.get(WRONG) != 0
    }

    /// Takes note of a deed that was done, not only tried.
    pub fn did(&self, deed: Deed) {
        self.add(DEEDS + deed as usize, 1);
    }

    /// A byte that does not belong to its connection ends the storm.
    pub fn found(&self, deed: Deed, want: u8, got: u8) {
        let what = WRONG_BIT | (deed as u64) << 16 | u64::from(want) << 8 | u64::from(got);
        let _ = self.0[WRONG].compare_exchange(0, what, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// An error when a byte was found where it has no business.
    pub fn no_strangers(&self) -> Result<()> {
        match self.get(WRONG) {
            0 => Ok(()),
            what => {
                let deed = Deed::ALL[(what >> 16) as usize & 0xff];
                let (want, got) = (what >> 8 & 0xff, what & 0xff);
                bail!(
                    "{deed:?} gave a byte of another connection: {got:#04x} instead of {want:#04x}"
                )
            }
        }
    }

    /// The walkers have read what there is once more.
    pub fn looked(&self) {
        self.add(LOOKS, 1);
    }

    /// The walkers have looked into one more namespace of those that come and go.
    pub fn looked_inside(&self) {
        self.add(INSIDE, 1);
    }

    /// How many namespaces they have looked into.
    pub fn times_inside(&self) -> u64 {
        self.get(INSIDE)
    }

    /// The walkers have run the programs once more.
    pub fn ran(&self) {
        self.add(RUNS, 1);
    }

    /// Whoever meddles has done so once more.
    pub fn meddled(&self) {
        self.add(MEDDLED, 1);
    }

    pub fn times_meddled(&self) -> u64 {
        self.get(MEDDLED)
    }

    /// Bytes through rings of a module that was unloaded since.
    pub fn add_ring_bytes(&self, bytes: u64) {
        self.add(RING_BYTES, bytes);
    }

    pub fn ring_bytes(&self) -> u64 {
        self.get(RING_BYTES)
    }

    /// The process that plays part `index`, 0 for none.
    pub fn set_player(&self, index: usize, pid: i32) {
        self.0[PIDS + index].store(pid as u64, Ordering::Relaxed);
    }

    pub fn players(&self) -> Vec<i32> {
        let all = (0..PLAYERS).map(|index| self.get(PIDS + index) as i32);
        all.filter(|&pid| pid != 0).collect()
    }

    /// An error unless each of `deeds` was done, and the walkers have walked.
    pub fn all_done(&self, deeds: &[Deed]) -> Result<()> {
        let never: Vec<_> = deeds
            .iter()
            .filter(|&&deed| self.get(DEEDS + deed as usize) == 0)
            .collect();
        ensure!(never.is_empty(), "never done: {never:?}; {self}");
        ensure!(
            self.get(LOOKS) > 0 && self.get(RUNS) > 0,
            "nobody looked on: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &deed in Deed::ALL {
            write!(f, "{deed:?} {}, ", self.get(DEEDS + deed as usize))?;
        }
        write!(
            f,
            "looked {}, and into {} namespaces, ran {}, meddled {}",
            self.get(LOOKS),
            self.get(INSIDE),
            self.get(RUNS),
            self.get(MEDDLED)
        )
    }
}
