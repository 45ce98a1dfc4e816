// SPDX-License-Identifier: GPL-2.0-only
//! The first bytes of a connection, which may go over TCP and always come first.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("client_sends_before_accept", client_sends_before_accept),
    Scenario::each("stream_that_never_pauses", stream_that_never_pauses),
    Scenario::each("stream_that_is_answered", stream_that_is_answered),
    Scenario::each("client_closes_before_accept", client_closes_before_accept),
    Scenario::each("server_sends_first", server_sends_first),
    Scenario::each("both_send_first", both_send_first),
    Scenario::each("order_across_hand_off", order_across_hand_off),
    Scenario::each("counts_across_hand_off", counts_across_hand_off),
    Scenario::each("never_accepted", never_accepted),
    Scenario::each("never_accepted_with_data", never_accepted_with_data),
    Scenario::each("connects_without_blocking", connects_without_blocking),
    Scenario::each("ring_from_first_byte_after_accept", ring_from_first_byte),
    Scenario::each("idle_connection", idle_connection),
];

/// More than one TCP segment, less than a ring.
const EARLY: usize = 50 << 10;

fn client_sends_before_accept(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    let pattern = Pattern::new(1);
    pattern.write(&client, 0, EARLY)?;
    let (server, _) = listener.accept()?;
    let late = thread::spawn(move || {
        for part in 1..40 {
            pattern.write(&client, (part * EARLY) as u64, EARLY)?;
        }
        client
            .shutdown(Shutdown::Write)
            .map(|()| client)
            .map_err(anyhow::Error::from)
    });
    pattern.read_to_end(&server, 0, 40 * EARLY)?;
    drop(late.join().expect("sender panicked")?);
    Ok(Claim::ring(20 * EARLY).tcp(20 * EARLY))
}

/// What [`never_pause`] sends.
pub const NEVER_PAUSING: usize = 8 << 20;

/// Sends bytes of the pattern without a pause. The first message has to go over TCP, which is to send no faster than so many bytes a second: it would
/// never have delivered everything.
pub fn never_pause(socket: &TcpStream, pattern: Pattern, position: u64) -> Result<()> {
    const BYTES_A_SECOND: i32 = 20 << 20;
    const FIRST: usize = 512 << 10;
    const WRITE: usize = 16 << 10;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE);
    sys::set_option(socket, level, option, BYTES_A_SECOND)?;
    let sent = sys::send_with_timestamp(socket, &pattern.bytes(position, FIRST))?;
    ensure!(sent == FIRST, "{sent} bytes sent");
    for offset in (FIRST..NEVER_PAUSING).step_by(WRITE) {
        pattern.write(socket, position + offset as u64, WRITE)?;
    }
    Ok(())
}

fn stream_that_never_pauses(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.cold()?;
    let pattern = Pattern::new(8);
    let sender = thread::spawn(move || never_pause(&client, pattern, 0));
    pattern.read(&server, 0, NEVER_PAUSING)?;
    sender.join().expect("sender panicked")?;
    Ok(Claim::ring(NEVER_PAUSING / 2).tcp(NEVER_PAUSING / 2))
}

/// Answers come in all the time, through the other ring, while the sender waits for TCP. How much of the stream gets into its ring depends on the pace of the
/// guest: a slow one has more in TCP's buffers than is delivered while a sender waits.
fn stream_that_is_answered(env: &Env) -> Result<Claim> {
    const PIECE: usize = 4 << 10;
    const ANSWER: usize = 64;
    const ANSWERS: usize = NEVER_PAUSING / PIECE;
    let Conn { client, server } = env.cold()?;
    let (up, down) = (Pattern::new(8), Pattern::new(9));
    let socket = client.try_clone()?;
    let sender = thread::spawn(move || never_pause(&socket, up, 0));
    let reader = thread::spawn(move || down.read(&client, 0, ANSWERS * ANSWER));
    for piece in 0..ANSWERS {
        up.read(&server, (piece * PIECE) as u64, PIECE)?;
        down.write(&server, (piece * ANSWER) as u64, ANSWER)?;
    }
    sender.join().expect("sender panicked")?;
    reader.join().expect("reader panicked")?;
    Ok(Claim::ring(ANSWERS * ANSWER / 2).any_tcp())
}

