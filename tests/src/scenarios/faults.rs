// SPDX-License-Identifier: GPL-2.0-only
//! Each allocation of the module fails once, as far as a connection's life goes, and each of the kernel's that stand around it.
//!
//! A sweep carries out one call with its first allocation failing, then with its second, and so on until it makes no more. Whatever fails:
//! no byte is lost, doubled or out of order, no call waits for ever or says what plain TCP would not say, and afterwards the connection
//! goes back into the ring. That the module's own allocations were among them is seen by what was counted:
//!
//! | allocation | in | seen by |
//! |---|---|---|
//! | an end's endpoint; a pair (in an interrupt) | `pairing` | `refused_no_memory` |
//! | a ring's table of chunks | `first_send` | `left_memory`, and the ring was not started |
//! | a chunk | `first_send`, `growth` | `left_memory`, and it was |
//! | a grown ring's table | `growth` | `left_memory` with the ring full to its first size |
//! | places for chunks that pipes have | `lent_chunks` | the ring has one chunk less: it was left to the pipe |
//! | pages, but the first, for TCP's bytes on their way to a pipe | `splice_over_tcp` | nothing: the same call goes on with those it has |
//! | segments for unread bytes of a ring | `hand_back`, `drain` | ENOMEM, EAGAIN: to be tried again |
//! | a drain's request | `drain` | ENOMEM |
//! | a reader of the list | `list` | ENOMEM |
//! | a file of /proc, the device for polling | `load` | ENOMEM, and the module is not there |

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::pipe;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;
use tcp_splice_world::program::run;

use crate::env::{Claim, Conn, Env, SOON, wait_until};
use crate::faults::{Nth, OfCache};
use crate::scenario::Scenario;
use crate::scenarios::memory::exchange_until_spliced;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    faulty("pairing", pairing).spliced_only(),
    faulty("connect", connect),
    faulty("accept", accept),
    faulty("first_send", first_send),
    faulty("growth", growth),
    faulty("receive", receive),
    faulty("splice", splice_few_bytes).spliced_only(),
    faulty("splice_over_tcp", splice_over_tcp).spliced_only(),
    faulty("lent_chunks", lent_chunks).spliced_only(),
    faulty("hand_back", hand_back),
    faulty("drain", drain).spliced_only(),
    faulty("list", list).spliced_only(),
    faulty("load", load).spliced_only().reconfigures(),
];

const fn faulty(name: &'static str, body: crate::env::Body) -> Scenario {
    Scenario::one(name, body).injects_faults().limit(300)
}

const PATTERN: Pattern = Pattern::new(101);
const PART: usize = 20_000;

/// No call makes as many allocations.
const MOST: u32 = 1000;

