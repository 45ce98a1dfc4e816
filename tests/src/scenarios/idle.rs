// SPDX-License-Identifier: GPL-2.0-only
//! The memory of rings: it comes back when nothing is sent for a while, and there is a limit for all of them.

use std::fs;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{SpliceFFlags, splice};
use nix::unistd::pipe;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::MEMORY_MBYTES;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::each("memory_comes_back", memory_comes_back),
    Scenario::some("unread_bytes_stay", unread_bytes_stay),
    Scenario::some("lent_pages_stay", lent_pages_stay),
    Scenario::some("head_in_a_pipe_stays", head_in_a_pipe_stays),
    Scenario::one("limit_of_all_rings", limit_of_all_rings).reconfigures(),
];

const PATTERN: Pattern = Pattern::new(57);

/// KiB that rings without chunks may have: their tables, some of which have grown.
const TABLES: u64 = 64;

/// The same of two connections whose rings have not grown: less than one head.
const SMALL_TABLES: u64 = 3;

/// Waits until rings have at most `kbytes` KiB.
fn wait_for_memory(env: &Env, kbytes: u64) -> Result<()> {
    wait_until("idle rings to give their memory back", || {
        Ok(!env.spliced() || env.counters()?.get("ring_kbytes_alive")? <= kbytes)
    })
}

fn exchange(conn: &Conn, position: u64, length: usize) -> Result<()> {
    PATTERN.write(&conn.client, position, length)?;
    PATTERN.read(&conn.server, position, length)?;
    PATTERN.write(&conn.server, position, length)?;
    PATTERN.read(&conn.client, position, length)
}

/// Again and again: within the head, at its end, at the start of a chunk, in its middle and behind a ring that grew.
fn memory_comes_back(env: &Env) -> Result<Claim> {
    let conns = [env.conn()?, env.conn()?];
    let mut position = 0;
    for length in [1, 2000, 2095, 12_288, 16_384, 100, 150_000] {
        for conn in &conns {
            exchange(conn, position, length)?;
        }
        position += length as u64;
        let grown = length > 64 << 10;
        wait_for_memory(env, if grown { TABLES } else { SMALL_TABLES })?;
    }
    Ok(Claim::ring(4 * position as usize).pairs(2))
}

/// A ring that nobody reads is not idle, and the other direction is.
fn unread_bytes_stay(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 40_000;
    let conn = env.conn()?;
    exchange(&conn, 0, LENGTH)?;
    PATTERN.write(&conn.client, LENGTH as u64, LENGTH)?;
    wait_for_memory(env, 64 + TABLES)?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    PATTERN.read(&conn.server, LENGTH as u64, LENGTH)?;
    wait_for_memory(env, TABLES)?;
    exchange(&conn, 0, LENGTH)?;
    Ok(Claim::ring(5 * LENGTH))
}

/// What a pipe has of a ring is the pipe's, whatever becomes of the ring.
fn lent_pages_stay(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 16_384;
    let conn = env.conn()?;
    exchange(&conn, 0, LENGTH)?;
    let before = env.counters()?;
    let (out, _into) = into_pipe(&conn, PATTERN, LENGTH)?;
    ensure!(
        !env.spliced() || env.since(&before)?.get("lent_bytes")? > 0,
        "nothing was lent"
    );
    std::thread::sleep(std::time::Duration::from_secs(3));
    exchange(&conn, 5, 100_000)?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    exchange(&conn, 7, 100_000)?;
    let mut out = File::from(out);
    PATTERN.read(&mut out, 0, LENGTH)?;
    wait_for_memory(env, TABLES)?;
    exchange(&conn, 9, 1000)?;
    Ok(Claim::ring(400_000))
}

/// The same of the first bytes of a stream, of which a pipe gets a copy: their memory is gone, and the ring goes on in the middle of another.
fn head_in_a_pipe_stays(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 2500;
    let conn = env.conn()?;
    let before = env.counters()?;
    let (out, into) = into_pipe(&conn, PATTERN, LENGTH)?;
    ensure!(
        !env.spliced() || env.since(&before)?.get("lent_bytes")? == 0,
        "bytes of the head were lent"
    );
    wait_for_memory(env, SMALL_TABLES)?;
    exchange(&conn, 3, 100)?;
    drop(into);
    PATTERN.read_to_end(File::from(out), 0, LENGTH)?;
    Ok(Claim::ring(LENGTH))
}

/// Puts bytes from the server's end into a pipe.
pub fn into_pipe(conn: &Conn, pattern: Pattern, length: usize) -> Result<(OwnedFd, OwnedFd)> {
    pattern.write(&conn.client, 0, length)?;
    let (out, into) = pipe().context("failed to make a pipe")?;
    let mut moved = 0;
    while moved < length {
        let flags = SpliceFFlags::empty();
        moved += splice(&conn.server, None, &into, None, length - moved, flags)?;
    }
    Ok((out, into))
}

/// Connections beyond it are TCP, and say why; nobody gets an error.
fn limit_of_all_rings(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 40;
    const LENGTH: usize = 60_000;
    let conns = env.many_cold(CONNECTIONS)?;
    fs::write(MEMORY_MBYTES, "1").with_context(|| format!("failed to write {MEMORY_MBYTES}"))?;
    let before = Counters::read()?;
    let fill = |socket: &TcpStream| PATTERN.write(socket, 0, LENGTH);
    for conn in &conns {
        fill(&conn.client)?;
        fill(&conn.server)?;
    }
    let now = Counters::read()?;
    let held = now.get("ring_kbytes_alive")?;
    ensure!(held <= 1024 + TABLES, "rings hold {held} KiB of 1 MiB");
    let since = now.since(&before);
    ensure!(
        since.get("ring_bytes")? > 500_000 && since.get("tcp_bytes")? > 500_000,
        "the limit was not met: {:?}",
        since.moved()
    );
    ensure!(
        since.get("left_memory")? > 0,
        "nobody was told why: {:?}",
        since.moved()
    );
    for conn in &conns {
        PATTERN.read(&conn.server, 0, LENGTH)?;
        PATTERN.read(&conn.client, 0, LENGTH)?;
    }
    fs::write(MEMORY_MBYTES, "0")?;
    for conn in &conns {
        exchange(conn, 0, 1000)?;
    }
    Ok(Claim::ring(500_000)
        .pairs(CONNECTIONS as u64)
        .tcp(2 * CONNECTIONS * LENGTH))
}
