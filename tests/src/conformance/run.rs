// SPDX-License-Identifier: GPL-2.0-only
//! One run of a case: its connections, the proof of what they ran over, and the lines of its trace.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use libc::{SO_MARK, SOL_SOCKET};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::link::Link;

use crate::calls::{self, Control};
use crate::case::Need;
use crate::trace::FAULT;

/// The ports whose connections are offered; outside the range that the kernel chooses from. As many as a policy holds.
pub const PORTS: std::ops::Range<u16> = 20_000..20_064;

/// Ports whose connections are not offered, chosen in the same way.
const PLAIN_PORTS: std::ops::Range<u16> = 20_064..20_128;

/// How many one-byte round trips each connection makes before its case, and how many more it may take until the lanes run.
const WARM_UP: usize = 2;
const WARM_UP_AT_MOST: usize = 64;

/// Over what a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Plain TCP.
    Plain,
    /// Spliced.
    Spliced,
}

/// The two ends of a connection.
#[derive(Debug)]
pub struct Pair {
    /// The end that called connect(2).
    pub client: TcpStream,
    /// The end that accept(2) returned.
    pub server: TcpStream,
}

/// One run of one case.
#[derive(Debug)]
pub struct Run {
    /// Where its connections run.
    pub link: Link,
    over: Over,
    counted: bool,
    begin: Counters,
    warm: Mutex<Counters>,
    connections: AtomicU64,
}

impl Run {
    /// A run that has not begun. `counted` when the module is there at all.
    pub fn new(link: Link, over: Over, counted: bool) -> Result<Self> {
        let begin = read(counted)?;
        Ok(Self {
            link,
            over,
            counted,
            warm: Mutex::new(begin.clone()),
            begin,
            connections: AtomicU64::new(0),
        })
    }

    /// Writes one observation.
    pub fn note(&self, what: &str, value: impl Display) {
        self.line(&format!("{what}: {value}"));
    }

    /// Writes a reason for which the run is worth nothing.
    pub fn fault(&self, why: impl Display) {
        self.line(&format!("{FAULT}{why}"));
    }

    fn line(&self, text: &str) {
        let text = format!("{}\n", text.replace('\n', " "));
        // One write for each line: whoever reads the trace sees how far a run came that hangs.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }

    /// A listener whose connections are offered, or are not, as this run wants it.
    pub fn listen(&self) -> Result<TcpListener> {
        let ports = match self.over {
            Over::Plain => PLAIN_PORTS,
            Over::Spliced => PORTS,
        };
        let mut tries = ports.clone().map(|port| self.link.listen_on(port));
        let free = tries.find_map(Result::ok);
        free.with_context(|| format!("failed to find a free port in {ports:?}"))
    }

    /// A connection to `listener` that carried nothing yet.
    pub fn cold_from(&self, listener: &TcpListener) -> Result<Pair> {
        let client = self.connect(listener)?;
        self.accept(listener, client)
    }

    /// Connects to `listener`, which accepts later.
    pub fn connect(&self, listener: &TcpListener) -> Result<TcpStream> {
        let client = self.link.connect(listener)?;
        client.set_nodelay(true)?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(client)
    }

    /// Makes a pair of `client` and what `listener` accepts.
    pub fn accept(&self, listener: &TcpListener, client: TcpStream) -> Result<Pair> {
        let (server, _) = listener.accept().context("failed to accept")?;
        server.set_nodelay(true)?;
        Ok(Pair { client, server })
    }

    /// A connection that carried nothing yet.
    pub fn cold(&self) -> Result<Pair> {
        self.cold_from(&self.listen()?)
    }

    /// A connection both of whose directions carried some bytes, in the spliced run through the ring.
    pub fn warm(&self) -> Result<Pair> {
        self.warm_from(&self.listen()?)
    }

    /// As [`Self::warm`], from a listener that goes on.
    pub fn warm_from(&self, listener: &TcpListener) -> Result<Pair> {
        let before = self.counters()?;
        let pair = self.cold_from(listener)?;
        self.warm_up(&pair, &before)?;
        Ok(pair)
    }

    /// A connection whose server has `text` unread that the client sent over TCP, before the server accepted; the client's next bytes may
    /// go through a ring. A control message keeps `text` out of it.
    pub fn half(&self, text: &[u8]) -> Result<Pair> {
        let listener = self.listen()?;
        let client = self.connect(&listener)?;
        let before = self.counters()?;
        let mark = Control::word(SOL_SOCKET, SO_MARK, 0);
        let sent = calls::sendmsg(&client, &[text], &[mark], 0);
        let sent = sent.context("failed to send with SO_MARK")?;
        ensure!(
            sent == text.len(),
            "only {sent} of {} bytes were sent",
            text.len()
        );
        if self.counted && self.over == Over::Spliced {
            let moved = self.counters()?.since(&before);
            ensure!(
                moved.get("tcp_bytes")? >= sent as u64,
                "the first bytes did not go over TCP: {:?}",
                moved.moved()
            );
        }
        let pair = self.accept(&listener, client)?;
        self.arrived(&pair.server, text.len());
        Ok(pair)
    }

    fn warm_up(&self, pair: &Pair, before: &Counters) -> Result<()> {
        for round in 0..WARM_UP_AT_MOST {
            round_trip(pair)?;
            let ready =
                self.over == Over::Plain || self.counters()?.since(before).get("ring_starts")? >= 2;
            if ready && round + 1 >= WARM_UP {
                let now = self.counters()?;
                *self.warm.lock().expect("no panic while locked") = now;
                return Ok(());
            }
        }
        let moved = self.counters()?.since(before).moved();
        bail!("connection did not move to the ring within {WARM_UP_AT_MOST} round trips: {moved:?}")
    }

    fn counters(&self) -> Result<Counters> {
        read(self.counted)
    }

    /// Proves what the run went over.
    pub fn prove(&self, need: Need) -> Result<()> {
        if !self.counted {
            return Ok(());
        }
        let now = self.counters()?;
        let all = now.since(&self.begin);
        let (made, moved) = (all.get("pairs_made")?, all.moved());
        if self.over == Over::Plain {
            ensure!(made == 0, "a plain connection was paired: {moved:?}");
            return Ok(());
        }
        let wanted = self.connections.load(Ordering::Relaxed);
        ensure!(
            made >= wanted && wanted > 0,
            "only {made} of {wanted} connections were paired: {moved:?}"
        );
        if need == Need::Pairs {
            return Ok(());
        }
        ensure!(all.get("ring_starts")? > 0, "no lane ran: {moved:?}");
        ensure!(
            all.get("ring_bytes")? > 0,
            "no byte went through a ring: {moved:?}"
        );
        let body = now.since(&self.warm.lock().expect("no panic while locked"));
        let moved = body.moved();
        ensure!(
            need == Need::Lanes || body.get("ring_bytes")? > 0,
            "no byte of the case itself went through a ring: {moved:?}"
        );
        Ok(())
    }
}

fn read(counted: bool) -> Result<Counters> {
    if counted {
        Counters::read()
    } else {
        Ok(Counters::default())
    }
}

fn round_trip(pair: &Pair) -> Result<()> {
    let mut byte = [0];
    (&pair.client).write_all(b"c")?;
    (&pair.server).read_exact(&mut byte)?;
    (&pair.server).write_all(b"s")?;
    (&pair.client).read_exact(&mut byte)?;
    Ok(())
}
