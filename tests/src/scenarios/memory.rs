// SPDX-License-Identifier: GPL-2.0-only
//! Rings and memory cgroups: the sender's pays, and at its memory.max the bytes go over TCP. Nobody gets an error or is killed for a ring.
//!
//! The process goes into a cgroup to send. Its sockets were made outside, so that TCP's own buffers are not charged inside, where they may
//! well kill; its pages are locked, so that a send() needs no memory there but the ring's. (The limit of all rings together: group `idle`.)

use std::fs;
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use nix::sys::mman::{MlockAllFlags, mlockall};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::RING_KBYTES;

use crate::cgroup::Cgroup;
use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("sender_pays", sender_pays).reconfigures(),
    Scenario::one(
        "first_sender_pays_for_the_pair",
        first_sender_pays_for_the_pair,
    )
    .spliced_only(),
    Scenario::one(
        "next_sender_pays_for_the_pair",
        next_sender_pays_for_the_pair,
    )
    .spliced_only(),
    Scenario::one("no_room_for_anything", no_room_for_anything).spliced_only(),
    Scenario::one("no_room_for_a_table", no_room_for_a_table).reconfigures(),
    Scenario::one("no_room_for_a_head", no_room_for_a_head).spliced_only(),
    Scenario::one("no_room_for_a_chunk", no_room_for_a_chunk).spliced_only(),
    Scenario::one("room_ends_on_the_way", room_ends_on_the_way).spliced_only(),
];

const PATTERN: Pattern = Pattern::new(91);

/// What a cgroup may be charged with beside rings: what each processor has fetched in advance.
const OTHERS: u64 = 1 << 20;

/// From here on the process's own pages are all there.
fn lock_pages() -> Result<()> {
    mlockall(MlockAllFlags::all()).context("failed to lock this process's pages")
}

/// Both ways, until both directions use the ring (again).
pub fn exchange_until_spliced(conn: &Conn) -> Result<()> {
    const LENGTH: usize = 1000;
    wait_until("both directions in the ring", || {
        let before = Counters::read()?;
        for (from, to) in [(&conn.client, &conn.server), (&conn.server, &conn.client)] {
            PATTERN.write(from, 0, LENGTH)?;
            PATTERN.read(to, 0, LENGTH)?;
        }
        Ok(Counters::read()?.since(&before).get("ring_bytes")? == 2 * LENGTH as u64)
    })
}

/// The limit was met, and nobody was to die for it.
fn only_refused(cgroup: &Cgroup) -> Result<()> {
    ensure!(cgroup.events("max")? > 0, "memory.max was not met");
    for event in ["oom", "oom_kill"] {
        let count = cgroup.events(event)?;
        ensure!(count == 0, "memory.events: {event} {count}");
    }
    Ok(())
}

/// A large ring is filled in one cgroup and read in another.
fn sender_pays(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 6 << 20;
    fs::write(RING_KBYTES, "8192")?;
    let Conn { client, server } = env.conn()?;
    fs::write(RING_KBYTES, "64")?;
    let sender = Cgroup::with_memory("sender", "max")?;
    let receiver = Cgroup::with_memory("receiver", "max")?;
    let sent = PATTERN.bytes(0, LENGTH);
    let mut got = vec![1; LENGTH];
    lock_pages()?;
    let count = sender.within(|| sys::send(&client, &sent, libc::MSG_DONTWAIT))??;
    ensure!(count == LENGTH, "a ring of 8 MiB took {count} bytes");
    let paid = sender.memory()?;
    ensure!(
        paid >= LENGTH as u64,
        "the sender's cgroup has {paid} bytes for {LENGTH} in the ring"
    );
    let count = receiver.within(|| sys::recv(&server, &mut got, libc::MSG_WAITALL))??;
    PATTERN.check(0, &got[..count])?;
    ensure!(count == LENGTH, "recv() gave {count} bytes");
    let paid = receiver.memory()?;
    ensure!(paid < OTHERS, "the receiver's cgroup has {paid} bytes");
    // An idle ring has no memory.
    wait_until("the sender's cgroup to get its memory back", || {
        Ok(sender.memory()? < OTHERS)
    })
    .with_context(|| {
        let kbytes = Counters::read().and_then(|now| now.get("ring_kbytes_alive"));
        format!(
            "{:?} bytes charged, rings hold {kbytes:?} KiB",
            sender.memory()
        )
    })?;
    Ok(Claim::ring(LENGTH))
}

