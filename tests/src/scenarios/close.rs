// SPDX-License-Identifier: GPL-2.0-only
//! Ordinary ends: half-close, close with everything read, shutdown.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("half_close", half_close),
    Scenario::each("half_close_of_server", half_close_of_server),
    Scenario::each("write_then_close", write_then_close),
    Scenario::each("write_then_close_late_reader", write_then_close_late_reader),
    Scenario::each("write_then_shutdown_both", write_then_shutdown_both),
    Scenario::each("both_write_then_close", both_write_then_close),
    Scenario::each("end_is_seen_again", end_is_seen_again),
    Scenario::each("send_after_shutdown", send_after_shutdown),
    Scenario::each("send_after_peer_closed", send_after_peer_closed),
    Scenario::each("shutdown_read", shutdown_read),
    Scenario::each("close_races_with_send", close_races_with_send),
];

const PATTERN: Pattern = Pattern::new(21);
/// Nearly a ring.
const LENGTH: usize = 60 << 10;

fn half_close(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    close_one_half(&client, &server)
}

fn half_close_of_server(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    close_one_half(&server, &client)
}

/// `near` says all it has and goes on listening.
fn close_one_half(near: &std::net::TcpStream, far: &std::net::TcpStream) -> Result<Claim> {
    PATTERN.write(near, 0, LENGTH)?;
    near.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(far, 0, LENGTH)?;
    for round in 0..3 {
        PATTERN.write(far, round, LENGTH)?;
        PATTERN.read(near, round, LENGTH)?;
    }
    far.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(near, 0, 0)?;
    Ok(Claim::ring(4 * LENGTH))
}

fn write_then_close(env: &Env) -> Result<Claim> {
    const LARGE: usize = 3 << 20;
    let Conn { client, server } = env.conn()?;
    let send = thread::spawn(move || PATTERN.write(client, 0, LARGE));
    PATTERN.read_to_end(&server, 0, LARGE)?;
    send.join().expect("sender panicked")?;
    Ok(Claim::ring(LARGE))
}

fn write_then_close_late_reader(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let mut total = 0;
    for length in [1, 1000, 9000, 20_000, LENGTH, 64 << 10] {
        let Conn { client, server } = env.conn_from(&listener)?;
        PATTERN.write(&client, 0, length)?;
        drop(client);
        thread::sleep(Duration::from_millis(5));
        PATTERN.read_to_end(&server, 0, length)?;
        total += length;
    }
    Ok(Claim::ring(total).pairs(6))
}

fn write_then_shutdown_both(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, LENGTH)?;
    client.shutdown(Shutdown::Both)?;
    PATTERN.read_to_end(&server, 0, LENGTH)?;
    PATTERN.read_to_end(&client, 0, 0)?;
    Ok(Claim::ring(LENGTH))
}

fn both_write_then_close(env: &Env) -> Result<Claim> {
    const COUNT: usize = 20;
    let listener = env.link.listen()?;
    for _ in 0..COUNT {
        let Conn { client, server } = env.conn_from(&listener)?;
        let other = thread::spawn(move || -> Result<()> {
            PATTERN.write(&client, 0, LENGTH)?;
            client.shutdown(Shutdown::Write)?;
            PATTERN.read_to_end(&client, 5, LENGTH)
        });
        PATTERN.write(&server, 5, LENGTH)?;
        server.shutdown(Shutdown::Write)?;
        PATTERN.read_to_end(&server, 0, LENGTH)?;
        other.join().expect("other end panicked")?;
    }
    Ok(Claim::ring(2 * COUNT * LENGTH).pairs(COUNT as u64))
}

fn end_is_seen_again(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 100)?;
    client.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(&server, 0, 100)?;
    for flags in [0, libc::MSG_DONTWAIT, libc::MSG_PEEK, libc::MSG_WAITALL] {
        let count = sys::recv(&server, &mut [0; 10], flags)?;
        ensure!(
            count == 0,
            "recv with flags {flags:#x} gave {count} after the end"
        );
    }
    Ok(Claim::ring(100))
}

