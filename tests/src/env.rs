// SPDX-License-Identifier: GPL-2.0-only
//! What a scenario gets, and what it claims afterwards about the counters.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use tcp_splice_world::counters::{self, Counters};
pub use tcp_splice_world::waiting::{SOON, wait_until};

use crate::link::Link;
use crate::sys;

/// How many one-byte round trips a new connection may need until both directions use the ring.
const WARM_UP: usize = 64;

/// How many connections may be made until one needs no segment twice.
const TRIES: usize = 5;

/// Over what the scenarios run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plain TCP, without the module: shows that a scenario itself is right.
    Plain,
    /// Spliced, with proof by counters.
    Spliced,
}

/// The two ends of a connection.
#[derive(Debug)]
pub struct Conn {
    /// The end that called connect(2).
    pub client: TcpStream,
    /// The end that accept(2) returned.
    pub server: TcpStream,
}

/// A scenario's surroundings.
#[derive(Debug)]
pub struct Env {
    /// Over what it runs.
    pub mode: Mode,
    /// Where its connections run.
    pub link: Link,
}

impl Env {
    /// True when the module has to be in use.
    pub fn spliced(&self) -> bool {
        self.mode == Mode::Spliced
    }

    /// A connection that carried nothing yet, and its listener.
    pub fn cold(&self) -> Result<Conn> {
        let listener = self.link.listen()?;
        self.cold_from(&listener)
    }

    /// A connection to `listener` that carried nothing yet.
    pub fn cold_from(&self, listener: &TcpListener) -> Result<Conn> {
        let client = self.link.connect(listener)?;
        let (server, _) = listener.accept().context("failed to accept")?;
        let conn = Conn { client, server };
        conn.client.set_nodelay(true)?;
        conn.server.set_nodelay(true)?;
        Ok(conn)
    }

    /// So many connections that carried nothing yet.
    pub fn many_cold(&self, count: usize) -> Result<Vec<Conn>> {
        let listener = self.link.listen()?;
        (0..count).map(|_| self.cold_from(&listener)).collect()
    }

    /// So many connections whose directions both use the ring.
    pub fn many(&self, count: usize) -> Result<Vec<Conn>> {
        let listener = self.link.listen()?;
        (0..count).map(|_| self.conn_from(&listener)).collect()
    }

    /// A connection whose directions both use the ring.
    pub fn conn(&self) -> Result<Conn> {
        let listener = self.link.listen()?;
        self.conn_from(&listener)
    }

    /// A connection to `listener` whose directions both use the ring. A guest that stood still has its SYN-ACK sent again, with another
    /// transmit hash (`tcp_rtx_synack()`), and then the ends do not know each other: that one is not meant.
    pub fn conn_from(&self, listener: &TcpListener) -> Result<Conn> {
        for _ in 0..TRIES {
            let conn = self.cold_from(listener)?;
            if !self.spliced() || sys::segments_sent_again(&conn.server)? == 0 {
                return self.warm(|| Ok(conn));
            }
        }
        bail!("TCP sent its SYN-ACK again, {TRIES} times")
    }

    /// The connection that `connect` makes, when its directions both use the ring.
    pub fn warm(&self, connect: impl FnOnce() -> Result<Conn>) -> Result<Conn> {
        let before = self.counters()?;
        let conn = connect()?;
        for _ in 0..WARM_UP {
            round_trip(&conn)?;
            if !self.spliced() || self.since(&before)?.get("ring_starts")? >= 2 {
                return Ok(conn);
            }
        }
        let moved = self.since(&before)?.moved();
        bail!("connection did not move to the ring within {WARM_UP} round trips: {moved:?}")
    }

    /// The counters now; all 0 over plain TCP.
    pub fn counters(&self) -> Result<Counters> {
        match self.mode {
            Mode::Plain => Ok(Counters::default()),
            Mode::Spliced => Counters::read(),
        }
    }

    /// What the counters did since `before`.
    pub fn since(&self, before: &Counters) -> Result<Counters> {
        Ok(self.counters()?.since(before))
    }
}

fn round_trip(conn: &Conn) -> Result<()> {
    let mut byte = [0];
    (&conn.client).write_all(b"c")?;
    (&conn.server).read_exact(&mut byte)?;
    ensure!(byte == *b"c", "warm-up byte was {byte:?} at the server");
    (&conn.server).write_all(b"s")?;
    (&conn.client).read_exact(&mut byte)?;
    ensure!(byte == *b"s", "warm-up byte was {byte:?} at the client");
    Ok(())
}

