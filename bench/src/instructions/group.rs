// SPDX-License-Identifier: GPL-2.0-only
//! Operations in several cases each, of which the first is what the others are compared with.

use std::fmt;

use anyhow::Result;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use super::cell::{Cell, Way};
use super::sockets::Listener;
use super::{over_one, window};
use crate::costs::connections::{Place, ask};
use crate::costs::crowd::Crowd;
use crate::costs::kind::Kind;
use crate::costs::list;
use crate::costs::team::{Team, Work};

/// Operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Connect, request, response, close.
    Connection,
    /// The same as netperf does it, with all that it does besides.
    Crr,
    /// A round trip while so many pairs exist.
    Among,
    /// A round trip while so many pairs make them.
    AtOnce,
    /// A pair in the list of all.
    List,
}

/// A case of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A connection of this kind.
    Connection(Kind),
    /// A transaction of netperf over a connection of this kind.
    Crr(Kind),
    /// So many pairs exist besides the one that is measured.
    Among(usize),
    /// So many pairs are measured.
    AtOnce(Way, usize),
    /// The module's own list of so many.
    List(usize),
    /// The control tool's.
    ToolsList(usize),
}

/// Bytes of a message.
const SIZE: usize = 64;
/// Connections in a window: RCU's callbacks of earlier ones are to be spread over it.
const CONNECTIONS: usize = 300;
/// Transactions of netperf in a window, of which a hundredth at most is its beginning and its end.
const TRANSACTIONS: usize = 1000;
/// Round trips of each pair in a window.
const ROUND_TRIPS: usize = 250;

impl Group {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [
        Self::Connection,
        Self::Crr,
        Self::Among,
        Self::AtOnce,
        Self::List,
    ];

    /// The operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connect, 64 B each way, close",
            Self::Crr => "transaction of netperf TCP_CRR, 64 B",
            Self::Among => "round trip, 64 B, among idle pairs",
            Self::AtOnce => "round trip, 64 B, several pairs at once",
            Self::List => "pair in the list",
        }
    }

    /// Its cases.
    pub fn cases(self) -> Vec<Case> {
        match self {
            Self::Connection => Kind::ALL.map(Case::Connection).into(),
            Self::Crr => [Kind::Absent, Kind::ClientOnly, Kind::Spliced]
                .map(Case::Crr)
                .into(),
            Self::Among => [10, 1000, 10_000, 100_000].map(Case::Among).into(),
            Self::AtOnce => [Way::Plain, Way::Spliced]
                .into_iter()
                .flat_map(|way| [1, 2, 4, 8].map(|pairs| Case::AtOnce(way, pairs)))
                .collect(),
            Self::List => [Case::List, Case::ToolsList]
                .into_iter()
                .flat_map(|case| [1000, 10_000].map(case))
                .collect(),
        }
    }
}

impl Case {
    /// Operations in a window.
    pub fn operations(self) -> usize {
        match self {
            Self::Connection(_) => CONNECTIONS,
            Self::Crr(_) => TRANSACTIONS,
            Self::Among(_) => Cell::RoundTrip(SIZE).operations(),
            Self::AtOnce(_, pairs) => pairs * ROUND_TRIPS,
            Self::List(pairs) | Self::ToolsList(pairs) => pairs,
        }
    }

    /// All windows, and the proof that they were what they are said to be.
    pub fn run(self, mut windows: impl ExactSizeIterator<Item = bool>) -> Result<()> {
        match self {
            Self::Connection(kind) => {
                let all = windows.len() * CONNECTIONS;
                Place::new()?.connections(kind, all, |address| {
                    windows.try_for_each(|counted| window(counted, || ask(address, CONNECTIONS)))
                })
            }
            Self::Crr(kind) => Place::new()?.netperf(kind, TRANSACTIONS, windows.len(), |once| {
                windows.try_for_each(|counted| window(counted, once))
            }),
            Self::Among(pairs) => {
                policy::restore()?;
                let crowd = Crowd::new(pairs)?;
                let listener = Listener::new(Way::Spliced)?;
                let before = Counters::read()?;
                let cell = Cell::RoundTrip(SIZE);
                let all = windows.len() * cell.bytes();
                over_one(cell, &listener, windows)?;
                super::prove(Way::Spliced, all, &Counters::read()?.since(&before))?;
                crowd.close()
            }
            Self::AtOnce(way, pairs) => {
                policy::restore()?;
                way.enter()?;
                let before = Counters::read()?;
                let mut team = Team::new(pairs, Work::RoundTrips(SIZE, ROUND_TRIPS))?;
                let all = windows.len() * team.bytes();
                windows.try_for_each(|counted| window(counted, || team.turn()))?;
                team.end()?;
                super::prove(way, all, &Counters::read()?.since(&before))
            }
            Self::List(pairs) | Self::ToolsList(pairs) => {
                policy::restore()?;
                let crowd = Crowd::new(pairs)?;
                let list = match self {
                    Self::List(_) => list::module,
                    _ => list::tool,
                };
                windows.try_for_each(|counted| window(counted, || list(pairs)))?;
                crowd.close()
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(kind) | Self::Crr(kind) => f.write_str(kind.name()),
            Self::Among(pairs) => write!(f, "{pairs} pairs"),
            Self::List(pairs) => write!(f, "{}, {pairs} pairs", list::PATH),
            Self::ToolsList(pairs) => write!(f, "tcp-splice-ctl list --json, {pairs} pairs"),
            Self::AtOnce(way, 1) => write!(f, "{}, 1 pair", way.name()),
            Self::AtOnce(way, pairs) => write!(f, "{}, {pairs} pairs", way.name()),
        }
    }
}
