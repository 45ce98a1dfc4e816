// SPDX-License-Identifier: GPL-2.0-only
//! What ends a blocked call: shutdown, close, reset, signal, timeout, `ss -K`.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::program;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::scenarios::full::fill;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("recv_by_data", recv_by_data),
    Scenario::each("recv_by_own_shutdown", recv_by_own_shutdown),
    Scenario::each("recv_by_peers_shutdown", recv_by_peers_shutdown),
    Scenario::each("recv_by_peers_close", recv_by_peers_close),
    Scenario::each("recv_by_peers_reset", recv_by_peers_reset),
    Scenario::each("recv_by_signal", recv_by_signal),
    Scenario::each("recv_goes_on_after_signal", recv_goes_on_after_signal),
    Scenario::each("recv_by_timeout", recv_by_timeout),
    Scenario::each("recv_by_ss_kill", recv_by_ss_kill),
    Scenario::each("send_by_space", send_by_space),
    Scenario::each("send_by_own_shutdown", send_by_own_shutdown),
    Scenario::each("send_by_peers_close", send_by_peers_close),
    Scenario::each("send_by_peers_reset", send_by_peers_reset),
    Scenario::each("send_by_signal", send_by_signal),
    Scenario::each("send_goes_on_after_signal", send_goes_on_after_signal),
    Scenario::each("send_by_timeout", send_by_timeout),
    Scenario::each("send_by_ss_kill", send_by_ss_kill),
];

const PATTERN: Pattern = Pattern::new(77);

type Blocked = Asleep<io::Result<usize>>;

/// A thread asleep in recv on `socket`.
fn blocked_recv(socket: &TcpStream) -> Result<Blocked> {
    let socket = socket.try_clone()?;
    let blocked = Asleep::start(move || sys::recv(&socket, &mut [0; 100], 0))?;
    ensure!(!blocked.finished(), "recv came back at once");
    Ok(blocked)
}

/// A full connection and a thread asleep in a send of one more byte; also how much is in it.
fn blocked_send(socket: &TcpStream) -> Result<(Blocked, usize)> {
    // A small last piece, so that not even one byte finds room.
    let mut filled = fill(socket, 0, 10_000)?;
    filled += fill(socket, filled, 1)?;
    let socket = socket.try_clone()?;
    let blocked = Asleep::start(move || {
        sys::send(
            &socket,
            &PATTERN.bytes(filled as u64, 1),
            libc::MSG_NOSIGNAL,
        )
    })?;
    ensure!(
        !blocked.finished(),
        "send into a full connection came back at once"
    );
    Ok((blocked, filled))
}

fn expect_count(blocked: Blocked, want: usize) -> Result<()> {
    let count = blocked.join().context("blocked call failed")?;
    ensure!(count == want, "blocked call gave {count} instead of {want}");
    Ok(())
}

fn expect_error(blocked: Blocked, want: i32) -> Result<()> {
    match blocked.join() {
        Ok(count) => anyhow::bail!("blocked call gave {count} instead of error {want}"),
        Err(error) => ensure!(
            error.raw_os_error() == Some(want),
            "blocked call failed with {error}, not {want}"
        ),
    }
    Ok(())
}

fn recv_by_data(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    for socket in [(&client, &server), (&server, &client)] {
        for round in 0..10 {
            let blocked = blocked_recv(socket.0)?;
            PATTERN.write(socket.1, round, 10)?;
            expect_count(blocked, 10)?;
        }
    }
    Ok(Claim::ring(200))
}

fn recv_by_own_shutdown(env: &Env) -> Result<Claim> {
    for how in [Shutdown::Read, Shutdown::Both] {
        let Conn { client, server } = env.conn()?;
        let blocked = blocked_recv(&server)?;
        server.shutdown(how)?;
        expect_count(blocked, 0)?;
        drop(client);
    }
    Ok(Claim::ring(1).pairs(2))
}

fn recv_by_peers_shutdown(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_recv(&server)?;
    client.shutdown(Shutdown::Write)?;
    expect_count(blocked, 0)?;
    Ok(Claim::ring(1))
}

fn recv_by_peers_close(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_recv(&client)?;
    drop(server);
    expect_count(blocked, 0)?;
    Ok(Claim::ring(1))
}

fn recv_by_peers_reset(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_recv(&server)?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    expect_error(blocked, libc::ECONNRESET)?;
    Ok(Claim::ring(1))
}

fn recv_by_signal(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, false)?;
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_recv(&server)?;
    sys::signal_thread(blocked.id(), libc::SIGUSR1)?;
    expect_error(blocked, libc::EINTR)?;
    PATTERN.write(&client, 0, 100)?;
    PATTERN.read(&server, 0, 100)?;
    Ok(Claim::ring(100))
}

