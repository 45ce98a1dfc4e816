// SPDX-License-Identifier: GPL-2.0-only
//! The module's counters, as read from `/proc/net/tcp_splice_stat`.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// Where the module shows its counters; only in the initial network namespace.
pub const PATH: &str = "/proc/net/tcp_splice_stat";

/// Counters that say what exists now rather than what has happened so far.
const GAUGES: [&str; 3] = ["pairs_alive", "endpoints_alive", "ring_kbytes_alive"];

/// One reading of all counters, or the difference of two readings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads the counters of the loaded module.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(PATH).with_context(|| format!("failed to read {PATH}"))?;
        Self::parse(&text)
    }

    /// Parses the lines of the counter file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut counters = BTreeMap::new();
        for line in text.lines() {
            let (name, value) = line
                .split_once(' ')
                .with_context(|| format!("failed to parse counter line {line:?}"))?;
            let value = value
                .trim()
                .parse()
                .with_context(|| format!("failed to parse value of counter {name}"))?;
            counters.insert(name.to_owned(), value);
        }
        Ok(Self(counters))
    }

    /// The value of one counter; a missing one is an error, since names are part of the contract.
    pub fn get(&self, name: &str) -> Result<u64> {
        self.0
            .get(name)
            .copied()
            .with_context(|| format!("counter {name} is missing from {PATH}"))
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many offers were refused, for all reasons together.
    pub fn refused(&self) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| name.starts_with("refused_"))
            .map(|(_, value)| value)
            .sum()
    }

    /// What happened since `earlier`. Gauges that went down count as 0.
    pub fn since(&self, earlier: &Self) -> Self {
        let change = |(name, value): (&String, &u64)| {
            let before = earlier.0.get(name).copied().unwrap_or(0);
            (name.clone(), value.saturating_sub(before))
        };
        Self(self.0.iter().map(change).collect())
    }

    /// The counters that are not 0, for messages and reports.
    pub fn moved(&self) -> BTreeMap<String, u64> {
        let moved = self.0.iter().filter(|(_, value)| **value != 0);
        moved.map(|(name, value)| (name.clone(), *value)).collect()
    }
}

/// Waits until no more pairs, endpoints and ring memory are alive than in `before`. Frees are delayed by RCU, so this takes a moment.
pub fn settle(before: &Counters, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let now = Counters::read()?;
        let mut left = Vec::new();
        for name in GAUGES {
            let (was, is) = (before.get(name)?, now.get(name)?);
            if is > was {
                left.push(format!("{name} {is}, was {was}"));
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("left over after {limit:?}: {}", left.join("; "));
        }
        sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_in_any_order() {
        let counters =
            Counters::parse("ring_bytes 12\npairs_made 3\nrefused_a 1\nrefused_b 2\n").unwrap();
        assert_eq!(counters.get("pairs_made").unwrap(), 3);
        assert_eq!(counters.refused(), 3);
        assert!(counters.get("tcp_bytes").is_err());
    }

    #[test]
    fn takes_differences() {
        let before = Counters::parse("ring_bytes 12\npairs_alive 3\n").unwrap();
        let after = Counters::parse("ring_bytes 20\npairs_alive 1\n").unwrap();
        let delta = after.since(&before);
        assert_eq!(delta.get("ring_bytes").unwrap(), 8);
        assert_eq!(delta.get("pairs_alive").unwrap(), 0);
        assert_eq!(delta.moved().len(), 1);
    }

    #[test]
    fn refuses_nonsense() {
        assert!(Counters::parse("ring_bytes\n").is_err());
        assert!(Counters::parse("ring_bytes -1\n").is_err());
    }
}
