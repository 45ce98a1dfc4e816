// SPDX-License-Identifier: GPL-2.0-only
//! What a connection costs: connect, request, response, close.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use tcp_splice_world::program::{Daemon, run};

use super::cpu::on_first_cpu;
use super::kind::{Kind, Sides};
use super::{Options, table};
use crate::instructions::server::{Server, receive};
use crate::place::{NETPERF_PORT, wait_for};
use crate::stats::{Summary, short};

/// Bytes of the request, and of the response.
pub const SIZE: usize = 64;

/// A listener on the accepting side, and the processes' places.
#[derive(Debug)]
pub struct Place {
    sides: Sides,
    _no_waiting: NoTimeWait,
}

impl Place {
    /// Makes the cgroups.
    pub fn new() -> Result<Self> {
        Ok(Self {
            sides: Sides::new()?,
            _no_waiting: NoTimeWait::new()?,
        })
    }

    /// Connections of one kind, as many as `work` says when it is given the address, and the proof that they were of this kind.
    pub fn connections(
        &self,
        kind: Kind,
        all: usize,
        work: impl FnOnce(SocketAddr) -> Result<()>,
    ) -> Result<()> {
        kind.enter(&self.sides)?;
        let before = kind.counters()?;
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen");
        let listener = self.sides.as_server(listen)?;
        let address = listener.local_addr()?;
        let server = Server::start(|| (0..all).try_for_each(|_| answer(&listener)))?;
        drop(listener);
        self.sides.as_client(|| work(address))?;
        server.join()?;
        let moved = kind.counters()?.since(&before);
        kind.prove(all, all * 2 * SIZE, &moved)
    }

    /// The same by netperf's TCP_CRR: `work` is given the means to run it once, for so many `transactions`, and uses it `times`.
    pub fn netperf(
        &self,
        kind: Kind,
        transactions: usize,
        times: usize,
        work: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        kind.enter(&self.sides)?;
        let before = kind.counters()?;
        let server = ["netserver", "-D", "-4", "-p", NETPERF_PORT];
        let _server = self.sides.as_server(|| Daemon::start(&server))?;
        wait_for(&None, NETPERF_PORT)?;
        let (length, sizes) = (format!("-{transactions}"), format!("{SIZE},{SIZE}"));
        let host = ["netperf", "-4", "-H", "127.0.0.1", "-p", NETPERF_PORT];
        let test = [
            "-P", "0", "-t", "TCP_CRR", "-l", &length, "--", "-r", &sizes,
        ];
        let once = || run(&[&host[..], &test].concat()).map(drop);
        self.sides.as_client(|| work(&once))?;
        let moved = kind.counters()?.since(&before);
        // One more: netperf's own, over which the two agree on the test.
        let all = times * (transactions + 1);
        kind.prove(all, all * 2 * SIZE, &moved)
    }
}

/// Connections leave nothing behind while this exists. Their ports would be found taken, by later ones more often than by earlier ones.
#[derive(Debug)]
struct NoTimeWait(String);

const TIME_WAIT: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

impl NoTimeWait {
    fn new() -> Result<Self> {
        let usual =
            fs::read_to_string(TIME_WAIT).with_context(|| format!("failed to read {TIME_WAIT}"))?;
        fs::write(TIME_WAIT, "0").with_context(|| format!("failed to write {TIME_WAIT}"))?;
        Ok(Self(usual))
    }
}

impl Drop for NoTimeWait {
    fn drop(&mut self) {
        let _ = fs::write(TIME_WAIT, &self.0);
    }
}

/// Connects, asks, looks at the answer, closes; so many times.
pub fn ask(address: SocketAddr, times: usize) -> Result<()> {
    let (request, mut response) = ([b'q'; SIZE], [0; SIZE]);
    for _ in 0..times {
        let mut stream = TcpStream::connect(address).context("failed to connect")?;
        stream.write_all(&request).context("failed to send")?;
        stream
            .read_exact(&mut response)
            .context("failed to receive")?;
        ensure!(response == [b'r'; SIZE], "wrong data");
    }
    Ok(())
}

fn answer(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept().context("failed to accept")?;
    let mut request = [0; SIZE];
    while receive(&mut stream, &mut request)? {
        ensure!(request == [b'q'; SIZE], "wrong data");
        stream.write_all(&[b'r'; SIZE]).context("failed to send")?;
    }
    Ok(())
}

/// Connections in a second, of each kind.
#[derive(Debug, Serialize)]
pub struct Connections {
    /// Connections of each kind in a round.
    connections: usize,
    rates: Vec<Rates>,
}

#[derive(Debug, Serialize)]
struct Rates {
    kind: Kind,
    /// One for each round.
    per_second: Vec<f64>,
}

impl Connections {
    /// In each round every kind has its turn.
    pub fn measure(options: &Options) -> Result<Self> {
        let place = Place::new()?;
        let count = options.connections;
        let mut rates = Kind::ALL.map(|kind| Rates {
            kind,
            per_second: Vec::new(),
        });
        for round in 0..options.rounds {
            // No kind always comes after the same one.
            for index in 0..rates.len() {
                let Rates { kind, per_second } = &mut rates[(index + round) % Kind::ALL.len()];
                let warm_up = count / 10 + 1;
                let timed = |address| {
                    ask(address, warm_up)?;
                    let begun = Instant::now();
                    ask(address, count)?;
                    per_second.push(count as f64 / begun.elapsed().as_secs_f64());
                    Ok(())
                };
                on_first_cpu(|| place.connections(*kind, warm_up + count, timed))?;
            }
        }
        Ok(Self {
            connections: count,
            rates: rates.into(),
        })
    }

    /// A table.
    pub fn text(&self) -> String {
        let mut rows = Vec::new();
        for rates in &self.rates {
            let factors: Vec<f64> = rates
                .per_second
                .iter()
                .zip(&self.rates[0].per_second)
                .map(|(rate, absent)| rate / absent)
                .collect();
            let (Some(rate), Some(factor)) =
                (Summary::of(&rates.per_second), Summary::of(&factors))
            else {
                continue;
            };
            rows.push(vec![
                rates.kind.name().to_owned(),
                format!(
                    "{} ({}..{})",
                    short(rate.median),
                    short(rate.min),
                    short(rate.max)
                ),
                format!(
                    "{:.3} ({:.3}..{:.3})",
                    factor.median, factor.min, factor.max
                ),
            ]);
        }
        let header = ["connections a second", "median (spread)", "of the first"];
        format!(
            "Connections: connect, {SIZE} B each way, close; {} in each of {} rounds, one after the other, two processes on one CPU, no TIME_WAIT\n{}",
            self.connections,
            self.rates[0].per_second.len(),
            table(&header, rows)
        )
    }
}
