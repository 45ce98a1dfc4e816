// SPDX-License-Identifier: GPL-2.0-only
//! splice(2) from the socket lends the ring's pages to the pipe, and nobody writes to them while the pipe has them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice, tee};
use nix::unistd::pipe;
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("pages_stay_as_they_were", pages_stay_as_they_were),
    Scenario::each("pages_outlive_the_connection", pages_outlive_the_connection),
    Scenario::each("pages_go_to_two_pipes", pages_go_to_two_pipes),
    Scenario::each("pages_come_back", pages_come_back),
    Scenario::each("lending_has_an_end", lending_has_an_end),
    Scenario::each("few_bytes_are_copied", few_bytes_are_copied),
    Scenario::each("full_pipe", full_pipe),
    Scenario::each("closed_pipe", closed_pipe),
    Scenario::each("file_position", file_position),
];

const PATTERN: Pattern = Pattern::new(42);
const LENGTH: usize = 60_000;

/// splice(2) of what is there, at most `length` bytes.
fn take(from: &impl AsFd, to: &impl AsFd, length: usize) -> Result<usize> {
    splice(from, None, to, None, length, SpliceFFlags::empty()).context("failed to splice")
}

/// `length` bytes from position 0 of the pattern in a pipe, out of the ring.
fn in_a_pipe(conn: &Conn, length: usize) -> Result<OwnedFd> {
    let (out, into) = pipe()?;
    PATTERN.write(&conn.client, 0, length)?;
    let mut moved = 0;
    while moved < length {
        moved += take(&conn.server, &into, length - moved)?;
    }
    Ok(out)
}

/// What was lent since `before`; nothing over plain TCP.
fn lent(env: &Env, before: &tcp_splice_world::counters::Counters) -> Result<u64> {
    if env.spliced() {
        env.since(before)?.get("lent_bytes")
    } else {
        Ok(0)
    }
}

/// While the pipe holds the pages, the ring carries its own size many times over.
fn pages_stay_as_they_were(env: &Env) -> Result<Claim> {
    const ROUNDS: usize = 40;
    let conn = env.conn()?;
    let before = env.counters()?;
    let out = in_a_pipe(&conn, LENGTH)?;
    if env.spliced() {
        let lent = lent(env, &before)?;
        ensure!(lent > LENGTH as u64 / 2, "only {lent} bytes were lent");
    }
    for round in 0..ROUNDS {
        PATTERN.write(&conn.client, round as u64, LENGTH)?;
        PATTERN.read(&conn.server, round as u64, LENGTH)?;
    }
    PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
    Ok(Claim::ring((ROUNDS + 1) * LENGTH))
}

fn pages_outlive_the_connection(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let before = env.counters()?;
    let out = in_a_pipe(&conn, LENGTH)?;
    drop(conn);
    if env.spliced() {
        ensure!(lent(env, &before)? > 0, "no bytes were lent");
        crate::env::wait_until("the pair to go", || {
            Ok(env.counters()?.get("pairs_alive")? <= before.get("pairs_alive")?.saturating_sub(1))
        })?;
    }
    PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
    Ok(Claim::ring(LENGTH))
}

fn pages_go_to_two_pipes(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let out = in_a_pipe(&conn, LENGTH)?;
    let (second, into) = pipe()?;
    let copied = tee(&out, &into, LENGTH, SpliceFFlags::empty())?;
    ensure!(copied == LENGTH, "tee gave {copied} bytes");
    drop(into);
    PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
    PATTERN.write(&conn.client, 0, LENGTH)?;
    PATTERN.read(&conn.server, 0, LENGTH)?;
    PATTERN.read_to_end(File::from(second), 0, LENGTH)?;
    Ok(Claim::ring(2 * LENGTH))
}

/// A pipe that is read gives its pages back: the connection needs no more memory than it has.
fn pages_come_back(env: &Env) -> Result<Claim> {
    const ROUNDS: usize = 50;
    let conn = env.conn()?;
    in_a_pipe(&conn, LENGTH)?;
    let before = env.counters()?;
    for _ in 0..ROUNDS {
        let out = in_a_pipe(&conn, LENGTH)?;
        PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
    }
    if env.spliced() {
        let delta = env.since(&before)?;
        ensure!(
            delta.get("ring_kbytes_alive")? <= 128,
            "memory grew: {:?}",
            delta.moved()
        );
        let lent = delta.get("lent_bytes")?;
        ensure!(
            lent > (ROUNDS * LENGTH / 2) as u64,
            "only {lent} bytes were lent"
        );
    }
    Ok(Claim::ring((ROUNDS + 1) * LENGTH))
}

