// SPDX-License-Identifier: GPL-2.0-only
//! Messages between markers, for the emulator to count instructions by: plain TCP, spliced, `AF_UNIX` and pipes, between two processes on one
//! processor. Only the windows are made here; the counts are on the host (`cargo xtask instructions` joins the two).

mod cell;
mod group;
mod marker;
pub mod server;
mod sockets;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;

use crate::machine::Machine;
use cell::{Cell, Way};
use group::Group;
use server::Server;
use sockets::{End, Listener};

/// What to do.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory for windows.json
    #[arg(long)]
    out: PathBuf,
    /// Rounds in which each figure is made once, so that what happens at one time in the guest is not all there is of a figure
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Windows of each figure in a round
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Also keep the kernel's symbols, as they are at the end
    #[arg(long)]
    symbols: bool,
    /// Count no pipes, with which the others are only compared
    #[arg(long)]
    without_pipes: bool,
    /// Only cells whose name contains this; may be given several times
    #[arg(long)]
    only: Vec<String>,
}

/// Settings of the scheduler, so that every window goes the same way.
const SCHEDULER: [(&str, &str); 2] = [
    // No end is stopped in the middle of a copy: the other one would spin for it, and the stream would go on out of step.
    ("/sys/kernel/debug/sched/base_slice_ns", "100000000"),
    // A process that sleeps leaves the queue at once, whether or not it has run for longer than its share.
    ("/sys/kernel/debug/sched/features", "NO_DELAY_DEQUEUE"),
];

/// Windows before those that are counted, of the groups' cases.
const WARM_UP: usize = 2;

/// One figure in one round: so many windows, in the order in which the markers come.
#[derive(Debug, Serialize)]
struct Figure {
    cell: String,
    way: String,
    windows: usize,
    operations: usize,
    /// where the module's code was, see [`module_text`]
    text: Option<String>,
    /// the module's counters, in these windows and those before them
    counters: BTreeMap<String, u64>,
}

/// What the host needs to understand the counts.
#[derive(Debug, Serialize)]
struct Windows {
    machine: Machine,
    /// where the module's code is in the symbols that are kept, see [`module_text`]
    text: Option<String>,
    figures: Vec<Figure>,
}

/// Makes all windows, and writes down which is which.
///
/// # Errors
/// When the data is wrong, or the bytes did not go the way that is counted.
pub fn run(options: &Options) -> Result<()> {
    policy::restore()?;
    ensure!(
        std::thread::available_parallelism()?.get() == 1,
        "both ends have to run on the only processor: on two they spin for each other, and for how long is a matter of time"
    );
    for (path, setting) in SCHEDULER {
        fs::write(path, setting).with_context(|| format!("failed to write {path}"))?;
    }
    let mut figures = Vec::new();
    for _ in 0..options.rounds {
        cells(options, &mut figures)?;
        groups(options, &mut figures)?;
    }
    if options.symbols {
        let to = options.out.join("symbols");
        fs::copy("/proc/kallsyms", to).context("failed to keep the kernel's symbols")?;
    }
    let windows = Windows {
        machine: Machine::detect(None),
        text: module_text(),
        figures,
    };
    let path = options.out.join("windows.json");
    fs::write(&path, serde_json::to_string_pretty(&windows)?)
        .with_context(|| format!("failed to write {}", path.display()))
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word))
    }
}

fn cells(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    for cell in Cell::ALL {
        if !options.wants(&cell.to_string()) {
            continue;
        }
        let goes = |way: &Way| cell.goes(*way) && !(options.without_pipes && *way == Way::Pipe);
        for way in Way::ALL.into_iter().filter(goes) {
            let counters =
                figure(options, cell, way).with_context(|| format!("{cell}, {}", way.name()))?;
            figures.push(Figure {
                cell: cell.to_string(),
                way: way.name().to_owned(),
                windows: options.windows,
                operations: cell.operations(),
                text: module_text(),
                counters,
            });
        }
        eprintln!("{cell}");
    }
    Ok(())
}

fn groups(options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
    for group in Group::ALL {
        if !options.wants(group.name()) {
            continue;
        }
        for case in group.cases() {
            let windows = WARM_UP + options.windows;
            let windows = (0..windows).map(|index| index >= WARM_UP);
            case.run(windows)
                .with_context(|| format!("{}, {case}", group.name()))?;
            figures.push(Figure {
                cell: group.name().to_owned(),
                way: case.to_string(),
                windows: options.windows,
                operations: case.operations(),
                text: module_text(),
                counters: BTreeMap::new(),
            });
        }
        eprintln!("{}", group.name());
    }
    // The cells expect it loaded.
    policy::load()
}

/// The address of the module's code, which is another one each time that it is loaded; none while it is not.
fn module_text() -> Option<String> {
    let text = fs::read_to_string("/sys/module/tcp_splice/sections/.text").ok()?;
    Some(text.trim().to_owned())
}

/// The bytes of every message of this size.
pub fn message(size: usize) -> Vec<u8> {
    Pattern::new(5).bytes(0, size)
}

