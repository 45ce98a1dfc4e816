// SPDX-License-Identifier: GPL-2.0-only
//! Edge-triggered epoll, EPOLLONESHOT, several sets, SIGIO.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Result, bail, ensure};
use libc::{EPOLLIN, EPOLLOUT};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env, SOON, wait_until};
use crate::scenario::Scenario;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("edge_for_each_write", edge_for_each_write),
    Scenario::each("edge_reader_that_drains", edge_reader_that_drains),
    Scenario::each("edge_stream", edge_stream),
    Scenario::each("one_shot", one_shot),
    Scenario::each("two_sets", two_sets),
    Scenario::each("signal_driven", signal_driven),
];

const PATTERN: Pattern = Pattern::new(24);

/// A reader that stops early still hears of each further write.
fn edge_for_each_write(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let watch = Watch::edge(&server, EPOLLIN)?;
    watch.expect_nothing()?;
    for round in 0..20 {
        PATTERN.write(&client, round * 100, 100)?;
        watch.expect(EPOLLIN)?;
        watch.expect_nothing()?;
        if round % 3 == 0 {
            PATTERN.read(&server, round / 3 * 10, 10)?;
        }
    }
    Ok(Claim::ring(2000))
}

fn edge_reader_that_drains(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let watch = Watch::edge(&server, EPOLLIN)?;
    for round in 0..50 {
        PATTERN.write(&client, round, 500)?;
        watch.expect(EPOLLIN)?;
        PATTERN.read(&server, round, 500)?;
        let error = sys::recv(&server, &mut [0], libc::MSG_DONTWAIT).err();
        let empty = error.is_some_and(|error| error.kind() == ErrorKind::WouldBlock);
        ensure!(empty, "a drained socket did not say EAGAIN");
    }
    Ok(Claim::ring(25_000))
}

/// Sends all of it, sleeping in epoll whenever the socket is full.
fn send_by_edges(socket: &TcpStream, length: usize) -> Result<()> {
    let watch = Watch::edge(socket, EPOLLOUT)?;
    let bytes = PATTERN.bytes(0, length);
    let mut sent = 0;
    while sent < length {
        match sys::send(
            socket,
            &bytes[sent..(sent + 30_000).min(length)],
            libc::MSG_DONTWAIT,
        ) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(watch.events(SOON)? != 0, "no EPOLLOUT after {sent} bytes");
            }
            Err(error) => bail!("failed to send: {error}"),
        }
    }
    Ok(())
}

/// Receives and checks all of it, sleeping in epoll whenever there is nothing.
fn receive_by_edges(socket: &TcpStream, length: usize) -> Result<()> {
    let watch = Watch::edge(socket, EPOLLIN)?;
    let mut buffer = vec![0; 7000];
    let mut got = 0;
    while got < length {
        match sys::recv(socket, &mut buffer, libc::MSG_DONTWAIT) {
            Ok(0) => bail!("stream ended after {got} bytes"),
            Ok(count) => {
                PATTERN.check(got as u64, &buffer[..count])?;
                got += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(watch.events(SOON)? != 0, "no EPOLLIN after {got} bytes");
            }
            Err(error) => bail!("failed to receive: {error}"),
        }
    }
    Ok(())
}

fn edge_stream(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 4 << 20;
    let conn = env.conn()?;
    thread::scope(|scope| -> Result<()> {
        let sends = [&conn.client, &conn.server]
            .map(|socket| scope.spawn(|| send_by_edges(socket, LENGTH)));
        let other = scope.spawn(|| receive_by_edges(&conn.client, LENGTH));
        receive_by_edges(&conn.server, LENGTH)?;
        other.join().expect("receiver panicked")?;
        sends
            .into_iter()
            .try_for_each(|send| send.join().expect("sender panicked"))
    })?;
    Ok(Claim::ring(2 * LENGTH))
}

fn one_shot(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let watch = Watch::once(&server, EPOLLIN)?;
    PATTERN.write(&client, 0, 10)?;
    watch.expect(EPOLLIN)?;
    PATTERN.write(&client, 10, 10)?;
    watch.expect_nothing()?;
    watch.again(&server, EPOLLIN)?;
    watch.expect(EPOLLIN)?;
    PATTERN.read(&server, 0, 20)?;
    watch.again(&server, EPOLLIN)?;
    watch.expect_nothing()?;
    PATTERN.write(&client, 20, 10)?;
    watch.expect(EPOLLIN)?;
    PATTERN.read(&server, 20, 10)?;
    Ok(Claim::ring(30))
}

fn two_sets(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let sets = [
        Watch::edge(&server, EPOLLIN)?,
        Watch::level(&server, EPOLLIN)?,
    ];
    for round in 0..5 {
        PATTERN.write(&client, round, 10)?;
        for set in &sets {
            set.expect(EPOLLIN)?;
        }
        PATTERN.read(&server, round, 10)?;
        sets[1].expect_nothing()?;
    }
    Ok(Claim::ring(50))
}

fn signal_driven(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, true)?;
    let Conn { client, server } = env.conn()?;
    sys::signal_when_ready(&server, libc::SIGUSR1)?;
    for round in 0..5 {
        let before = sys::CAUGHT.load(Ordering::SeqCst);
        (&client).write_all(&PATTERN.bytes(round, 100))?;
        wait_until("SIGIO", || Ok(sys::CAUGHT.load(Ordering::SeqCst) > before))?;
        PATTERN.read(&server, round, 100)?;
    }
    Ok(Claim::ring(500))
}
