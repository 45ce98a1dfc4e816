// SPDX-License-Identifier: GPL-2.0-only
//! Ends that are not ordinary: unread data, SO_LINGER of 0, killed processes, disconnect.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use socket2::{SockRef, Socket};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("close_with_unread_data", close_with_unread_data),
    Scenario::each(
        "close_with_unread_start_up_data",
        close_with_unread_start_up_data,
    ),
    Scenario::each("linger_zero", linger_zero),
    Scenario::each("linger_zero_with_data_on_its_way", linger_zero_with_data),
    Scenario::each("killed_reader", killed_reader),
    Scenario::each("killed_writer", killed_writer),
    Scenario::each("disconnect_and_reuse", disconnect_and_reuse),
    Scenario::each("disconnected_often", disconnected_often),
    Scenario::each("disconnect_of_server", disconnect_of_server),
];

const PATTERN: Pattern = Pattern::new(22);

/// The next recv has to fail with a reset, the one after that gives the end.
pub fn expect_reset(socket: &TcpStream) -> Result<()> {
    let error = sys::recv(socket, &mut [0; 100], 0)
        .err()
        .context("recv succeeded")?;
    ensure!(
        error.kind() == ErrorKind::ConnectionReset,
        "recv failed with {error}"
    );
    let count = sys::recv(socket, &mut [0; 100], 0)?;
    ensure!(count == 0, "recv gave {count} after the reset");
    Ok(())
}

/// Reads what there is until the reset, and returns it.
fn read_to_reset(mut socket: &TcpStream) -> Result<Vec<u8>> {
    let mut got = Vec::new();
    match socket.read_to_end(&mut got) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(got),
        Err(error) => bail!("failed to read: {error}"),
        Ok(_) => bail!("stream ended without a reset after {} bytes", got.len()),
    }
}

fn close_with_unread_data(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 1000)?;
    PATTERN.write(&server, 0, 500)?;
    PATTERN.read(&server, 0, 10)?;
    wait_until("both directions filled", || {
        Ok(sys::readable_bytes(&server)? == 990 && sys::readable_bytes(&client)? == 500)
    })?;
    drop(server);
    // What was sent before the reset can still be read.
    PATTERN.read(&client, 0, 500)?;
    expect_reset(&client)?;
    Ok(Claim::ring(1500))
}

fn close_with_unread_start_up_data(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    PATTERN.write(&client, 0, 1000)?;
    let (server, _) = listener.accept()?;
    PATTERN.write(&client, 1000, 1000)?;
    PATTERN.write(&server, 0, 500)?;
    wait_until("both directions filled", || {
        Ok(sys::readable_bytes(&server)? == 2000 && sys::readable_bytes(&client)? == 500)
    })?;
    drop(server);
    PATTERN.read(&client, 0, 500)?;
    expect_reset(&client)?;
    Ok(Claim::ring(1500).tcp(1000))
}

fn linger_zero(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 100)?;
    PATTERN.read(&server, 0, 100)?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    expect_reset(&server)?;
    Ok(Claim::ring(100))
}

fn linger_zero_with_data(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 5000)?;
    wait_until("data to arrive", || {
        Ok(sys::readable_bytes(&server)? == 5000)
    })?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    let got = read_to_reset(&server)?;
    PATTERN.check(0, &got)?;
    ensure!(
        got.len() == 5000,
        "{} of 5000 bytes came before the reset",
        got.len()
    );
    Ok(Claim::ring(5000))
}

/// Forks a process that has only `theirs`, and kills it after `work`.
fn with_killed_process(
    conn: Conn,
    work: impl Fn(&TcpStream),
    until: impl Fn(&TcpStream) -> Result<bool>,
) -> Result<TcpStream> {
    let Conn { client, server } = conn;
    let child = sys::fork(|| {
        work(&server);
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    })?;
    drop(server);
    wait_until("the forked process to do its work", || until(&client))?;
    kill(child, Signal::SIGKILL)?;
    waitpid(child, None)?;
    Ok(client)
}

