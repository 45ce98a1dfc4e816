// SPDX-License-Identifier: GPL-2.0-only
//! Kinds of connections, by what the module has to do with them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

/// What the module has to do with a connection. The first is what the others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The module is not loaded.
    Absent,
    /// It is, but no policy is in force.
    NoPolicy,
    /// The policy lists other ports.
    NotOffered,
    /// The connecting end is offered; the listener is in a cgroup without policy.
    ClientOnly,
    /// The accepting end asks for an offer that nobody made.
    ServerOnly,
    /// Both ends are offered.
    Spliced,
}

/// A detached policy holds the module for a moment, and so do connections that were just closed.
const UNLOAD: Duration = Duration::from_secs(30);

impl Kind {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 6] = [
        Self::Absent,
        Self::NoPolicy,
        Self::NotOffered,
        Self::ClientOnly,
        Self::ServerOnly,
        Self::Spliced,
    ];

    /// As tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "module not loaded",
            Self::NoPolicy => "no policy",
            Self::NotOffered => "port not listed",
            Self::ClientOnly => "client's end offered",
            Self::ServerOnly => "server's end offered",
            Self::Spliced => "spliced",
        }
    }

    /// Brings module and policy into the state for later connections between `sides`.
    pub fn enter(self, sides: &Sides) -> Result<()> {
        if self == Self::Absent {
            if policy::loaded() {
                policy::disable()?;
                policy::unload(UNLOAD)?;
            }
            return Ok(());
        }
        policy::load()?;
        // One cgroup's policy goes before another's comes.
        policy::disable()?;
        match self {
            Self::Absent | Self::NoPolicy => Ok(()),
            Self::NotOffered => policy::enable_for(&sides.both, &["--ports", "1"]),
            Self::ClientOnly => policy::enable_for(&sides.client, &[]),
            Self::ServerOnly => policy::enable_for(&sides.server, &[]),
            Self::Spliced => policy::enable_for(&sides.both, &[]),
        }
    }

    /// The counters now; none without the module.
    pub fn counters(self) -> Result<Counters> {
        match self {
            Self::Absent => Ok(Counters::default()),
            _ => Counters::read(),
        }
    }

    /// Checks that `connections` of this kind, which carried `bytes`, did to the counters what they had to.
    pub fn prove(self, connections: usize, bytes: usize, moved: &Counters) -> Result<()> {
        if self == Self::Absent {
            ensure!(!policy::loaded(), "the module is loaded");
            return Ok(());
        }
        let (connections, bytes) = (connections as u64, bytes as u64);
        let (offers, refusals, pairs) = match self {
            Self::Absent | Self::NoPolicy | Self::NotOffered => (0, 0, 0),
            Self::ClientOnly => (connections, 0, 0),
            Self::ServerOnly => (0, connections, 0),
            Self::Spliced => (connections, 0, connections),
        };
        let ring = moved.get("ring_bytes")?;
        let went_right = match self {
            Self::Spliced => ring >= bytes * 99 / 100,
            _ => ring == 0,
        };
        let right = went_right
            && moved.get("offers_made")? == offers
            && moved.refused() == refusals
            && moved.get("pairs_made")? == pairs;
        ensure!(
            right,
            "{connections} connections ({}) with {bytes} bytes did this to the counters: {:?}",
            self.name(),
            moved.moved()
        );
        Ok(())
    }
}

/// A cgroup for each side, so that a policy can take one and leave the other; removed when this is dropped.
#[derive(Debug)]
pub struct Sides {
    /// holds the other two
    both: String,
    /// of the connecting ends
    client: String,
    /// of the listeners, and so of what they accept
    server: String,
}

impl Sides {
    /// Makes them. This process stays where it is.
    pub fn new() -> Result<Self> {
        let both = format!("{}/tcp-splice-costs", policy::ROOT_CGROUP);
        let sides = Self {
            client: format!("{both}/client"),
            server: format!("{both}/server"),
            both,
        };
        for path in [&sides.client, &sides.server] {
            fs::create_dir_all(path).with_context(|| format!("failed to make {path}"))?;
        }
        Ok(sides)
    }

    /// Does `work`, whose sockets belong to the connecting side.
    pub fn as_client<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        within(&self.client, work)
    }

    /// Does `work`, whose sockets belong to the accepting side.
    pub fn as_server<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        within(&self.server, work)
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        for path in [&self.client, &self.server, &self.both] {
            let _ = fs::remove_dir(path);
        }
    }
}

fn within<T>(cgroup: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    enter(cgroup)?;
    let done = work();
    enter(policy::ROOT_CGROUP)?;
    done
}

/// Moves this process.
fn enter(cgroup: &str) -> Result<()> {
    fs::write(format!("{cgroup}/cgroup.procs"), "0")
        .with_context(|| format!("failed to enter {cgroup}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(offers: u64, refused: u64, pairs: u64, bytes: u64) -> Counters {
        Counters::parse(&format!(
            "offers_made {offers}\nrefused_x {refused}\npairs_made {pairs}\nring_bytes {bytes}\n"
        ))
        .unwrap()
    }

    #[test]
    fn proofs_tell_the_kinds_apart() {
        let traces = [
            (Kind::NotOffered, counters(0, 0, 0, 0)),
            (Kind::ClientOnly, counters(5, 0, 0, 0)),
            (Kind::ServerOnly, counters(0, 5, 0, 0)),
            (Kind::Spliced, counters(5, 0, 5, 640)),
        ];
        for (kind, _) in &traces {
            for (other, trace) in &traces {
                assert_eq!(kind.prove(5, 640, trace).is_ok(), kind == other, "{kind:?}");
            }
        }
    }
}
