// SPDX-License-Identifier: GPL-2.0-only
//! What a message costs while many pairs exist.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use super::cpu::on_first_cpu;
use super::crowd::Crowd;
use super::{Options, table};
use crate::instructions::message;
use crate::instructions::server::{self, Server};
use crate::stats::{Summary, short};

/// Bytes of a message.
const SIZE: usize = 64;

/// Round trips among more and more idle pairs.
#[derive(Debug, Serialize)]
pub struct Among {
    round_trips: usize,
    levels: Vec<Level>,
}

#[derive(Debug, Serialize)]
struct Level {
    /// Spliced pairs besides the measured connection.
    pairs: usize,
    /// Nanoseconds of one round trip over plain TCP, in each round.
    plain: Vec<f64>,
    /// The same over a spliced connection.
    spliced: Vec<f64>,
}

impl Among {
    /// The last level is the first one again, which shows how far time alone moves the figures.
    pub fn measure(options: &Options) -> Result<Self> {
        policy::restore()?;
        let mut levels = Vec::new();
        for &pairs in options.among.iter().chain(options.among.first()) {
            let crowd = Crowd::new(pairs)?;
            ensure!(
                crowd.pairs_made()? == pairs as u64,
                "{} of {pairs} connections are spliced",
                crowd.pairs_made()?
            );
            levels.push(level(options, pairs)?);
            crowd.close()?;
        }
        Ok(Self {
            round_trips: options.round_trips,
            levels,
        })
    }

    /// A table.
    pub fn text(&self) -> String {
        let spread = |times: &[f64]| {
            Summary::of(times).map_or_else(String::new, |Summary { median, min, max }| {
                format!("{} ({}..{})", short(median), short(min), short(max))
            })
        };
        let rows = self.levels.iter().map(|level| {
            vec![
                level.pairs.to_string(),
                spread(&level.plain),
                spread(&level.spliced),
            ]
        });
        let header = [
            "idle spliced pairs",
            "plain, ns (spread)",
            "spliced, ns (spread)",
        ];
        format!(
            "Round trip of {SIZE} B among idle pairs: {} in each of {} rounds, two processes on one CPU\n{}",
            self.round_trips,
            self.levels[0].plain.len(),
            table(&header, rows.collect())
        )
    }
}

fn level(options: &Options, pairs: usize) -> Result<Level> {
    let (mut plain, mut spliced) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        policy::disable()?;
        plain.push(round_trips(options.round_trips, false)?);
        policy::enable(&[])?;
        spliced.push(round_trips(options.round_trips, true)?);
    }
    Ok(Level {
        pairs,
        plain,
        spliced,
    })
}

/// Nanoseconds of one, over a new connection.
fn round_trips(times: usize, is_spliced: bool) -> Result<f64> {
    let before = Counters::read()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen")?;
    let mut stream = TcpStream::connect(listener.local_addr()?).context("failed to connect")?;
    let (accepted, _) = listener.accept().context("failed to accept")?;
    stream.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    let server = on_first_cpu(|| Server::start(|| server::echo(accepted, SIZE)))?;
    let nanoseconds = on_first_cpu(|| {
        exchange(&mut stream, times / 10 + 1)?;
        let begun = Instant::now();
        exchange(&mut stream, times)?;
        Ok(begun.elapsed().as_secs_f64() * 1e9 / times as f64)
    })?;
    stream.shutdown(std::net::Shutdown::Write)?;
    server.join()?;
    let ring = Counters::read()?.since(&before).get("ring_bytes")?;
    let bytes = (2 * SIZE * times) as u64;
    ensure!(
        if is_spliced { ring >= bytes } else { ring == 0 },
        "{ring} bytes went through the ring"
    );
    Ok(nanoseconds)
}

fn exchange(stream: &mut TcpStream, times: usize) -> Result<()> {
    let message = message(SIZE);
    let mut buffer = [0; SIZE];
    for _ in 0..times {
        stream.write_all(&message).context("failed to send")?;
        stream
            .read_exact(&mut buffer)
            .context("failed to receive")?;
        ensure!(buffer[..] == message, "wrong data");
    }
    Ok(())
}