fn client_closes_before_accept(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    let pattern = Pattern::new(2);
    pattern.write(&client, 0, EARLY)?;
    drop(client);
    let (server, _) = listener.accept()?;
    pattern.read_to_end(&server, 0, EARLY)?;
    drop(server);
    let conn = env.conn_from(&listener)?;
    pattern.write(&conn.client, 0, 1000)?;
    pattern.read(&conn.server, 0, 1000)?;
    Ok(Claim::ring(1000).pairs(1).tcp(EARLY))
}

fn server_sends_first(env: &Env) -> Result<Claim> {
    let conn = env.cold()?;
    let pattern = Pattern::new(3);
    let Conn { client, server } = conn;
    let send = thread::spawn(move || -> Result<_> {
        pattern.write(&server, 0, EARLY)?;
        pattern.write(&server, EARLY as u64, 20 * EARLY)?;
        Ok(server)
    });
    thread::sleep(Duration::from_millis(20));
    pattern.read(&client, 0, 21 * EARLY)?;
    let server = send.join().expect("sender panicked")?;
    pattern.write(&client, 0, EARLY)?;
    pattern.read(&server, 0, EARLY)?;
    Ok(Claim::ring(15 * EARLY).tcp(7 * EARLY))
}

fn both_send_first(env: &Env) -> Result<Claim> {
    const COUNT: usize = 20;
    let listener = env.link.listen()?;
    let (up, down) = (Pattern::new(4), Pattern::new(5));
    for _ in 0..COUNT {
        let link = env.link.clone();
        let address = listener.try_clone()?;
        let client = thread::spawn(move || -> Result<()> {
            let client = link.connect(&address)?;
            up.write(&client, 0, EARLY)?;
            down.read(&client, 0, 2 * EARLY)?;
            up.write(&client, EARLY as u64, EARLY)?;
            Ok(())
        });
        let (server, _) = listener.accept()?;
        down.write(&server, 0, EARLY)?;
        up.read(&server, 0, EARLY)?;
        down.write(&server, EARLY as u64, EARLY)?;
        up.read_to_end(&server, EARLY as u64, EARLY)?;
        client.join().expect("client panicked")?;
    }
    Ok(Claim::ring(COUNT * EARLY)
        .pairs(COUNT as u64)
        .tcp(2 * COUNT * EARLY))
}

/// The receiver reads nothing until bytes of both kinds wait for it.
fn order_across_hand_off(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    client.set_nodelay(true)?;
    let pattern = Pattern::new(6);
    pattern.write(&client, 0, 20_000)?;
    let (server, _) = listener.accept()?;
    pattern.write(&client, 20_000, 30_000)?;
    // Reads end at every possible place around the border.
    let mut position = 0;
    for size in [19_000, 999, 1, 1, 999, 5000, 24_000] {
        pattern.read(&server, position, size)?;
        position += size as u64;
    }
    Ok(Claim::ring(30_000).tcp(20_000))
}

fn counts_across_hand_off(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    client.set_nodelay(true)?;
    let pattern = Pattern::new(7);
    pattern.write(&client, 0, 1000)?;
    let (server, _) = listener.accept()?;
    pattern.write(&client, 1000, 2000)?;
    wait_until("3000 bytes readable", || {
        Ok(sys::readable_bytes(&server)? == 3000)
    })?;
    let mut buffer = vec![0; 5000];
    let peeked = sys::recv(&server, &mut buffer, libc::MSG_PEEK)?;
    ensure!(peeked >= 1000, "peek gave {peeked} bytes");
    pattern.check(0, &buffer[..peeked])?;
    pattern.read(&server, 0, 900)?;
    let left = sys::readable_bytes(&server)?;
    ensure!(
        left == 2100,
        "{left} bytes readable after the first 900 of 3000"
    );
    let whole = sys::recv(&server, &mut buffer[..2100], libc::MSG_WAITALL)?;
    ensure!(whole == 2100, "MSG_WAITALL gave {whole} bytes of 2100");
    pattern.check(900, &buffer[..2100])?;
    let left = sys::readable_bytes(&server)?;
    ensure!(left == 0, "{left} bytes readable after everything was read");
    Ok(Claim::ring(2000).tcp(1000))
}

