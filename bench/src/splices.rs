// SPDX-License-Identifier: GPL-2.0-only
//! What splice(2) from a spliced connection gives, beside recv() on the same connection: with the ring's pages lent to the pipe, and
//! with every byte copied.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use nix::fcntl::{SpliceFFlags, splice};
use nix::unistd::pipe;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;

use crate::machine::Machine;
use crate::stats::{Summary, short};

/// Module parameter: are pages lent?
const LENDS: &str = "/sys/module/tcp_splice/parameters/splice_pages";
/// What the sender gives to each write, and the receiver asks for.
const MESSAGE: usize = 64 << 10;
const PATTERN: Pattern = Pattern::new(7);

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Rounds, in each of which every way has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// MiB that each turn moves
    #[arg(long, default_value_t = 64)]
    mib: usize,
}

/// A way to take bytes off the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Recv,
    Lent,
    Copied,
}

impl Way {
    const ALL: [Self; 3] = [Self::Recv, Self::Lent, Self::Copied];

    fn name(self) -> &'static str {
        match self {
            Self::Recv => "recv()",
            Self::Lent => "splice(2), pages lent",
            Self::Copied => "splice(2), always copying",
        }
    }

    /// Checks what comes out, then measures: MiB/s.
    fn measure(self, conn: &Connection, bytes: usize) -> Result<f64> {
        if self != Self::Recv {
            let lends = if self == Self::Lent { "Y" } else { "N" };
            std::fs::write(LENDS, lends).context("failed to set splice_pages")?;
        }
        let before = Counters::read()?;
        conn.check(self)?;
        let start = Instant::now();
        conn.sends(
            move |mut to| {
                let message = vec![0; MESSAGE];
                (0..bytes / MESSAGE).try_for_each(|_| Ok(to.write_all(&message)?))
            },
            |from| self.throw_away(from, bytes),
        )?;
        let seconds = start.elapsed().as_secs_f64();
        let delta = Counters::read()?.since(&before);
        ensure!(
            delta.get("ring_bytes")? >= bytes as u64,
            "the bytes did not go through the ring"
        );
        let lent = delta.get("lent_bytes")? > bytes as u64 / 2;
        ensure!(
            lent == (self == Self::Lent),
            "{}: pages were lent: {lent}",
            self.name()
        );
        Ok((bytes >> 20) as f64 / seconds)
    }

    fn throw_away(self, from: &TcpStream, bytes: usize) -> Result<()> {
        let mut left = bytes;
        if self == Self::Recv {
            let mut buffer = vec![0; MESSAGE];
            while left > 0 {
                let got = (&*from).read(&mut buffer).context("failed to receive")?;
                ensure!(got > 0, "the stream ended");
                left -= got;
            }
            return Ok(());
        }
        let (out, into) = pipe()?;
        let nowhere = File::options().write(true).open("/dev/null")?;
        while left > 0 {
            let got = take(from, &into, left.min(1 << 20))?;
            ensure!(got > 0, "the stream ended");
            let mut there = got;
            while there > 0 {
                there -= take(&out, &nowhere, there)?;
            }
            left -= got;
        }
        Ok(())
    }
}

fn take(from: &impl AsFd, to: &impl AsFd, bytes: usize) -> Result<usize> {
    splice(from, None, to, None, bytes, SpliceFFlags::empty()).context("failed to splice")
}

/// Both ends of one connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// A connection that uses its ring.
    fn new() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.set_nodelay(true)?;
        let (server, _) = listener.accept()?;
        Ok(Self { client, server })
    }

    /// Runs `receive` while a thread runs `send`.
    fn sends(
        &self,
        send: impl FnOnce(TcpStream) -> Result<()> + Send + 'static,
        receive: impl FnOnce(&TcpStream) -> Result<()>,
    ) -> Result<()> {
        let to = self.client.try_clone()?;
        let sender = thread::spawn(move || send(to));
        receive(&self.server)?;
        sender.join().expect("sender panicked")
    }

    /// Are the bytes right that come out in this way?
    fn check(&self, way: Way) -> Result<()> {
        const BYTES: usize = 1 << 20;
        let send = |to| PATTERN.write(to, 0, BYTES);
        self.sends(send, |from| {
            if way == Way::Recv {
                return PATTERN.read(from, 0, BYTES);
            }
            let (out, into): (OwnedFd, OwnedFd) = pipe()?;
            let reader = thread::spawn(move || PATTERN.read_to_end(File::from(out), 0, BYTES));
            let mut left = BYTES;
            while left > 0 {
                left -= take(from, &into, left)?;
            }
            drop(into);
            reader.join().expect("reader panicked")
        })
    }
}

/// Measures and prints a table.
///
/// # Errors
/// When the data is wrong, or the bytes did not go the way that is measured.
pub fn run(options: &Options) -> Result<()> {
    policy::restore()?;
    println!("{}", Machine::detect(None).line());
    println!(
        "one connection, messages of {} KiB, {} MiB in each of {} rounds; medians with their spread",
        MESSAGE >> 10,
        options.mib,
        options.rounds
    );
    let measured = measure(options);
    std::fs::write(LENDS, "Y").context("failed to set splice_pages")?;
    println!("{}", table(&measured?));
    Ok(())
}

fn measure(options: &Options) -> Result<[Vec<f64>; 3]> {
    let conn = Connection::new()?;
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..options.rounds {
        for (way, rates) in Way::ALL.iter().zip(&mut rates) {
            let rate = way.measure(&conn, options.mib << 20)?;
            eprintln!("round {}, {}: {} MiB/s", round + 1, way.name(), short(rate));
            rates.push(rate);
        }
    }
    Ok(rates)
}

fn table(rates: &[Vec<f64>; 3]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "MiB/s", "of recv()", "least", "most"]);
    let first = Summary::of(&rates[0]).map_or(f64::NAN, |summary| summary.median);
    for (way, rates) in Way::ALL.iter().zip(rates) {
        let Some(summary) = Summary::of(rates) else {
            continue;
        };
        let cells = [
            summary.median,
            summary.median / first,
            summary.min,
            summary.max,
        ];
        table.add_row([way.name().to_owned()].into_iter().chain(cells.map(short)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