fn recv_goes_on_after_signal(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, true)?;
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_recv(&server)?;
    for _ in 0..3 {
        sys::signal_thread(blocked.id(), libc::SIGUSR1)?;
        thread::sleep(Duration::from_millis(20));
        ensure!(!blocked.finished(), "SA_RESTART did not restart recv");
    }
    PATTERN.write(&client, 0, 40)?;
    expect_count(blocked, 40)?;
    Ok(Claim::ring(40))
}

fn recv_by_timeout(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_timeout(&server, libc::SO_RCVTIMEO, 300)?;
    let start = Instant::now();
    let blocked = blocked_recv(&server)?;
    expect_error(blocked, libc::EAGAIN)?;
    ensure!(
        start.elapsed() >= Duration::from_millis(290),
        "came back after {:?}",
        start.elapsed()
    );
    PATTERN.write(&client, 0, 100)?;
    PATTERN.read(&server, 0, 100)?;
    Ok(Claim::ring(100))
}

/// Ends the connection of `socket` by `ss -K`; false where the kernel or the tool cannot.
fn ss_kill(env: &Env, socket: &TcpStream, words: &[String]) -> Result<bool> {
    let port = format!("sport = :{}", socket.local_addr()?.port());
    let dport = format!("dport = :{}", socket.peer_addr()?.port());
    let family = if socket.local_addr()?.is_ipv4() {
        "-4"
    } else {
        "-6"
    };
    let mut argv: Vec<&str> = words.iter().map(String::as_str).collect();
    argv.extend(["ss", "-K", "-H", "-t", "-n", family, &port, "and", &dport]);
    let killed = !program::run(&argv)?.trim().is_empty();
    ensure!(killed || !env.spliced(), "ss -K killed nothing");
    Ok(killed)
}

fn recv_by_ss_kill(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_recv(&client)?;
    if ss_kill(env, &client, &env.link.client_words())? {
        expect_error(blocked, libc::ECONNABORTED)?;
        // The peer is told by a reset.
        crate::scenarios::reset::expect_reset(&server)?;
    } else {
        client.shutdown(Shutdown::Both)?;
    }
    Ok(Claim::ring(1))
}

fn send_by_space(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    PATTERN.read(&server, 0, filled)?;
    expect_count(blocked, 1)?;
    PATTERN.read(&server, filled as u64, 1)?;
    Ok(Claim::ring(filled))
}

fn send_by_own_shutdown(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    client.shutdown(Shutdown::Write)?;
    expect_error(blocked, libc::EPIPE)?;
    PATTERN.read_to_end(&server, 0, filled)?;
    Ok(Claim::ring(filled))
}

fn send_by_peers_close(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    drop(server);
    expect_error(blocked, libc::ECONNRESET)?;
    Ok(Claim::ring(filled))
}

fn send_by_peers_reset(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    expect_error(blocked, libc::ECONNRESET)?;
    Ok(Claim::ring(filled))
}

fn send_by_signal(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, false)?;
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    sys::signal_thread(blocked.id(), libc::SIGUSR1)?;
    expect_error(blocked, libc::EINTR)?;
    PATTERN.read(&server, 0, filled)?;
    ensure!(
        sys::readable_bytes(&server)? == 0,
        "an interrupted send left bytes"
    );
    Ok(Claim::ring(filled))
}

fn send_goes_on_after_signal(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, true)?;
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    for _ in 0..3 {
        sys::signal_thread(blocked.id(), libc::SIGUSR1)?;
        thread::sleep(Duration::from_millis(20));
        // TCP may find room by itself meanwhile, by packing its buffers; a ring cannot.
        let right = !blocked.finished() || !env.spliced();
        ensure!(right, "SA_RESTART did not restart send");
    }
    PATTERN.read(&server, 0, filled + 1)?;
    expect_count(blocked, 1)?;
    Ok(Claim::ring(filled))
}

fn send_by_timeout(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_timeout(&client, libc::SO_SNDTIMEO, 300)?;
    let start = Instant::now();
    let (blocked, filled) = blocked_send(&client)?;
    expect_error(blocked, libc::EAGAIN)?;
    ensure!(
        start.elapsed() >= Duration::from_millis(290),
        "came back after {:?}",
        start.elapsed()
    );
    PATTERN.read(&server, 0, filled)?;
    Ok(Claim::ring(filled))
}

fn send_by_ss_kill(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (blocked, filled) = blocked_send(&client)?;
    if ss_kill(env, &client, &env.link.client_words())? {
        expect_error(blocked, libc::ECONNABORTED)?;
    } else {
        client.shutdown(Shutdown::Both)?;
    }
    drop(server);
    Ok(Claim::ring(filled))
}