/// What must be true of the counters after a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pairs: u64,
    ring_bytes: u64,
    tcp_bytes_at_most: u64,
    reloaded: bool,
}

impl Claim {
    /// At least `ring_bytes` went through rings, and next to nothing over TCP.
    pub fn ring(ring_bytes: usize) -> Self {
        Self {
            pairs: 1,
            ring_bytes: ring_bytes as u64,
            tcp_bytes_at_most: 4096,
            reloaded: false,
        }
    }

    /// Nothing was paired and no counter of bytes moved.
    pub fn untouched() -> Self {
        Self {
            pairs: 0,
            ring_bytes: 0,
            tcp_bytes_at_most: 0,
            reloaded: false,
        }
    }

    /// The module was unloaded and loaded on the way, so that its counters began anew and say nothing.
    pub fn after_reload(self) -> Self {
        Self {
            reloaded: true,
            ..self
        }
    }

    /// At least `pairs` connections were paired.
    pub fn pairs(self, pairs: u64) -> Self {
        Self { pairs, ..self }
    }

    /// Both hold together.
    pub fn and(self, other: Self) -> Self {
        let most = self.tcp_bytes_at_most;
        Self {
            pairs: self.pairs + other.pairs,
            ring_bytes: self.ring_bytes + other.ring_bytes,
            tcp_bytes_at_most: most.saturating_add(other.tcp_bytes_at_most),
            reloaded: self.reloaded || other.reloaded,
        }
    }

    /// Any number of bytes may have gone over TCP.
    pub fn any_tcp(self) -> Self {
        Self {
            tcp_bytes_at_most: u64::MAX,
            ..self
        }
    }

    /// As many as `bytes` may have gone over TCP.
    pub fn tcp(self, bytes: usize) -> Self {
        let tcp_bytes_at_most = bytes as u64 + 4096;
        Self {
            tcp_bytes_at_most,
            ..self
        }
    }

    fn check(&self, delta: &Counters) -> Result<()> {
        if self.reloaded {
            return Ok(());
        }
        let (made, ring) = (delta.get("pairs_made")?, delta.get("ring_bytes")?);
        let moved = delta.moved();
        if self.pairs == 0 {
            ensure!(made == 0, "{made} pairs were made: {moved:?}");
            ensure!(ring == 0, "{ring} bytes went through rings: {moved:?}");
            return Ok(());
        }
        let (pairs, bytes, limit) = (self.pairs, self.ring_bytes, self.tcp_bytes_at_most);
        ensure!(
            made >= pairs,
            "only {made} of {pairs} pairs were made: {moved:?}"
        );
        ensure!(ring > 0, "no byte went through a ring: {moved:?}");
        ensure!(
            ring >= bytes,
            "only {ring} of {bytes} bytes went through rings: {moved:?}"
        );
        let tcp = delta.get("tcp_bytes")?;
        ensure!(
            tcp <= limit,
            "{tcp} bytes instead of {limit} at most went over TCP: {moved:?}"
        );
        Ok(())
    }
}

/// The body of a scenario.
pub type Body = fn(&Env) -> Result<Claim>;

/// Runs `body` and checks its claim, and that nothing of it is left over.
pub fn run(env: &Env, body: Body) -> Result<()> {
    let before = env.counters()?;
    let claim = body(env)?;
    if env.spliced() {
        claim.check(&env.since(&before)?)?;
        counters::settle(&before, SOON)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(pairs: u64, ring: u64, tcp: u64) -> Counters {
        Counters::parse(&format!(
            "pairs_made {pairs}\nring_bytes {ring}\ntcp_bytes {tcp}\n"
        ))
        .unwrap()
    }

    #[test]
    fn a_claim_can_fail() {
        let claim = Claim::ring(100);
        assert!(claim.check(&delta(1, 100, 0)).is_ok());
        assert!(claim.check(&delta(0, 100, 0)).is_err());
        assert!(claim.check(&delta(1, 99, 0)).is_err());
        assert!(claim.check(&delta(1, 100, 1 << 20)).is_err());
        assert!(Claim::ring(0).check(&delta(1, 0, 0)).is_err());
    }

    #[test]
    fn the_negative_claim_can_fail() {
        assert!(Claim::untouched().check(&delta(0, 0, 0)).is_ok());
        assert!(Claim::untouched().check(&delta(1, 0, 0)).is_err());
        assert!(Claim::untouched().check(&delta(0, 1, 0)).is_err());
    }
}