/// All windows of one figure, and the proof that the bytes went the right way.
fn figure(options: &Options, cell: Cell, way: Way) -> Result<BTreeMap<String, u64>> {
    way.enter()?;
    let before = Counters::read()?;
    let listener = Listener::new(way)?;
    let all = cell.warm_up(way) + options.windows;
    let windows = (0..all).map(|index| index >= cell.warm_up(way));
    match cell {
        Cell::Ready(_) => arrived(cell, &listener, windows)?,
        Cell::Connection(_) => one_after_the_other(cell, &listener, windows)?,
        _ => over_one(cell, &listener, windows)?,
    }
    let counters = Counters::read()?.since(&before);
    prove(way, all * cell.bytes(), &counters)?;
    Ok(counters.moved())
}

/// Windows over one connection; each of `windows` says whether it counts.
fn over_one(cell: Cell, listener: &Listener, windows: impl Iterator<Item = bool>) -> Result<()> {
    let mut client = Some(listener.connect()?);
    let mut accepted = Some(listener.accept()?);
    let server = Server::start(|| {
        // Its copy of the client's end, with which a pipe would not end.
        client = None;
        server::serve(cell, accepted.take().context("nothing was accepted")?)
    })?;
    drop(accepted);
    let mut client = client.context("nothing is connected")?;
    for counted in windows {
        window(counted, || messages(cell, &mut client, counted))?;
    }
    client.finish()?;
    server.join()
}

/// Windows of many connections.
fn one_after_the_other(
    cell: Cell,
    listener: &Listener,
    windows: impl ExactSizeIterator<Item = bool>,
) -> Result<()> {
    let all = windows.len() * cell.messages();
    let server = Server::start(|| server::serve_each(cell, listener, all))?;
    for counted in windows {
        window(counted, || connections(cell, listener, counted))?;
    }
    server.join()
}

/// Windows in which all messages have arrived before; nobody sleeps, so this process is both ends.
fn arrived(cell: Cell, listener: &Listener, windows: impl Iterator<Item = bool>) -> Result<()> {
    let mut client = listener.connect()?;
    let mut accepted = listener.accept()?;
    let message = message(cell.size());
    for counted in windows {
        for _ in 0..cell.messages() {
            accepted.write_all(&message).context("failed to send")?;
        }
        window(counted, || ready(cell, &mut client, counted))?;
    }
    Ok(())
}

/// Does `work`, between markers if it is to be counted.
fn window(counted: bool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if counted {
        marker::begin();
    }
    let done = work();
    if counted {
        marker::end();
    }
    done
}

/// The client's side of a window; what comes back is looked at unless it is counted.
fn messages(cell: Cell, stream: &mut End, counted: bool) -> Result<()> {
    let message = message(cell.size());
    if matches!(cell, Cell::Stream(_)) {
        for _ in 0..cell.messages() {
            stream.write_all(&message).context("failed to send")?;
        }
        return stream.read_exact(&mut [0]).context("failed to receive");
    }
    let mut buffer = vec![0; cell.size()];
    for _ in 0..cell.messages() {
        round_trip(stream, &message, &mut buffer)?;
        ensure!(counted || buffer == message, "wrong data");
    }
    Ok(())
}

fn round_trip(stream: &mut End, message: &[u8], buffer: &mut [u8]) -> Result<()> {
    stream.write_all(message).context("failed to send")?;
    stream.read_exact(buffer).context("failed to receive")
}

/// Takes what has arrived, each message after asking for it.
fn ready(cell: Cell, stream: &mut End, counted: bool) -> Result<()> {
    let message = message(cell.size());
    let mut buffer = vec![0; cell.size()];
    for _ in 0..cell.messages() {
        let mut asked = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        let found = poll(&mut asked, PollTimeout::ZERO).context("failed to poll")?;
        ensure!(found == 1, "a message has not arrived");
        stream
            .read_exact(&mut buffer)
            .context("failed to receive")?;
        ensure!(counted || buffer == message, "wrong data");
    }
    Ok(())
}

fn connections(cell: Cell, listener: &Listener, counted: bool) -> Result<()> {
    let message = message(cell.size());
    let mut buffer = vec![0; cell.size()];
    for _ in 0..cell.messages() {
        round_trip(&mut listener.connect()?, &message, &mut buffer)?;
        ensure!(counted || buffer == message, "wrong data");
    }
    Ok(())
}

fn prove(way: Way, bytes: usize, counters: &Counters) -> Result<()> {
    let (ring, pairs) = (counters.get("ring_bytes")?, counters.get("pairs_made")?);
    let moved = counters.moved();
    if way == Way::Spliced {
        ensure!(
            ring >= bytes as u64 * 99 / 100,
            "only {ring} of {bytes} bytes went through the ring: {moved:?}"
        );
    } else {
        ensure!(ring == 0 && pairs == 0, "the ring was used: {moved:?}");
    }
    Ok(())
}
