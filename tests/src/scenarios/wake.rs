// SPDX-License-Identifier: GPL-2.0-only
//! What ends a blocked call: shutdown, close, reset, signal, timeout, `ss -K`.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
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
    Scenario::each("send_goes_on_after_signal", send_goes_on_after_signal).spliced_only(),
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

/// A full connection and a thread asleep in a send; also how much is in it.
struct BlockedSend {
    call: Blocked,
    filled: usize,
    length: usize,
}

/// Fills the connection of `socket` and blocks in a further send.
fn blocked_send(env: &Env, socket: &TcpStream) -> Result<BlockedSend> {
    let mut filled = fill(socket, 0, 10_000)?;
    filled += fill(socket, filled, 1)?;
    // A full ring takes not even one byte. TCP finds room by packing its buffers, so much more is needed to block there.
    let length = if env.spliced() { 1 } else { 24 << 20 };
    let socket = socket.try_clone()?;
    let bytes = PATTERN.bytes(filled as u64, length);
    let call = Asleep::start(move || sys::send(&socket, &bytes, libc::MSG_NOSIGNAL))?;
    ensure!(
        !call.finished(),
        "send into a full connection came back at once"
    );
    Ok(BlockedSend {
        call,
        filled,
        length,
    })
}

impl BlockedSend {
    /// The call has to end with error `want`; over plain TCP it may have sent a part. Returns how much is in the connection.
    fn expect_error(self, env: &Env, want: i32) -> Result<usize> {
        match self.call.join() {
            Ok(part) if !env.spliced() && part < self.length => return Ok(self.filled + part),
            Ok(count) => bail!("blocked send gave {count} instead of error {want}"),
            Err(error) => ensure!(
                error.raw_os_error() == Some(want),
                "blocked send failed with {error}, not {want}"
            ),
        }
        Ok(self.filled)
    }

    /// The receiver reads everything, so the call has to end well.
    fn expect_space(self, receiver: &TcpStream) -> Result<usize> {
        let total = self.filled + self.length;
        PATTERN.read(receiver, 0, total)?;
        expect_count(self.call, self.length)?;
        Ok(total)
    }
}

fn expect_count(blocked: Blocked, want: usize) -> Result<()> {
    let count = blocked.join().context("blocked call failed")?;
    ensure!(count == want, "blocked call gave {count} instead of {want}");
    Ok(())
}

fn expect_error(blocked: Blocked, want: i32) -> Result<()> {
    match blocked.join() {
        Ok(count) => bail!("blocked call gave {count} instead of error {want}"),
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
    let total = blocked_send(env, &client)?.expect_space(&server)?;
    Ok(Claim::ring(total))
}

fn send_by_own_shutdown(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_send(env, &client)?;
    client.shutdown(Shutdown::Write)?;
    let total = blocked.expect_error(env, libc::EPIPE)?;
    PATTERN.read_to_end(&server, 0, total)?;
    Ok(Claim::ring(total))
}

fn send_by_peers_close(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_send(env, &client)?;
    drop(server);
    let total = blocked.expect_error(env, libc::ECONNRESET)?;
    Ok(Claim::ring(total))
}

fn send_by_peers_reset(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_send(env, &client)?;
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    let total = blocked.expect_error(env, libc::ECONNRESET)?;
    Ok(Claim::ring(total))
}

fn send_by_signal(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, false)?;
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_send(env, &client)?;
    sys::signal_thread(blocked.call.id(), libc::SIGUSR1)?;
    let total = blocked.expect_error(env, libc::EINTR)?;
    PATTERN.read(&server, 0, total)?;
    let left = sys::readable_bytes(&server)?;
    ensure!(left == 0, "an interrupted send left {left} bytes");
    Ok(Claim::ring(total))
}

fn send_goes_on_after_signal(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, true)?;
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_send(env, &client)?;
    for _ in 0..3 {
        sys::signal_thread(blocked.call.id(), libc::SIGUSR1)?;
        thread::sleep(Duration::from_millis(20));
        ensure!(!blocked.call.finished(), "SA_RESTART did not restart send");
    }
    Ok(Claim::ring(blocked.expect_space(&server)?))
}

fn send_by_timeout(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_timeout(&client, libc::SO_SNDTIMEO, 300)?;
    let start = Instant::now();
    let total = blocked_send(env, &client)?.expect_error(env, libc::EAGAIN)?;
    let took = start.elapsed();
    ensure!(
        took >= Duration::from_millis(290),
        "came back after {took:?}"
    );
    PATTERN.read(&server, 0, total)?;
    Ok(Claim::ring(total))
}

fn send_by_ss_kill(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let blocked = blocked_send(env, &client)?;
    let filled = blocked.filled;
    if ss_kill(env, &client, &env.link.client_words())? {
        blocked.expect_error(env, libc::ECONNABORTED)?;
    } else {
        client.shutdown(Shutdown::Both)?;
    }
    drop(server);
    Ok(Claim::ring(filled))
}
