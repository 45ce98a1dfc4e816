// SPDX-License-Identifier: GPL-2.0-only
//! A full ring blocks the sender, or says so.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("blocks_and_resumes", blocks_and_resumes),
    Scenario::each("says_eagain", says_eagain),
    Scenario::each("short_count", short_count),
    Scenario::each("level_out_after_space", level_out_after_space),
    Scenario::each("edge_out_after_space", edge_out_after_space),
    Scenario::each(
        "nobody_waits_for_a_blocked_sender",
        nobody_waits_for_a_blocked_sender,
    ),
    Scenario::each(
        "nobody_waits_for_a_blocked_receiver",
        nobody_waits_for_a_blocked_receiver,
    ),
    Scenario::each("both_full_then_both_read", both_full_then_both_read),
];

const PATTERN: Pattern = Pattern::new(77);

/// Far more than a ring and all of TCP's buffers hold.
const MUCH: usize = 24 << 20;

/// Sends until EAGAIN and returns how much went.
pub fn fill(socket: &TcpStream, from: usize, piece: usize) -> Result<usize> {
    let mut sent = 0;
    while sent < MUCH {
        let bytes = PATTERN.bytes((from + sent) as u64, piece);
        match sys::send(socket, &bytes, libc::MSG_DONTWAIT) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sent),
            Err(error) => bail!("failed to send after {sent} bytes: {error}"),
        }
    }
    bail!("a non-blocking sender was never stopped")
}

fn blocks_and_resumes(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let sender = Asleep::start(move || PATTERN.write(&client, 0, MUCH).map(|()| client))?;
    ensure!(!sender.finished(), "sending {MUCH} bytes did not block");
    PATTERN.read(&server, 0, MUCH)?;
    drop(sender.join()?);
    Ok(Claim::ring(MUCH))
}

fn says_eagain(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let mut total = 0;
    for piece in [1000, 5000, 100_000] {
        let sent = fill(&conn.client, total, piece)?;
        ensure!(sent > 0, "nothing could be sent into an empty connection");
        PATTERN.read(&conn.server, total as u64, sent)?;
        total += sent;
    }
    Ok(Claim::ring(total))
}

fn short_count(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let bytes = PATTERN.bytes(0, MUCH);
    let sent = sys::send(&conn.client, &bytes, libc::MSG_DONTWAIT)?;
    ensure!(0 < sent && sent < MUCH, "{sent} bytes sent at once");
    PATTERN.read(&conn.server, 0, sent)?;
    ensure!(
        sys::readable_bytes(&conn.server)? == 0,
        "more bytes than the count said"
    );
    Ok(Claim::ring(sent))
}

fn level_out_after_space(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let watch = Watch::level(&conn.client, libc::EPOLLOUT)?;
    watch.expect(libc::EPOLLOUT)?;
    let sent = fill(&conn.client, 0, 4000)?;
    watch.expect_nothing()?;
    PATTERN.read(&conn.server, 0, sent)?;
    watch.expect(libc::EPOLLOUT)?;
    let more = fill(&conn.client, sent, 4000)?;
    ensure!(more > 0, "EPOLLOUT was reported but nothing could be sent");
    PATTERN.read(&conn.server, sent as u64, more)?;
    Ok(Claim::ring(sent + more))
}

fn edge_out_after_space(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let watch = Watch::edge(&conn.client, libc::EPOLLOUT)?;
    watch.expect(libc::EPOLLOUT)?;
    let mut total = 0;
    for piece in [100_000, 1000, 30_000] {
        let sent = fill(&conn.client, total, piece)?;
        watch.expect_nothing()?;
        PATTERN.read(&conn.server, total as u64, sent)?;
        watch.expect(libc::EPOLLOUT)?;
        total += sent;
    }
    Ok(Claim::ring(total))
}

fn nobody_waits_for_a_blocked_sender(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let client = Arc::new(client);
    let own = Arc::clone(&client);
    let sender = Asleep::start(move || PATTERN.write(&*own, 0, MUCH))?;
    for _ in 0..20 {
        let error = sys::send(&*client, b"x", libc::MSG_DONTWAIT).err();
        let error = error.context("a non-blocking send succeeded while another one blocks")?;
        ensure!(
            error.kind() == ErrorKind::WouldBlock,
            "send failed with {error}"
        );
    }
    let error = sys::recv(&*client, &mut [0], libc::MSG_DONTWAIT)
        .err()
        .context("recv succeeded")?;
    ensure!(
        error.kind() == ErrorKind::WouldBlock,
        "recv failed with {error}"
    );
    ensure!(!sender.finished(), "the blocked sender came back");
    PATTERN.read(&server, 0, MUCH)?;
    sender.join()?;
    Ok(Claim::ring(MUCH))
}

fn nobody_waits_for_a_blocked_receiver(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let server = Arc::new(server);
    let own = Arc::clone(&server);
    let receiver = Asleep::start(move || PATTERN.read(&*own, 0, 10))?;
    for _ in 0..20 {
        for flags in [0, libc::MSG_PEEK] {
            let error = sys::recv(&*server, &mut [0], libc::MSG_DONTWAIT | flags).err();
            let error = error.context("a non-blocking recv succeeded with nothing to read")?;
            ensure!(
                error.kind() == ErrorKind::WouldBlock,
                "recv failed with {error}"
            );
        }
    }
    PATTERN.write(&*server, 0, 100)?;
    PATTERN.read(&client, 0, 100)?;
    PATTERN.write(&client, 0, 10)?;
    receiver.join()?;
    Ok(Claim::ring(110))
}

/// Both directions stand still at once, and both go on.
fn both_full_then_both_read(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 12 << 20;
    let conn = env.conn()?;
    let sends = [&conn.client, &conn.server].map(|socket| -> Result<_> {
        let socket = socket.try_clone()?;
        Asleep::start(move || PATTERN.write(&socket, 0, LENGTH))
    });
    let reads = [&conn.server, &conn.client].map(|socket| -> Result<_> {
        let socket = socket.try_clone()?;
        Ok(thread::spawn(move || PATTERN.read(&socket, 0, LENGTH)))
    });
    for read in reads {
        read?.join().expect("reader panicked")?;
    }
    for send in sends {
        send?.join()?;
    }
    (&conn.client).flush()?;
    Ok(Claim::ring(2 * LENGTH))
}
