// SPDX-License-Identifier: GPL-2.0-only
//! What is counted, and how the bytes travel.

use std::fmt;

use anyhow::Result;
use tcp_splice_world::policy;

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A request and a response of so many bytes, by blocking calls.
    RoundTrip(usize),
    /// The same, with a server that waits in `epoll_wait()`, level-triggered.
    Epoll(usize),
    /// `poll()` and `recv()` of so many bytes that have arrived.
    Ready(usize),
    /// Writes of so many bytes; one operation is a KiB.
    Stream(usize),
    /// A connection for one request and one response of so many bytes.
    Connection(usize),
}

/// Bytes of stream in a window, at most.
const STREAM: usize = 16 << 20;

impl Cell {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 12] = [
        Self::RoundTrip(1),
        Self::RoundTrip(64),
        Self::RoundTrip(1024),
        Self::RoundTrip(16_384),
        Self::RoundTrip(65_536),
        Self::Epoll(64),
        Self::Ready(64),
        Self::Stream(64),
        Self::Stream(1024),
        Self::Stream(16_384),
        Self::Stream(65_536),
        Self::Connection(64),
    ];

    /// Size of one message.
    pub fn size(self) -> usize {
        match self {
            Self::RoundTrip(size)
            | Self::Epoll(size)
            | Self::Ready(size)
            | Self::Stream(size)
            | Self::Connection(size) => size,
        }
    }

    /// How many messages the client sends in a window: enough that the timer's interrupts do not show.
    pub fn messages(self) -> usize {
        match self {
            Self::RoundTrip(_) | Self::Epoll(_) => 500,
            // As many as an AF_UNIX socket holds.
            Self::Ready(_) => 200,
            Self::Stream(size) => (STREAM / size).min(4096),
            // RCU's callbacks of earlier ones are to be spread over the window.
            Self::Connection(_) => 300,
        }
    }

    /// False for what the way cannot do: nobody connects to a pipe.
    pub fn goes(self, way: Way) -> bool {
        !matches!((self, way), (Self::Connection(_), Way::Pipe))
    }

    /// Windows before those that are counted. TCP takes its time to settle on the size of its own.
    pub fn warm_up(self, way: Way) -> usize {
        match (self, way) {
            (Self::Stream(_), Way::Plain) => 20,
            _ => 2,
        }
    }

    /// How many operations that is.
    pub fn operations(self) -> usize {
        match self {
            Self::Stream(size) => self.messages() * size / 1024,
            _ => self.messages(),
        }
    }

    /// The least that has to go through the ring in a window of a spliced connection.
    pub fn bytes(self) -> usize {
        let ways = match self {
            Self::Stream(_) | Self::Ready(_) => 1,
            _ => 2,
        };
        self.messages() * self.size() * ways
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = match self.size() {
            small @ ..1024 => format!("{small} B"),
            large => format!("{} KiB", large / 1024),
        };
        f.pad(&match self {
            Self::RoundTrip(_) => format!("round trip, {size}"),
            Self::Epoll(_) => format!("round trip, {size}, epoll"),
            Self::Ready(_) => format!("poll and recv, {size}"),
            Self::Stream(_) => format!("KiB of stream, {size} writes"),
            Self::Connection(_) => format!("connection, {size} each way"),
        })
    }
}

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// TCP over loopback, with no policy.
    Plain,
    /// The same, through the ring.
    Spliced,
    /// An `AF_UNIX` stream.
    Unix,
    /// Two pipes.
    Pipe,
}

impl Way {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Spliced, Self::Unix, Self::Pipe];

    /// Puts the policy for later connections in force.
    pub fn enter(self) -> Result<()> {
        match self {
            Self::Spliced => policy::enable(&[]),
            Self::Plain | Self::Unix | Self::Pipe => policy::disable(),
        }
    }

    /// As the results say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Spliced => "spliced",
            Self::Unix => "unix",
            Self::Pipe => "pipe",
        }
    }
}
