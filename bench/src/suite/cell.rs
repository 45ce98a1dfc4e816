// SPDX-License-Identifier: GPL-2.0-only
//! What is measured.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::way::Way;
use crate::place::Place;

/// One kind of measurement, which every way does alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Messages that are answered by as many bytes.
    RoundTrip {
        /// of a message
        size: usize,
        /// at work at the same time
        pairs: usize,
    },
    /// Messages one way.
    Stream {
        /// of a message
        size: usize,
        /// at work at the same time
        pairs: usize,
    },
    /// A real program, or one that does as many do.
    Program {
        /// which
        program: Program,
        /// connections that ask
        clients: usize,
    },
}

/// What a program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// redis-benchmark, GET.
    Redis,
    /// wrk asks nginx for a file of 1 KiB.
    Nginx,
    /// The same through another nginx, whose connections to the first are what is spliced.
    NginxProxy,
    /// pgbench, select-only.
    Postgres,
    /// GET of 100 bytes.
    Memcached,
    /// 64 bytes to a server that waits in epoll, and back.
    EpollEcho,
    /// 64 bytes through a proxy that uses splice(2), as Go's do.
    SpliceProxy,
}

/// Sizes of round trips.
pub const TRIP_SIZES: [usize; 5] = [1, 64, 1 << 10, 16 << 10, 64 << 10];
/// Sizes of a stream's messages.
pub const STREAM_SIZES: [usize; 7] = [64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Pairs at work at the same time.
pub const PAIRS: [usize; 4] = [1, 2, 4, 8];

/// What is done with programs, in the order of the tables.
const PROGRAMS: [(Program, usize); 13] = [
    (Program::Redis, 1),
    (Program::Redis, 50),
    (Program::Nginx, 1),
    (Program::Nginx, 50),
    (Program::NginxProxy, 1),
    (Program::NginxProxy, 50),
    (Program::Postgres, 1),
    (Program::Postgres, 8),
    (Program::Memcached, 1),
    (Program::Memcached, 8),
    (Program::EpollEcho, 1),
    (Program::EpollEcho, 8),
    (Program::SpliceProxy, 1),
];

impl Program {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Redis,
        Self::Nginx,
        Self::NginxProxy,
        Self::Postgres,
        Self::Memcached,
        Self::EpollEcho,
        Self::SpliceProxy,
    ];

    /// As tables say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis GET",
            Self::Nginx => "nginx, 1 KiB file",
            Self::NginxProxy => "nginx proxy, upstream",
            Self::Postgres => "PostgreSQL, select",
            Self::Memcached => "memcached GET",
            Self::EpollEcho => "epoll echo, 64 B",
            Self::SpliceProxy => "splice proxy, 64 B",
        }
    }

    /// Can its clients reach its server over `AF_UNIX`? wrk cannot; of a proxy it would be another measurement.
    pub fn talks_unix(self) -> bool {
        match self {
            Self::Redis | Self::Postgres | Self::Memcached | Self::EpollEcho => true,
            Self::Nginx | Self::NginxProxy | Self::SpliceProxy => false,
        }
    }

    fn wanted(self, clients: usize, polled: bool) -> Option<f64> {
        let (spliced, with_polling) = match (self, clients) {
            (Self::Redis, 1) => (1.9, 6.0),
            (Self::Redis, 50) => (2.2, 2.5),
            (Self::Nginx, 1) => (1.5, 3.0),
            _ => return None,
        };
        Some(if polled { with_polling } else { spliced })
    }

    /// The one whose server it takes, which may be another's.
    pub fn server(self) -> Self {
        match self {
            Self::NginxProxy => Self::Nginx,
            other => other,
        }
    }
}

