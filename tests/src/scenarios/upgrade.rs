// SPDX-License-Identifier: GPL-2.0-only
//! The module is replaced again and again while a hundred connections carry a million messages.

use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pace;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::{self, CTL};
use tcp_splice_world::program::run;

use crate::env::{Claim, Env};
use crate::link::Link;
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[Scenario::one("a_million_messages", a_million_messages)
    .reconfigures()
    .limit(600)];

const WORKERS: usize = 10;
const CONNECTIONS: usize = 10;
const MESSAGES: u64 = 1_000_000;
/// The same on a kernel with checkers, where everything takes many times longer.
const MESSAGES_CHECKED: u64 = 50_000;
/// How often the module is replaced at least; there are more messages if need be.
const TIMES: u64 = 10;
/// Round trips on a connection before it is closed and another one takes its place, which may be spliced anew.
const LIFE: u64 = 100;
/// Bytes that go through rings before the module is replaced again.
const RING_BYTES: u64 = 300_000;
/// Between two looks at how many they are.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Bytes of the messages, which take turns.
const SIZES: [usize; 5] = [64, 1, 700, 20, 3000];

/// What all threads know.
struct Shared {
    messages: AtomicU64,
    /// How many there are to be.
    wanted: u64,
    /// How often the module was replaced.
    times: AtomicU64,
    failed: AtomicBool,
    /// What went wrong first; what others then run into says nothing.
    first: Mutex<Option<Error>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        let messages = self.messages.load(Ordering::Relaxed);
        let times = self.times.load(Ordering::Relaxed);
        (messages >= self.wanted && times >= TIMES) || self.failed.load(Ordering::Relaxed)
    }

    fn note(&self, error: Error) {
        self.first
            .lock()
            .expect("a thread panicked")
            .get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// A connection and what went over it in each direction.
struct Lane {
    client: TcpStream,
    server: TcpStream,
    position: u64,
}

fn pattern(worker: usize, lane: usize) -> Pattern {
    Pattern::new((worker * CONNECTIONS + lane) as u64)
}

fn connect(link: &Link, listener: &TcpListener) -> Result<Lane> {
    let client = link.connect(listener)?;
    let (server, _) = listener.accept().context("failed to accept")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok(Lane {
        client,
        server,
        position: 0,
    })
}

/// Requests on all of its connections, read by a thread that answers each; the answers are the same bytes.
fn work(link: &Link, worker: usize, shared: &Shared) -> Result<()> {
    let listener = link.listen()?;
    while !shared.is_over() {
        let lanes = (0..CONNECTIONS)
            .map(|_| connect(link, &listener))
            .collect::<Result<Vec<_>>>()?;
        live(lanes, worker, shared)?;
    }
    Ok(())
}

fn live(mut lanes: Vec<Lane>, worker: usize, shared: &Shared) -> Result<()> {
    let servers = lanes
        .iter()
        .map(|lane| lane.server.try_clone())
        .collect::<std::io::Result<Vec<_>>>()?;
    let answerer = thread::spawn(move || answer(&servers, worker));
    for round in 0..LIFE {
        let size = SIZES[round as usize % SIZES.len()];
        for (index, lane) in lanes.iter().enumerate() {
            pattern(worker, index).write(&lane.client, lane.position, size)?;
        }
        for (index, lane) in lanes.iter_mut().enumerate() {
            pattern(worker, index).read(&lane.client, lane.position, size)?;
            lane.position += size as u64;
        }
        let sent = 2 * CONNECTIONS as u64;
        shared.messages.fetch_add(sent, Ordering::Relaxed);
        if shared.failed.load(Ordering::Relaxed) {
            break;
        }
    }
    let ends: Vec<u64> = lanes.iter().map(|lane| lane.position).collect();
    // The end of the stream has to come behind the last byte, and nothing else.
    for lane in &lanes {
        lane.client.shutdown(std::net::Shutdown::Write)?;
    }
    answerer.join().expect("an answering thread panicked")?;
    for (index, lane) in lanes.iter().enumerate() {
        pattern(worker, index).read_to_end(&lane.client, ends[index], 0)?;
    }
    Ok(())
}

fn answer(servers: &[TcpStream], worker: usize) -> Result<()> {
    let mut position = 0;
    for round in 0..LIFE {
        let size = SIZES[round as usize % SIZES.len()];
        for (index, server) in servers.iter().enumerate() {
            let pattern = pattern(worker, index);
            pattern.read(server, position, size)?;
            pattern.write(server, position, size)?;
        }
        position += size as u64;
    }
    for (index, server) in servers.iter().enumerate() {
        pattern(worker, index).read_to_end(server, position, 0)?;
        server.shutdown(std::net::Shutdown::Write)?;
    }
    Ok(())
}

/// Drain, rmmod, modprobe, enable.
fn replace(shared: &Shared) -> Result<()> {
    while !shared.is_over() {
        // How long that takes is a matter of what else the machine does; the scenario's limit bounds it.
        while !shared.is_over() && Counters::read()?.get("ring_bytes")? < RING_BYTES {
            thread::sleep(LOOK_AGAIN);
        }
        run(&[CTL, "disable", "--drain", "--timeout", "300"])?;
        run(&["rmmod", "tcp_splice"])?;
        ensure!(!policy::loaded(), "the module is there after rmmod");
        policy::restore()?;
        shared.times.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn a_million_messages(env: &Env) -> Result<Claim> {
    let shared = Shared {
        messages: AtomicU64::new(0),
        wanted: pace::count(MESSAGES, MESSAGES_CHECKED),
        times: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        first: Mutex::new(None),
    };
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let shared = &shared;
            scope.spawn(move || work(&env.link, worker, shared).unwrap_or_else(|e| shared.note(e)));
        }
        replace(&shared).unwrap_or_else(|error| shared.note(error));
    });
    if let Some(error) = shared.first.into_inner().expect("a thread panicked") {
        return Err(error);
    }
    println!(
        "{} messages, replaced {} times",
        shared.messages.into_inner(),
        shared.times.into_inner()
    );
    policy::restore()?;
    Ok(Claim::untouched().after_reload())
}
