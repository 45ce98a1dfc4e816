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

/// Where it lists pairs.
const PAIRS: &str = "/proc/net/tcp_splice";

/// How many of them a message shows.
const SHOWN: usize = 5;

/// How often they are looked at while something is left.
const GLANCE: Duration = Duration::from_secs(1);

/// How long TCP may keep a socket that was closed. One that has bytes left for a peer without room asks it now and then, at intervals that
/// double; the peer, closed too, answers from TIME-WAIT for a minute (`TCP_TIMEWAIT_LEN`), and the next question gets a reset
/// (`tcp_probe_timer()`). Plain TCP has the same.
const ORPHANS: Duration = Duration::from_secs(240);

/// The states in which TCP keeps it (include/net/tcp_states.h): FIN-WAIT-1, FIN-WAIT-2, LAST-ACK, CLOSING.
const CLOSING: [&str; 4] = ["4", "5", "9", "11"];

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

/// Waits until no more pairs, endpoints and ring memory are alive than in `before`. Frees are delayed by RCU, so this takes a moment; for
/// ends that TCP itself keeps it takes up to [`ORPHANS`].
pub fn settle(before: &Counters, limit: Duration) -> Result<()> {
    let begin = Instant::now();
    // When it was last only TCP that kept anything.
    let (mut excused, mut looked, mut told) = (begin, begin, false);
    loop {
        let now = Counters::read()?;
        let left = left(before, &now)?;
        if left.is_empty() {
            return Ok(());
        }
        let overdue = excused.elapsed() > limit || begin.elapsed() > ORPHANS + limit;
        if overdue || looked.elapsed() > GLANCE {
            let list = fs::read_to_string(PAIRS)
                .with_context(|| format!("failed to read {PAIRS} with {left} left over"))?;
            let shown: Vec<_> = list.lines().take(SHOWN).collect();
            let shown = shown.join("\n# ");
            if overdue {
                bail!("left over after {:.0?}: {left}\n# {shown}", begin.elapsed());
            }
            looked = Instant::now();
            if are_orphans(&list, before, &now)? {
                excused = looked;
                if !told && begin.elapsed() > limit {
                    println!("# TCP has not done with these yet:\n# {shown}");
                    told = true;
                }
            }
        }
        sleep(Duration::from_millis(5));
    }
}

/// What there is more of than in `before`.
fn left(before: &Counters, now: &Counters) -> Result<String> {
    let mut left = Vec::new();
    for name in GAUGES {
        let (was, is) = (before.get(name)?, now.get(name)?);
        if is > was {
            left.push(format!("{name} {is}, was {was}"));
        }
    }
    Ok(left.join("; "))
}

/// All that is left is pairs of which each end that is still there is such a socket.
fn are_orphans(list: &str, before: &Counters, now: &Counters) -> Result<bool> {
    let ends: Vec<usize> = list.lines().filter_map(orphans).collect();
    let more = |name| anyhow::Ok(now.get(name)?.saturating_sub(before.get(name)?));
    Ok(more("pairs_alive")? <= ends.len() as u64
        && more("endpoints_alive")? <= ends.iter().sum::<usize>() as u64)
}

/// How many closed sockets a pair consists of; none if it has another one, or no socket at all.
fn orphans(line: &str) -> Option<usize> {
    let field = |name: &str| {
        let mut fields = line.split_whitespace();
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let ends: Vec<_> = ["client", "server"]
        .into_iter()
        .filter_map(|end| {
            let state = field(&format!("{end}.tcp_state"))?;
            Some(field(&format!("{end}.inode")) == Some("0") && CLOSING.contains(&state))
        })
        .collect();
    (!ends.is_empty() && ends.iter().all(|orphan| *orphan)).then_some(ends.len())
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
    fn tells_orphans_from_leaks() {
        let count = |pairs, endpoints| {
            Counters::parse(&format!(
                "pairs_alive {pairs}\nendpoints_alive {endpoints}\n"
            ))
            .unwrap()
        };
        let closed = "id=1 client.inode=0 client.tcp_state=11 client.stalls=0 server.stalls=0\n";
        let open = "id=2 client.inode=7 client.tcp_state=1 server.inode=0 server.tcp_state=9\n";
        let gone = "id=3 client.stalls=0 server.stalls=0\n";
        let destroyed = "id=4 client.inode=0 client.tcp_state=7\n";
        let seen = |list: &str, now| are_orphans(list, &count(0, 0), &now).unwrap();
        assert!(seen(closed, count(1, 1)));
        assert!(!seen(closed, count(1, 2)));
        assert!(!seen(closed, count(2, 2)));
        for other in [open, gone, destroyed] {
            assert!(!seen(other, count(1, 1)));
            assert!(!seen(&format!("{closed}{other}"), count(2, 2)));
        }
        let open_before = are_orphans(&format!("{open}{closed}"), &count(1, 2), &count(2, 3));
        assert!(open_before.unwrap());
    }

    #[test]
    fn refuses_nonsense() {
        assert!(Counters::parse("ring_bytes\n").is_err());
        assert!(Counters::parse("ring_bytes -1\n").is_err());
    }
}