impl Cell {
    /// All of them, in the order in which they are measured.
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for pairs in PAIRS {
            cells.extend(TRIP_SIZES.map(|size| Self::RoundTrip { size, pairs }));
        }
        for pairs in PAIRS {
            cells.extend(STREAM_SIZES.map(|size| Self::Stream { size, pairs }));
        }
        cells.extend(PROGRAMS.map(|(program, clients)| Self::Program { program, clients }));
        cells
    }

    /// How it can be done at a place.
    pub fn ways(self, place: Place) -> Vec<Way> {
        match self {
            Self::Program { program, .. } => Way::of_programs(place, program.talks_unix()),
            _ => Way::of_messages(place),
        }
    }

    /// Connections that it makes at least, when they are connections.
    pub fn links(self) -> usize {
        match self {
            Self::RoundTrip { pairs, .. } | Self::Stream { pairs, .. } => pairs,
            // A proxy that has many clients takes turns with what is behind it.
            Self::Program {
                program: Program::NginxProxy,
                ..
            } => 1,
            Self::Program {
                program: Program::SpliceProxy,
                ..
            } => 2,
            Self::Program { clients, .. } => clients,
        }
    }

    /// What the rate counts.
    pub fn unit(self) -> &'static str {
        match self {
            Self::RoundTrip { .. } => "round trips/s",
            Self::Stream { .. } => "MB/s",
            Self::Program { .. } => "requests/s",
        }
    }

    /// The factor against plain TCP that this project wants at least in an emulated guest, where it has said one; for one pair.
    pub fn wanted(self, way: Way) -> Option<f64> {
        use Way::{NoSpin, Polled, Spliced};
        match (self, way) {
            (Self::RoundTrip { size: 1, pairs: 1 }, NoSpin) => Some(2.5),
            (Self::RoundTrip { size: 1, pairs: 1 }, Spliced) => Some(8.0),
            (Self::RoundTrip { size: 1, pairs: 1 }, Polled) => Some(28.0),
            (Self::RoundTrip { size, pairs: 1 }, _) => trips_wanted(size, way),
            (Self::Stream { size, pairs: 1 }, Spliced) => {
                [64 << 10, 256 << 10].contains(&size).then_some(2.2)
            }
            (Self::Program { program, clients }, Spliced | Polled) => {
                program.wanted(clients, way == Polled)
            }
            _ => None,
        }
    }

    /// What it is told apart by among those of its kind with as many pairs.
    pub fn label(self) -> String {
        match self {
            Self::RoundTrip { size, .. } | Self::Stream { size, .. } => bytes(size),
            Self::Program { program, clients } => format!("{} ({clients})", program.name()),
        }
    }
}

/// Of larger round trips than those of a byte.
fn trips_wanted(size: usize, way: Way) -> Option<f64> {
    match (size, way) {
        (1024, Way::Polled) => Some(12.0),
        (16_384, Way::Polled) => Some(3.0),
        (65_536, Way::Polled) => Some(2.6),
        (65_536, Way::Spliced) => Some(2.3),
        _ => None,
    }
}

/// A size in words: 1 B, 16 KiB, 1 MiB.
pub fn bytes(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// A count with its word: 1 pair, 8 pairs.
pub fn counted(count: usize, word: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {word}{plural}")
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::RoundTrip { size, pairs } => {
                format!("round trip {}, {}", bytes(*size), counted(*pairs, "pair"))
            }
            Self::Stream { size, pairs } => {
                format!("stream {}, {}", bytes(*size), counted(*pairs, "pair"))
            }
            Self::Program { program, clients } => {
                format!("{}, {}", program.name(), counted(*clients, "client"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_measured() {
        for program in Program::ALL {
            assert!(PROGRAMS.iter().any(|(measured, _)| *measured == program));
        }
    }

    #[test]
    fn names_tell_cells_apart() {
        let mut names: Vec<_> = Cell::all().iter().map(Cell::to_string).collect();
        assert!(names.contains(&"round trip 64 B, 1 pair".to_owned()));
        assert!(names.contains(&"stream 1 MiB, 8 pairs".to_owned()));
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