/// What was seen of the module's allocations while others failed, too.
#[derive(Default)]
struct Seen(BTreeSet<&'static str>);

impl Seen {
    fn note(&mut self, allocation: &'static str, failed: bool) {
        if failed {
            self.0.insert(allocation);
        }
    }
}

/// Carries out `round` for the first allocation, the second, …; it says whether there was such a one. As many are not made each time: it is
/// over when some rounds in a row have made fewer. How many failed.
fn sweep(mut round: impl FnMut(&Nth, u32) -> Result<bool>) -> Result<u32> {
    const BEYOND: u32 = 3;
    let nth = Nth::any()?;
    let (mut beyond, mut hits) = (0, 0);
    for n in 1..MOST {
        let hit = round(&nth, n).with_context(|| format!("with allocation {n} failing"))?;
        beyond = if hit { 0 } else { beyond + 1 };
        hits += u32::from(hit);
        if beyond == BEYOND {
            return Ok(hits);
        }
    }
    bail!("{MOST} allocations in one call")
}

/// The same for a call that makes some.
fn sweep_some(round: impl FnMut(&Nth, u32) -> Result<bool>) -> Result<()> {
    let hits = sweep(round)?;
    println!("{hits} allocations failed");
    ensure!(hits > 0, "no allocation failed");
    Ok(())
}

/// The same until each of these `allocations` was seen to fail. Over plain TCP there are none.
fn sweep_for(
    env: &Env,
    allocations: &[&str],
    mut round: impl FnMut(&Nth, u32, &mut Seen) -> Result<bool>,
) -> Result<()> {
    // Which one is the nth is not the same each time, either: the kernel has some in stock. So one may be passed over.
    const SWEEPS: u32 = 5;
    let mut seen = Seen::default();
    for _ in 0..SWEEPS {
        sweep(|nth, n| round(nth, n, &mut seen))?;
        if !env.spliced() || allocations.iter().all(|it| seen.0.contains(it)) {
            return Ok(());
        }
    }
    bail!(
        "of {allocations:?} only {:?} failed, or were noticed",
        seen.0
    )
}

/// The same for a call that makes none on a spliced socket, so that nothing is left to fail.
fn sweep_none(env: &Env, round: impl FnMut(&Nth, u32) -> Result<bool>) -> Result<()> {
    let hits = sweep(round)?;
    ensure!(hits == 0 || !env.spliced(), "{hits} allocations were made");
    Ok(())
}

/// Nothing waits for ever.
fn patient(conn: Conn) -> Result<Conn> {
    for socket in [&conn.client, &conn.server] {
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
    }
    Ok(conn)
}

fn exchange(conn: &Conn) -> Result<()> {
    PATTERN.write(&conn.client, 3, PART)?;
    PATTERN.read(&conn.server, 3, PART)?;
    PATTERN.write(&conn.server, 7, PART)?;
    PATTERN.read(&conn.client, 7, PART)
}

/// As if nothing had happened.
fn goes_on(env: &Env, conn: &Conn) -> Result<()> {
    exchange(conn)?;
    if env.spliced() {
        exchange_until_spliced(conn)?;
    }
    Ok(())
}

/// What the connections of a sweep may have sent.
fn claim() -> Claim {
    Claim::ring(1).tcp(1 << 30)
}

/// The counter, or 0 over plain TCP.
fn count(since: &Counters, name: &str) -> u64 {
    since.get(name).unwrap_or(0)
}

/// Aimed, since the accepted end is made in an interrupt. Both ends stay TCP, and the next connection does not.
fn pairing(env: &Env) -> Result<Claim> {
    for (cache, skipped) in [
        ("tcp_splice_endpoint", 0),
        ("tcp_splice_pair", 0),
        ("tcp_splice_endpoint", 1),
    ] {
        let before = Counters::read()?;
        let fault = OfCache::after(cache, skipped)?;
        let conn = patient(env.cold()?)?;
        drop(fault);
        exchange(&conn)?;
        let since = Counters::read()?.since(&before);
        ensure!(
            since.get("refused_no_memory")? == 1
                && since.get("pairs_made")? == 0
                && since.get("ring_bytes")? == 0,
            "without {cache} {skipped}: {:?}",
            since.moved()
        );
        drop(conn);
        goes_on(env, &patient(env.conn()?)?)?;
    }
    Ok(claim())
}

/// True for an error that a call may end with for want of memory.
fn lacks_memory(error: &io::Error) -> bool {
    let allowed = [libc::ENOMEM, libc::ENOBUFS, libc::ENFILE];
    error.raw_os_error().is_some_and(|it| allowed.contains(&it))
}

fn connect(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let address = env.link.address(&listener)?.into();
    sweep_some(|nth, n| {
        let socket = env.link.client_socket()?;
        socket.set_tcp_nodelay(true)?;
        let (connected, hit) = nth.fails(n, || socket.connect(&address))?;
        match connected {
            Ok(()) => {
                let (server, _) = listener.accept()?;
                let client = socket.into();
                exchange(&patient(Conn { client, server })?)?;
            }
            Err(error) => ensure!(lacks_memory(&error), "connect() failed: {error}"),
        }
        goes_on(env, &patient(env.conn()?)?)?;
        Ok(hit)
    })?;
    Ok(claim())
}

/// A connection that could not be accepted stays in the queue.
fn accept(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    listener.set_nonblocking(true)?;
    sweep_some(|nth, n| {
        let client = env.link.connect(&listener)?;
        client.set_nodelay(true)?;
        let (accepted, hit) = nth.fails(n, || listener.accept())?;
        let server = match accepted {
            Ok((server, _)) => server,
            Err(error) => {
                ensure!(lacks_memory(&error), "accept() failed: {error}");
                wait_for_another(&listener)?
            }
        };
        server.set_nonblocking(false)?;
        server.set_nodelay(true)?;
        goes_on(env, &patient(Conn { client, server })?)?;
        Ok(hit)
    })?;
    Ok(claim())
}

fn wait_for_another(listener: &TcpListener) -> Result<std::net::TcpStream> {
    let mut accepted = None;
    wait_until("the connection", || {
        accepted = listener.accept().ok();
        Ok(accepted.is_some())
    })?;
    Ok(accepted.context("no connection")?.0)
}

fn first_send(env: &Env) -> Result<Claim> {
    let bytes = PATTERN.bytes(0, PART);
    sweep_for(env, &["table", "chunk"], |nth, n, seen| {
        let conn = patient(env.cold()?)?;
        let before = env.counters()?;
        let (sent, hit) = nth.fails(n, || sys::send(&conn.client, &bytes, 0))?;
        let sent = sent.context("send() failed")?;
        ensure!(sent == PART, "{sent} bytes sent");
        let since = env.since(&before)?;
        let no_memory = count(&since, "left_memory") == 1;
        let started = count(&since, "ring_starts") == 1;
        seen.note("table", no_memory && !started);
        seen.note("chunk", no_memory && started);
        PATTERN.read(&conn.server, 0, PART)?;
        goes_on(env, &conn)?;
        Ok(hit)
    })?;
    Ok(claim())
}

/// Nobody reads until a ring of 64 KiB has grown, or could not.
fn growth(env: &Env) -> Result<Claim> {
    const FIRST_SIZE: u64 = 64 << 10;
    let bytes = PATTERN.bytes(0, 150_000);
    sweep_for(
        env,
        &["chunk", "table", "chunk of the grown ring"],
        |nth, n, seen| {
            let conn = patient(env.conn()?)?;
            // A table of more than a page would come from elsewhere if it cannot be had in one piece.
            for socket in [&conn.client, &conn.server] {
                setsockopt(socket, sockopt::SndBuf, &200_000)?;
                setsockopt(socket, sockopt::RcvBuf, &200_000)?;
            }
            let before = env.counters()?;
            let (sent, hit) =
                nth.fails(n, || sys::send(&conn.client, &bytes, libc::MSG_DONTWAIT))?;
            let since = env.since(&before)?;
            let in_ring = count(&since, "ring_bytes");
            let no_memory = count(&since, "left_memory") == 1;
            let grown = count(&since, "ring_grows") == 1;
            seen.note("chunk", no_memory && in_ring < FIRST_SIZE);
            seen.note("table", no_memory && in_ring == FIRST_SIZE && !grown);
            seen.note("chunk of the grown ring", no_memory && grown);
            let sent = match sent {
                Ok(sent) => sent,
                // Of plain TCP: no memory is no room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !env.spliced() => 0,
                Err(error) => bail!("send() failed: {error}"),
            };
            PATTERN.read(&conn.server, 0, sent)?;
            goes_on(env, &conn)?;
            Ok(hit)
        },
    )?;
    Ok(claim())
}

fn receive(env: &Env) -> Result<Claim> {
    let mut buffer = vec![0; PART];
    sweep_none(env, |nth, n| {
        let conn = patient(env.conn()?)?;
        PATTERN.write(&conn.client, 0, PART)?;
        let (got, hit) = nth.fails(n, || sys::recv(&conn.server, &mut buffer, 0))?;
        let got = got.context("recv() failed")?;
        PATTERN.check(0, &buffer[..got])?;
        PATTERN.read(&conn.server, got as u64, PART - got)?;
        goes_on(env, &conn)?;
        Ok(hit)
    })?;
    Ok(claim())
}

/// A few bytes are copied into a page, which is not refused.
fn splice_few_bytes(env: &Env) -> Result<Claim> {
    const FEW: usize = 1000;
    sweep_none(env, |nth, n| {
        let conn = patient(env.conn()?)?;
        let (out, into) = pipe()?;
        PATTERN.write(&conn.client, 0, FEW)?;
        let flags = SpliceFFlags::empty();
        let (moved, hit) = nth.fails(n, || splice(&conn.server, None, &into, None, FEW, flags))?;
        let moved = moved.context("splice() failed")?;
        ensure!(moved == FEW, "splice() gave {moved} bytes");
        PATTERN.read(File::from(out), 0, FEW)?;
        goes_on(env, &conn)?;
        Ok(hit)
    })?;
    Ok(claim())
}

/// Bytes that came over TCP stand before the ring's, and go to the pipe through pages of ours.
fn splice_over_tcp(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 10_000;
    sweep_some(|nth, n| {
        let conn = patient(env.conn()?)?;
        let (out, into) = pipe()?;
        sys::send_with_timestamp(&conn.client, &PATTERN.bytes(0, LENGTH))?;
        wait_until("bytes to arrive", || {
            Ok(sys::readable_bytes(&conn.server)? == LENGTH)
        })?;
        let flags = SpliceFFlags::empty();
        let take = |length| splice(&conn.server, None, &into, None, length, flags);
        let (moved, hit) = nth.fails(n, || take(LENGTH))?;
        let mut moved = moved.context("splice() failed")?;
        while moved < LENGTH {
            moved += take(LENGTH - moved)?;
        }
        drop(into);
        PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
        goes_on(env, &conn)?;
        Ok(hit)
    })?;
    Ok(claim())
}

/// The sender has to note which chunks a pipe has; where it cannot, the pipe keeps one.
fn lent_chunks(env: &Env) -> Result<Claim> {
    const LENT: usize = 36_000;
    const FIRST: usize = 50_000;
    const SECOND: usize = 30_000;
    const CHUNK_KBYTES: u64 = 16;
    const HEAD_KBYTES: u64 = 4;
    let bytes = PATTERN.bytes(FIRST as u64, SECOND);
    let round = |nth: &Nth, n| -> Result<(bool, Option<u64>)> {
        let conn = patient(env.conn()?)?;
        let (out, into) = pipe()?;
        // The other direction's memory is not to come and go meanwhile.
        wait_until("idle rings to have no memory", || {
            Ok(Counters::read()?.get("ring_kbytes_alive")? < HEAD_KBYTES)
        })?;
        // Some bytes stay in the ring, so that it is not idle.
        PATTERN.write(&conn.client, 0, FIRST)?;
        let mut lent = 0;
        while lent < LENT {
            let flags = SpliceFFlags::empty();
            lent += splice(&conn.server, None, &into, None, LENT - lent, flags)?;
        }
        let before = Counters::read()?;
        let (sent, hit) = nth.fails(n, || sys::send(&conn.client, &bytes, libc::MSG_DONTWAIT))?;
        let now = Counters::read()?;
        ensure!(sent.context("send() failed")? == SECOND, "a short send()");
        let in_ring = now.since(&before).get("left_memory")? == 0;
        let held = now.get("ring_kbytes_alive")?;
        PATTERN.read(&conn.server, LENT as u64, FIRST + SECOND - LENT)?;
        drop(into);
        PATTERN.read_to_end(File::from(out), 0, LENT)?;
        goes_on(env, &conn)?;
        Ok((hit, in_ring.then_some(held)))
    };
    let (_, usual) = round(&Nth::any()?, MOST)?;
    sweep_for(env, &["places"], |nth, n, seen| {
        let (hit, held) = round(nth, n)?;
        seen.note("places", held.map(|held| held + CHUNK_KBYTES) == usual);
        Ok(hit)
    })?;
    Ok(claim())
}

/// TCP_REPAIR wants the ring's bytes in TCP's queue, in which a segment on both sides of the border has to be split. ENOMEM: nothing has
/// moved, and asking again helps.
fn hand_back(env: &Env) -> Result<Claim> {
    const FIRST: usize = 100;
    let listener = env.link.listen()?;
    sweep_for(env, &["segment"], |nth, n, seen| {
        let client = env.link.connect(&listener)?;
        client.set_nodelay(true)?;
        PATTERN.write(&client, 0, FIRST)?;
        let (server, _) = listener.accept()?;
        let conn = patient(Conn { client, server })?;
        wait_until("bytes to arrive", || {
            Ok(sys::readable_bytes(&conn.server)? == FIRST)
        })?;
        PATTERN.write(&conn.client, FIRST as u64, PART)?;
        conn.client.shutdown(Shutdown::Write)?;
        Watch::level(&conn.server, libc::EPOLLRDHUP)?.expect(libc::EPOLLRDHUP)?;
        let repair = |on| setsockopt(&conn.server, sockopt::TcpRepair, &on);
        let (set, hit) = nth.fails(n, || repair(1))?;
        if let Err(error) = set {
            ensure!(
                error == nix::Error::ENOMEM && env.spliced(),
                "TCP_REPAIR failed: {error}"
            );
            seen.note("segment", hit);
            repair(1).context("TCP_REPAIR failed again")?;
        }
        repair(0)?;
        PATTERN.read_to_end(&conn.server, 0, FIRST + PART)?;
        PATTERN.write(&conn.server, 5, PART)?;
        PATTERN.read(&conn.client, 5, PART)?;
        Ok(hit)
    })?;
    Ok(claim())
}

/// One pass over all sockets, which leaves some for the next one if it has to.
fn drain(env: &Env) -> Result<Claim> {
    let mut file = File::options()
        .write(true)
        .open("/proc/net/tcp_splice_drain")?;
    sweep_for(env, &["request", "segment"], |nth, n, seen| {
        let conn = patient(env.conn()?)?;
        PATTERN.write(&conn.client, 0, PART)?;
        PATTERN.write(&conn.server, 1, PART)?;
        let before = Counters::read()?;
        let (passed, hit) = nth.fails(n, || file.write_all(b"\n"))?;
        if let Err(error) = passed {
            let nothing_done = error.raw_os_error() == Some(libc::ENOMEM);
            let some_left = error.kind() == io::ErrorKind::WouldBlock;
            ensure!(nothing_done || some_left, "the drain failed: {error}");
            seen.note("request", hit && nothing_done);
            seen.note("segment", hit && some_left);
            wait_until("all to be drained", || Ok(file.write_all(b"\n").is_ok()))?;
        }
        PATTERN.read(&conn.server, 0, PART)?;
        PATTERN.read(&conn.client, 1, PART)?;
        exchange(&conn)?;
        let drained = Counters::read()?.since(&before).get("drained")?;
        ensure!(drained == 2, "{drained} sockets drained");
        Ok(hit)
    })?;
    Ok(claim())
}

fn list(env: &Env) -> Result<Claim> {
    let conn = patient(env.conn()?)?;
    let port = format!(":{} ", conn.server.local_addr()?.port());
    for (path, word) in [
        ("/proc/net/tcp_splice", port.as_str()),
        ("/proc/net/tcp_splice_stat", "pairs_made "),
    ] {
        sweep_for(env, &["reader"], |nth, n, seen| {
            let (text, hit) = nth.fails(n, || fs::read_to_string(path))?;
            match text {
                Ok(text) => ensure!(text.contains(word), "{path} says {text:?}"),
                Err(error) => {
                    ensure!(lacks_memory(&error), "{path} cannot be read: {error}");
                    seen.note("reader", hit);
                }
            }
            Ok(hit)
        })?;
    }
    goes_on(env, &conn)?;
    Ok(claim())
}

/// The module is loaded, or nothing of it is. Aimed, since the kernel makes hundreds of allocations of its own to load any module. Slab caches are
/// not among them: the kernel's log would tell of each that cannot be made.
fn load(_env: &Env) -> Result<Claim> {
    /// More of a kind are not made while a module is loaded.
    const OBJECTS: u64 = 64;
    let path = run(&["modinfo", "-n", "tcp_splice"])?;
    let file = File::open(path.trim()).context("failed to open the module")?;
    policy::disable()?;
    policy::unload(SOON)?;
    for (cache, least) in [("proc_dir_entry", 4), ("kmalloc-cg-4k", 1)] {
        let mut failures = 0;
        for skipped in 0..OBJECTS {
            let fault = OfCache::after(cache, skipped)?;
            let loaded = sys::load_module(&file);
            let hit = fault.hit()?;
            drop(fault);
            match loaded {
                Ok(()) => policy::unload(SOON)?,
                Err(error) => {
                    ensure!(
                        hit && lacks_memory(&error),
                        "without {cache} {skipped}: {error}"
                    );
                    ensure!(!policy::loaded(), "a module that failed to load is there");
                    failures += 1;
                }
            }
            if !hit {
                break;
            }
        }
        println!("{cache}: {failures} failures");
        ensure!(failures >= least, "{failures} failures for want of {cache}");
    }
    policy::restore()?;
    Ok(Claim::untouched().after_reload())
}
