// SPDX-License-Identifier: GPL-2.0-only
//! What is measured, how it travels, and what the project promises for it.

use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tcp_splice_world::policy;

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// netperf TCP_RR with request and response of so many bytes.
    Rr(u32),
    /// netperf TCP_STREAM with sends of so many bytes.
    Stream(u32),
    /// redis-benchmark GET with so many clients.
    Redis(u32),
}

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Over TCP, with no policy.
    Plain,
    /// Through the ring.
    Spliced,
    /// Through the ring, spinning up to 50 µs before sleeping.
    Polled,
}

/// Busy-poll budget of [`Mode::Polled`] in microseconds.
const BUSY_POLL_US: &str = "50";

impl Mode {
    /// All modes, in the order of a round.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Spliced, Self::Polled];

    /// Puts the policy for later connections in force.
    pub fn enter(self) -> Result<()> {
        match self {
            Self::Plain => policy::disable(),
            Self::Spliced => policy::enable(&[]),
            Self::Polled => policy::enable(&["--busy-poll-us", BUSY_POLL_US]),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plain => "plain",
            Self::Spliced => "spliced",
            Self::Polled => "polled",
        })
    }
}

/// A size in words: 1 B, 16 KB.
fn size(bytes: u32) -> String {
    if bytes < 1024 {
        format!("{bytes} B")
    } else {
        format!("{} KB", bytes / 1024)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Rr(bytes) => format!("TCP_RR {}", size(*bytes)),
            Self::Stream(bytes) => format!("TCP_STREAM {}", size(*bytes)),
            Self::Redis(1) => "redis GET, 1 client".to_owned(),
            Self::Redis(clients) => format!("redis GET, {clients} clients"),
        };
        f.pad(&text)
    }
}

impl Cell {
    /// Everything that is measured between namespaces, in the order of the tables.
    const COMMON: [Self; 11] = [
        Self::Rr(1),
        Self::Rr(64),
        Self::Rr(1024),
        Self::Rr(16384),
        Self::Rr(65536),
        Self::Stream(1024),
        Self::Stream(4096),
        Self::Stream(16384),
        Self::Stream(65536),
        Self::Redis(1),
        Self::Redis(50),
    ];

    /// What is measured at a place; loopback has one size more.
    pub fn of_place(loopback: bool) -> Vec<Self> {
        let mut cells = Self::COMMON.to_vec();
        if loopback {
            cells.insert(9, Self::Stream(262_144));
        }
        cells
    }

    /// What the rate counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Rr(_) => "transactions/s",
            Self::Stream(_) => "MB/s",
            Self::Redis(_) => "requests/s",
        }
    }

    /// What the rate counts, in few letters.
    pub fn short_unit(self) -> &'static str {
        match self {
            Self::Rr(_) => "trans/s",
            Self::Stream(_) => "MB/s",
            Self::Redis(_) => "req/s",
        }
    }

    /// Short name for the chart's axis.
    pub fn short(self) -> String {
        match self {
            Self::Rr(bytes) | Self::Stream(bytes) => size(bytes),
            Self::Redis(clients) => format!("{clients}"),
        }
    }

    /// Name of the group of cells that the chart shows side by side.
    pub fn group(self) -> &'static str {
        match self {
            Self::Rr(_) => "TCP_RR",
            Self::Stream(_) => "TCP_STREAM",
            Self::Redis(_) => "redis GET (clients)",
        }
    }

    /// Do its rates depend so much on what else the host does that those to be compared have to be measured at once?
    pub fn is_unsteady(self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// The factor against plain TCP that this project wants at least, where it has said one.
    pub fn target(self, mode: Mode) -> Option<f64> {
        match (mode, self) {
            (Mode::Plain, _) => None,
            (Mode::Spliced, Self::Rr(bytes)) => Some(if bytes < 65536 { 2.1 } else { 2.0 }),
            (Mode::Polled, Self::Rr(1)) => Some(25.0),
            (Mode::Polled, Self::Rr(1024)) => Some(10.0),
            (Mode::Polled, Self::Rr(16384)) => Some(2.7),
            (Mode::Polled, Self::Rr(65536)) => Some(2.3),
            (Mode::Spliced, Self::Stream(1024)) => Some(1.5),
            (Mode::Spliced, Self::Stream(16384..)) => Some(1.9),
            (_, Self::Stream(_)) => Some(1.0),
            (Mode::Spliced, Self::Redis(1)) => Some(1.7),
            (Mode::Spliced, Self::Redis(50)) => Some(2.2),
            (_, Self::Rr(_) | Self::Redis(_)) => None,
        }
    }
}
