// SPDX-License-Identifier: GPL-2.0-only
//! How the bytes travel, and bringing module and policy into the state for it.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use crate::place::Place;

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// TCP, with no policy.
    Plain,
    /// Through the ring, as it comes: a receiver spins for as long as it has learnt.
    Spliced,
    /// Through the ring, no receiver spins of its own accord (`spin_us` is 0).
    NoSpin,
    /// Through the ring, spinning up to 50 µs before sleeping.
    Polled,
    /// An `AF_UNIX` stream.
    Unix,
    /// Two pipes.
    Pipe,
}

/// Busy-poll budget of [`Way::Polled`] in microseconds.
const BUSY_POLL_US: &str = "50";

/// How much of what was sent has to have gone through the ring: what comes before the hand-off goes over TCP.
const SHARE: f64 = 0.9;

impl Way {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::Spliced,
        Self::NoSpin,
        Self::Polled,
        Self::Unix,
        Self::Pipe,
    ];

    /// Those that a message of this program can take at a place: what is no TCP does not care for network namespaces.
    pub fn of_messages(place: Place) -> Vec<Self> {
        let here = |way: &Self| way.is_tcp() || place == Place::Loopback;
        Self::ALL.into_iter().filter(here).collect()
    }

    /// Those of real programs; `unix`: of one that can talk over `AF_UNIX`. Most of them wait in epoll, where nobody spins of his own accord.
    pub fn of_programs(place: Place, unix: bool) -> Vec<Self> {
        let mut ways = vec![Self::Plain, Self::Spliced, Self::Polled];
        if unix && place == Place::Loopback {
            ways.push(Self::Unix);
        }
        ways
    }

    /// True for connections, be they spliced or not.
    pub fn is_tcp(self) -> bool {
        !matches!(self, Self::Unix | Self::Pipe)
    }

    /// True where the bytes have to go through a ring.
    pub fn is_spliced(self) -> bool {
        matches!(self, Self::Spliced | Self::NoSpin | Self::Polled)
    }

    /// As tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain TCP",
            Self::Spliced => "spliced",
            Self::NoSpin => "no spinning",
            Self::Polled => "polled",
            Self::Unix => "AF_UNIX",
            Self::Pipe => "pipe",
        }
    }

    /// Checks by the counters that `bytes` over `links` new links went this way. With `others`, connections that are none of ours use rings, too.
    pub fn prove(self, links: usize, bytes: f64, moved: &Counters, others: bool) -> Result<()> {
        let (ring, pairs) = (moved.get("ring_bytes")?, moved.get("pairs_made")?);
        let all = moved.moved();
        if self.is_spliced() {
            ensure!(
                pairs >= links as u64,
                "{pairs} of {links} connections were paired: {all:?}"
            );
            ensure!(
                ring as f64 >= SHARE * bytes,
                "{ring} of {bytes} bytes went through the ring: {all:?}"
            );
        } else {
            ensure!(pairs == 0, "connections were paired: {all:?}");
            ensure!(ring == 0 || others, "the ring was used: {all:?}");
        }
        Ok(())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the policy in force says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    polled: bool,
    /// All ports where there is none.
    port: Option<u16>,
}

/// Changes ways. Replacing a policy takes its time, so what is in force is remembered.
#[derive(Debug)]
pub struct Switch {
    cgroup: String,
    policy: Option<Policy>,
}

impl Switch {
    /// For the connections of the processes in `cgroup`; until the first change none are offered.
    pub fn new(cgroup: &str) -> Result<Self> {
        policy::disable()?;
        Ok(Self {
            cgroup: cgroup.to_owned(),
            policy: None,
        })
    }

    /// Later connections, or those with one port if one is given, go this way.
    pub fn enter(&mut self, way: Way, port: Option<u16>) -> Result<()> {
        if way.is_spliced() {
            let spin = if way == Way::NoSpin {
                "0"
            } else {
                policy::SPIN_US_DEFAULT
            };
            fs::write(policy::SPIN_US, spin).context("failed to set spin_us")?;
        }
        let polled = way == Way::Polled;
        let wanted = way.is_spliced().then_some(Policy { polled, port });
        if wanted != self.policy {
            match wanted {
                None => policy::disable()?,
                Some(policy) => self.enable(policy)?,
            }
            self.policy = wanted;
        }
        Ok(())
    }

    fn enable(&self, policy: Policy) -> Result<()> {
        let port = policy.port.map(|port| port.to_string());
        let mut options = Vec::new();
        if let Some(port) = &port {
            options.extend(["--ports", port]);
        }
        if policy.polled {
            options.extend(["--busy-poll-us", BUSY_POLL_US]);
        }
        policy::enable_for(&self.cgroup, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: u64, bytes: u64) -> Counters {
        Counters::parse(&format!("pairs_made {pairs}\nring_bytes {bytes}\n")).unwrap()
    }

    #[test]
    fn proofs_can_fail() {
        assert!(
            Way::Spliced
                .prove(2, 1000.0, &counters(2, 900), false)
                .is_ok()
        );
        assert!(
            Way::Spliced
                .prove(2, 1000.0, &counters(2, 800), true)
                .is_err()
        );
        assert!(
            Way::NoSpin
                .prove(2, 1000.0, &counters(1, 900), true)
                .is_err()
        );
        assert!(Way::Plain.prove(2, 1000.0, &counters(0, 0), false).is_ok());
        assert!(Way::Pipe.prove(2, 1000.0, &counters(0, 1), false).is_err());
        assert!(Way::Plain.prove(2, 1000.0, &counters(0, 1), true).is_ok());
        assert!(Way::Unix.prove(2, 1000.0, &counters(1, 0), true).is_err());
    }

    #[test]
    fn only_tcp_crosses_namespaces() {
        assert_eq!(Way::of_messages(Place::Loopback), Way::ALL);
        assert!(Way::of_messages(Place::Netns).into_iter().all(Way::is_tcp));
    }
}