fn send_after_shutdown(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGPIPE, false)?;
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 100)?;
    client.shutdown(Shutdown::Write)?;
    broken_pipe(&client)?;
    PATTERN.read_to_end(&server, 0, 100)?;
    Ok(Claim::ring(100))
}

/// Each way of sending gives EPIPE; SIGPIPE comes unless it was declined.
fn broken_pipe(socket: &std::net::TcpStream) -> Result<()> {
    for (flags, signals) in [(libc::MSG_NOSIGNAL, 0), (0, 1), (libc::MSG_DONTWAIT, 1)] {
        let before = sys::CAUGHT.load(Ordering::SeqCst);
        let error = sys::send(socket, b"late", flags)
            .err()
            .context("send succeeded")?;
        ensure!(
            error.kind() == ErrorKind::BrokenPipe,
            "send failed with {error}"
        );
        let caught = sys::CAUGHT.load(Ordering::SeqCst) - before;
        ensure!(
            caught == signals,
            "{caught} SIGPIPE for a send with flags {flags:#x}"
        );
    }
    Ok(())
}

fn send_after_peer_closed(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGPIPE, false)?;
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&server, 0, 1000)?;
    PATTERN.read(&client, 0, 1000)?;
    drop(server);
    PATTERN.read_to_end(&client, 0, 0)?;
    // TCP cannot know that nobody listens; the answer to this one is a reset.
    let sent = sys::send(&client, b"hello?", libc::MSG_NOSIGNAL)?;
    ensure!(sent == 6, "first send gave {sent}");
    wait_until("EPIPE", || {
        Ok(sys::send(&client, b"x", libc::MSG_NOSIGNAL).is_err())
    })?;
    broken_pipe(&client)?;
    let count = sys::recv(&client, &mut [0], 0)?;
    ensure!(count == 0, "recv gave {count}");
    Ok(Claim::ring(1000))
}

fn shutdown_read(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 1000)?;
    server.shutdown(Shutdown::Read)?;
    PATTERN.read_to_end(&server, 0, 1000)?;
    // TCP goes on taking bytes in, and gives them out.
    PATTERN.write(&client, 0, 500)?;
    wait_until("bytes after shutdown of reading", || {
        Ok(sys::readable_bytes(&server)? == 500)
    })?;
    PATTERN.read(&server, 0, 500)?;
    PATTERN.write(&server, 0, 700)?;
    PATTERN.read(&client, 0, 700)?;
    Ok(Claim::ring(1000).tcp(1200))
}

/// What a sender was told is sent before its shutdown arrives, and nothing else.
fn close_races_with_send(env: &Env) -> Result<Claim> {
    const COUNT: usize = 30;
    let listener = env.link.listen()?;
    let mut least = 0;
    for _ in 0..COUNT {
        let Conn { client, server } = env.conn_from(&listener)?;
        let own = client.try_clone()?;
        let send = thread::spawn(move || {
            let mut sent = 0;
            let bytes = PATTERN.bytes(0, 4 << 20);
            while let Ok(count @ 1..) = sys::send(
                &own,
                &bytes[sent..(sent + 3000).min(bytes.len())],
                libc::MSG_NOSIGNAL,
            ) {
                sent += count;
            }
            sent
        });
        let mut got = vec![0; 20_000];
        (&server).read_exact(&mut got)?;
        client.shutdown(Shutdown::Write)?;
        (&server).read_to_end(&mut got)?;
        let sent = send.join().expect("sender panicked");
        ensure!(
            got.len() == sent,
            "{} bytes arrived, {sent} were sent",
            got.len()
        );
        PATTERN.check(0, &got)?;
        least += 20_000;
    }
    Ok(Claim::ring(least).pairs(COUNT as u64))
}