/// The pair itself, beside the ring that a direction has. Who sends second pays for a ring only.
fn first_sender_pays_for_the_pair(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 400;
    let conns = env.many_cold(CONNECTIONS)?;
    lock_pages()?;
    pair_is_paid(conns)?;
    Ok(Claim::ring(2 * CONNECTIONS).pairs(CONNECTIONS as u64))
}

/// Who has no room for the pair does not pay for it: the next one does.
fn next_sender_pays_for_the_pair(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 200;
    let conns = env.many_cold(CONNECTIONS)?;
    let byte = PATTERN.bytes(0, 1);
    let poor = Cgroup::with_memory("poor", "0")?;
    lock_pages()?;
    let before = Counters::read()?;
    for Conn { client, server } in &conns {
        let sent = poor.within(|| sys::send(server, &byte, 0))??;
        ensure!(sent == 1, "{sent} bytes sent without memory");
        PATTERN.read(client, 0, 1)?;
    }
    let since = Counters::read()?.since(&before);
    let (refused, in_ring) = (since.get("left_memory")?, since.get("ring_bytes")?);
    ensure!(
        refused == CONNECTIONS as u64 && in_ring == 0,
        "of {CONNECTIONS} senders {refused} were refused, {in_ring} bytes in rings"
    );
    only_refused(&poor)?;
    pair_is_paid(conns)?;
    Ok(Claim::ring(2 * CONNECTIONS)
        .pairs(CONNECTIONS as u64)
        .any_tcp())
}

/// The servers send first, in one cgroup, until all are in the ring; and then the clients, in another: the pairs are the first one's, until they go.
fn pair_is_paid(conns: Vec<Conn>) -> Result<()> {
    /// Less than a pair has.
    const PAIR: u64 = 768;
    let (byte, all) = (PATTERN.bytes(0, 1), conns.len() as u64);
    let first = Cgroup::with_memory("first", "max")?;
    let second = Cgroup::with_memory("second", "max")?;
    let in_ring = || Counters::read()?.get("ring_bytes");
    let send = |cgroup: &Cgroup, from: &TcpStream| -> Result<bool> {
        let before = in_ring()?;
        let sent = cgroup.within(|| sys::send(from, &byte, 0))??;
        ensure!(sent == 1, "{sent} bytes sent");
        Ok(in_ring()? > before)
    };
    let mut left: Vec<&Conn> = conns.iter().collect();
    wait_until("all servers to send through rings", || {
        let mut still = Vec::new();
        for conn in &left {
            if !send(&first, &conn.server)? {
                // Nothing before the ring may be under way.
                PATTERN.read(&conn.client, 0, 1)?;
                still.push(*conn);
            }
        }
        left = still;
        Ok(left.is_empty())
    })?;
    for conn in &conns {
        ensure!(
            send(&second, &conn.client)?,
            "a client's byte went over TCP"
        );
    }
    let [with_pair, without] = [&first, &second].map(|cgroup| cgroup.stat("slab"));
    let (with_pair, without) = (with_pair? / all, without? / all);
    ensure!(
        without > 0 && with_pair >= without + PAIR,
        "the first sender has {with_pair} bytes for a connection, the second {without}"
    );
    drop(conns);
    wait_until("the first sender's cgroup to get its memory back", || {
        Ok(first.stat("slab")? < all * PAIR / 2)
    })
}