/// Pipes that nobody reads hold on to 1 MiB and what stands in the ring; beyond that they get copies. All bytes are right at the end.
fn lending_has_an_end(env: &Env) -> Result<Claim> {
    const PIPES: usize = 60;
    let conn = env.conn()?;
    let before = env.counters()?;
    let full: Vec<OwnedFd> = (0..PIPES)
        .map(|_| in_a_pipe(&conn, LENGTH))
        .collect::<Result<_>>()?;
    if env.spliced() {
        let delta = env.since(&before)?;
        let (lent, alive) = (delta.get("lent_bytes")?, delta.get("ring_kbytes_alive")?);
        ensure!(lent > 500_000 && lent < 2_000_000, "{lent} bytes were lent");
        ensure!(alive < 2048, "rings hold {alive} KiB");
    }
    for out in full {
        PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
    }
    let again = env.counters()?;
    for _ in 0..4 {
        PATTERN.read_to_end(File::from(in_a_pipe(&conn, LENGTH)?), 0, LENGTH)?;
    }
    ensure!(
        !env.spliced() || lent(env, &again)? > 0,
        "nothing is lent any more"
    );
    Ok(Claim::ring((PIPES + 4) * LENGTH))
}

/// A few bytes should not keep a whole chunk from the ring.
fn few_bytes_are_copied(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let before = env.counters()?;
    let (out, into) = pipe()?;
    let mut out = File::from(out);
    for round in 0..200 {
        PATTERN.write(&conn.client, round * 100, 100)?;
        let moved = take(&conn.server, &into, 1000)?;
        ensure!(moved == 100, "splice gave {moved} of 100 bytes");
        PATTERN.read(&mut out, round * 100, 100)?;
    }
    ensure!(lent(env, &before)? == 0, "a few bytes were lent");
    Ok(Claim::ring(20_000))
}

/// What does not fit the pipe stays in the socket.
fn full_pipe(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (out, into) = pipe()?;
    let room = fcntl(&into, FcntlArg::F_SETPIPE_SZ(4096))?;
    ensure!(room == 4096, "the pipe has room for {room} bytes");
    PATTERN.write(&client, 0, LENGTH)?;
    let mut out = File::from(out);
    let mut done = 0;
    while done < LENGTH {
        let moved = take(&server, &into, LENGTH)?;
        ensure!(moved > 0, "splice gave 0 after {done} bytes");
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let full = splice(&server, None, &into, None, LENGTH, flags);
        ensure!(
            done + moved == LENGTH || full == Err(nix::Error::EAGAIN),
            "splice into a full pipe gave {full:?}"
        );
        PATTERN.read(&mut out, done as u64, moved)?;
        done += moved;
    }
    Ok(Claim::ring(LENGTH))
}

/// Nobody will read: EPIPE, and no byte is lost.
fn closed_pipe(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::catch(libc::SIGPIPE, false)?;
    let (out, into) = pipe()?;
    drop(out);
    PATTERN.write(&client, 0, LENGTH)?;
    let refused = splice(&server, None, &into, None, LENGTH, SpliceFFlags::empty());
    ensure!(
        refused == Err(nix::Error::EPIPE),
        "splice into a closed pipe gave {refused:?}"
    );
    PATTERN.read(&server, 0, LENGTH)?;
    Ok(Claim::ring(LENGTH))
}

/// Pages that are in a file's splice queue and then in the file.
fn file_position(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let out = in_a_pipe(&conn, LENGTH)?;
    let path = std::env::temp_dir().join(format!("tcp-splice-lend-{}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(b"head")?;
    let mut moved = 0;
    while moved < LENGTH {
        moved += take(&out, &file, LENGTH - moved)?;
    }
    let mut all = Vec::new();
    std::io::Seek::rewind(&mut file)?;
    file.read_to_end(&mut all)?;
    ensure!(all.starts_with(b"head"), "the file's start was overwritten");
    PATTERN.check(0, &all[4..])?;
    ensure!(all.len() == LENGTH + 4, "the file has {} bytes", all.len());
    Ok(Claim::ring(LENGTH))
}