fn never_accepted(env: &Env) -> Result<Claim> {
    abandoned(env, 0)
}

fn never_accepted_with_data(env: &Env) -> Result<Claim> {
    abandoned(env, 10_000)
}

/// The listener closes with a child in its queue: the client sees a reset.
fn abandoned(env: &Env, length: usize) -> Result<Claim> {
    let first = env.conn()?;
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    Pattern::new(8).write(&client, 0, length)?;
    thread::sleep(Duration::from_millis(10));
    drop(listener);
    let error = sys::recv(&client, &mut [0; 10], 0)
        .err()
        .context("recv succeeded")?;
    ensure!(
        error.kind() == ErrorKind::ConnectionReset,
        "recv failed with {error}"
    );
    let error = sys::send(&client, b"x", libc::MSG_NOSIGNAL)
        .err()
        .context("send succeeded")?;
    ensure!(
        error.kind() == ErrorKind::BrokenPipe,
        "send failed with {error}"
    );
    drop(first);
    Ok(Claim::ring(1).tcp(length))
}

fn connects_without_blocking(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let socket = env.link.client_socket()?;
    socket.set_nonblocking(true)?;
    match socket.connect(&env.link.address(&listener)?.into()) {
        Ok(()) => {}
        Err(error) => ensure!(
            error.raw_os_error() == Some(libc::EINPROGRESS),
            "connect failed with {error}"
        ),
    }
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    ensure!(
        poll(&mut fds, PollTimeout::from(30_000u16))? == 1,
        "not writable in time"
    );
    ensure!(socket.take_error()?.is_none(), "SO_ERROR is set");
    socket.set_nonblocking(false)?;
    let (server, _) = listener.accept()?;
    let client = socket.into();
    let pattern = Pattern::new(9);
    for round in 0..10 {
        pattern.write(&client, round, 2000)?;
        pattern.read(&server, round, 2000)?;
        pattern.write(&server, round, 2000)?;
        pattern.read(&client, round, 2000)?;
    }
    drop::<(std::net::TcpStream, _)>((client, server));
    Ok(Claim::ring(30_000).tcp(10_000))
}

/// Once accept(2) has returned nothing stands against the ring, so nothing may be left to TCP.
fn ring_from_first_byte(env: &Env) -> Result<Claim> {
    const COUNT: usize = 20;
    let listener = env.link.listen()?;
    let pattern = Pattern::new(10);
    for _ in 0..COUNT {
        let conn = env.cold_from(&listener)?;
        pattern.write(&conn.client, 0, 1000)?;
        pattern.write(&conn.server, 0, 1000)?;
        pattern.read(&conn.server, 0, 1000)?;
        pattern.read(&conn.client, 0, 1000)?;
    }
    Ok(Claim::ring(2 * COUNT * 1000).pairs(COUNT as u64))
}

/// Nothing is allocated for a connection that carries nothing.
fn idle_connection(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let conn = env.cold()?;
    if env.spliced() {
        let memory = env.since(&before)?.get("ring_kbytes_alive")?;
        ensure!(memory == 0, "{memory} KiB of rings for an idle connection");
    }
    let pattern = Pattern::new(11);
    pattern.write(&conn.client, 0, 1000)?;
    pattern.read(&conn.server, 0, 1000)?;
    Ok(Claim::ring(1).tcp(1000))
}