/// Sends from inside, where nothing but `limit` bytes may be had, and reads outside; then it goes on in the ring. What was counted.
/// As many bytes as are `in_ring` found room.
fn send_without_room(env: &Env, limit: &str, in_ring: u64) -> Result<Counters> {
    const ROUNDS: usize = 10;
    const LENGTH: usize = 1000;
    let conn = env.cold()?;
    let cgroup = Cgroup::with_memory("sender", limit)?;
    let bytes = PATTERN.bytes(0, LENGTH);
    lock_pages()?;
    let before = Counters::read()?;
    for round in 0..ROUNDS {
        let sent = cgroup.within(|| sys::send(&conn.client, &bytes, 0))?;
        let sent = sent.with_context(|| format!("failed to send in round {round}"))?;
        ensure!(sent == LENGTH, "{sent} bytes sent in round {round}");
        PATTERN.read(&conn.server, 0, LENGTH)?;
    }
    let since = Counters::read()?.since(&before);
    ensure!(
        since.get("ring_bytes")? == in_ring
            && since.get("tcp_bytes")? == (ROUNDS * LENGTH) as u64 - in_ring,
        "not all bytes but {in_ring} went over TCP: {:?}",
        since.moved()
    );
    only_refused(&cgroup)?;
    exchange_until_spliced(&conn)?;
    Ok(since)
}

/// Neither for the pair, which is asked for first, nor for the table.
fn no_room_for_anything(env: &Env) -> Result<Claim> {
    no_room_to_begin(env, "0")
}

/// A page is enough for the pair, and the table of a ring of 16 MiB has more.
fn no_room_for_a_table(env: &Env) -> Result<Claim> {
    fs::write(RING_KBYTES, "16384")?;
    let claim = no_room_to_begin(env, "4096");
    fs::write(RING_KBYTES, "64")?;
    claim
}

/// A lane that cannot begin is counted once, not with each message.
fn no_room_to_begin(env: &Env, limit: &str) -> Result<Claim> {
    let since = send_without_room(env, limit, 0)?;
    ensure!(
        since.get("ring_starts")? == 0 && since.get("left_memory")? == 1,
        "{:?}",
        since.moved()
    );
    Ok(Claim::ring(1).tcp(20_000))
}

/// A page is enough for the pair and the table of chunks, not for the head as well.
fn no_room_for_a_head(env: &Env) -> Result<Claim> {
    no_room_behind_the_table(env, "4096", 0)
}

/// Four pages are enough for the pair, the table of chunks and the head, with whatever a kernel with checkers puts around it; not for the table and a chunk.
fn no_room_for_a_chunk(env: &Env) -> Result<Claim> {
    no_room_behind_the_table(env, "16384", 4096)
}

fn no_room_behind_the_table(env: &Env, limit: &str, in_ring: u64) -> Result<Claim> {
    let since = send_without_room(env, limit, in_ring)?;
    let (starts, leaves) = (since.get("ring_starts")?, since.get("left_memory")?);
    ensure!(
        starts > 0 && leaves == starts,
        "{starts} starts, {leaves} leaves for want of memory"
    );
    Ok(Claim::ring(in_ring as usize + 1).tcp(20_000))
}

/// Sends until EAGAIN; how much.
fn fill(socket: &TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match sys::send(socket, &bytes[sent..], libc::MSG_DONTWAIT) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Nobody reads, and the ring grows into the limit; the rest stands in TCP's buffers, behind it.
fn room_ends_on_the_way(env: &Env) -> Result<Claim> {
    const LIMIT: usize = 512 << 10;
    let conn = env.conn()?;
    let cgroup = Cgroup::with_memory("sender", &LIMIT.to_string())?;
    let bytes = PATTERN.bytes(0, 4 << 20);
    lock_pages()?;
    let before = Counters::read()?;
    let sent = cgroup.within(|| fill(&conn.client, &bytes))?;
    let sent = sent.context("failed to send")?;
    let since = Counters::read()?.since(&before);
    let in_ring = since.get("ring_bytes")? as usize;
    ensure!(
        since.get("ring_grows")? == 1 && since.get("left_memory")? == 1,
        "the ring did not grow into the limit: {:?}",
        since.moved()
    );
    // Half of the limit may stand in another processor's stock (MEMCG_CHARGE_BATCH).
    ensure!(
        LIMIT / 4 < in_ring && in_ring < LIMIT + (64 << 10) && in_ring < sent,
        "{in_ring} of {sent} bytes in the ring with room for {LIMIT}"
    );
    only_refused(&cgroup)?;
    PATTERN.read(&conn.server, 0, sent)?;
    exchange_until_spliced(&conn)?;
    Ok(Claim::ring(in_ring).tcp(bytes.len()))
}