fn killed_reader(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    PATTERN.write(&conn.client, 0, 3000)?;
    let work = |server: &TcpStream| {
        let _ = PATTERN.read(server, 0, 1000);
        let _ = PATTERN.write(server, 0, 800);
    };
    let client = with_killed_process(conn, work, |client| Ok(sys::readable_bytes(client)? == 800))?;
    PATTERN.read(&client, 0, 800)?;
    expect_reset(&client)?;
    Ok(Claim::ring(3800))
}

fn killed_writer(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let work = |server: &TcpStream| {
        let _ = PATTERN.write(server, 0, 50_000);
    };
    let client = with_killed_process(conn, work, |client| {
        Ok(sys::readable_bytes(client)? == 50_000)
    })?;
    PATTERN.read_to_end(&client, 0, 50_000)?;
    Ok(Claim::ring(50_000))
}

fn disconnect_and_reuse(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let Conn { client, server } = env.conn_from(&listener)?;
    PATTERN.write(&client, 0, 100)?;
    PATTERN.read(&server, 0, 100)?;
    PATTERN.write(&server, 0, 300)?;
    wait_until(
        "data to arrive",
        || Ok(sys::readable_bytes(&client)? == 300),
    )?;
    sys::disconnect(&client)?;
    expect_reset(&server)?;
    drop(server);
    // The old connection's bytes must not show up in the new one.
    let socket = Socket::from(client);
    let address = env.link.address(&listener)?;
    socket
        .connect(&address.into())
        .context("failed to connect again")?;
    let client = TcpStream::from(socket);
    let (server, _) = listener.accept()?;
    for round in 0..20 {
        PATTERN.write(&client, round, 2000)?;
        PATTERN.read(&server, round, 2000)?;
        PATTERN.write(&server, round, 2000)?;
        PATTERN.read(&client, round, 2000)?;
    }
    Ok(Claim::ring(60_000).pairs(2).tcp(20_000))
}

/// Each connection of a socket is spliced, and leaves nothing behind on it.
fn disconnected_often(env: &Env) -> Result<Claim> {
    const TIMES: usize = 20;
    let listener = env.link.listen()?;
    let address = env.link.address(&listener)?;
    let before = Counters::read()?;
    let Conn { client, mut server } = env.conn_from(&listener)?;
    for round in 0..TIMES {
        PATTERN.write(&client, 0, 1000)?;
        PATTERN.read(&server, 0, 1000)?;
        PATTERN.write(&server, 0, 1000)?;
        sys::disconnect(&client)?;
        if round + 1 < TIMES {
            let connected = SockRef::from(&client).connect(&address.into());
            connected.context("failed to connect again")?;
            server = listener.accept()?.0;
        }
    }
    drop(server);
    let gone = |name| -> Result<u64> { Counters::read()?.since(&before).get(name) };
    wait_until("the pairs to go, with the socket still open", || {
        Ok(gone("pairs_gone")? == TIMES as u64 && gone("endpoints_gone")? == 2 * TIMES as u64)
    })?;
    Ok(Claim::ring(TIMES * 1000)
        .pairs(TIMES as u64)
        .tcp(TIMES * 1000))
}

fn disconnect_of_server(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&server, 0, 100)?;
    PATTERN.read(&client, 0, 100)?;
    sys::disconnect(&server)?;
    expect_reset(&client)?;
    // TCP leaves ECONNRESET behind on a socket whose disconnect sent a reset.
    for want in [ErrorKind::ConnectionReset, ErrorKind::NotConnected] {
        let error = sys::recv(&server, &mut [0], 0).err();
        let error = error.context("recv on a disconnected socket succeeded")?;
        ensure!(error.kind() == want, "recv failed with {error}, not {want}");
    }
    Ok(Claim::ring(100))
}
