// SPDX-License-Identifier: GPL-2.0-only
//! Bytes arrive exactly, whatever the sizes of the calls.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::thread;

use anyhow::{Result, ensure};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::each("echo_exact", echo_exact),
    Scenario::each("ping_pong_sizes", ping_pong_sizes),
    Scenario::each("both_send_before_reading", both_send_before_reading),
    Scenario::each("both_send_at_once", both_send_at_once),
    Scenario::each("byte_by_byte", byte_by_byte),
    Scenario::each("one_large_write", one_large_write),
    Scenario::each("vectors", vectors),
    Scenario::each("many_connections_at_once", many_connections_at_once),
];

/// What the issue promises that both sides may send without reading, just below the default ring of 64 KiB.
const BEFORE_READING: usize = 60 << 10;

/// Sends `length` bytes of `pattern` in pieces of random size.
fn send_randomly(
    mut to: &TcpStream,
    pattern: Pattern,
    length: usize,
    largest: usize,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    let mut sent = 0;
    while sent < length {
        let size = random.usize(1..=largest).min(length - sent);
        to.write_all(&pattern.bytes(sent as u64, size))?;
        sent += size;
    }
    Ok(())
}

/// Receives and checks `length` bytes of `pattern` in pieces of random size.
fn receive_randomly(
    mut from: &TcpStream,
    pattern: Pattern,
    length: usize,
    largest: usize,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(largest as u64);
    let mut buffer = vec![0; largest];
    let mut got = 0;
    while got < length {
        let size = random.usize(1..=largest).min(length - got);
        let count = from.read(&mut buffer[..size])?;
        ensure!(count > 0, "stream ended after {got} of {length} bytes");
        pattern.check(got as u64, &buffer[..count])?;
        got += count;
    }
    Ok(())
}

fn echo_exact(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 512 << 10;
    let conn = env.conn()?;
    let pattern = Pattern::new(1);
    thread::scope(|scope| -> Result<()> {
        let echo = scope.spawn(|| echo(&conn.server, LENGTH));
        let send = scope.spawn(|| send_randomly(&conn.client, pattern, LENGTH, 20_000));
        receive_randomly(&conn.client, pattern, LENGTH, 30_000)?;
        send.join().expect("sender panicked")?;
        echo.join().expect("echo panicked")
    })?;
    Ok(Claim::ring(2 * LENGTH))
}

fn echo(mut socket: &TcpStream, length: usize) -> Result<()> {
    let mut buffer = vec![0; 9000];
    let mut done = 0;
    while done < length {
        let count = socket.read(&mut buffer)?;
        ensure!(count > 0, "echo saw the end after {done} bytes");
        socket.write_all(&buffer[..count])?;
        done += count;
    }
    Ok(())
}

fn ping_pong_sizes(env: &Env) -> Result<Claim> {
    const ROUNDS: usize = 4;
    let sizes = [
        1, 2, 63, 64, 65, 1000, 1024, 4095, 4096, 4097, 8192, 16384, 50_000, 65535, 65536, 65537,
        200_000,
    ];
    let Conn { client, server } = env.conn()?;
    let pattern = Pattern::new(2);
    let answer = thread::spawn(move || -> Result<()> {
        for size in sizes {
            for round in 0..ROUNDS {
                pattern.read(&server, round as u64, size)?;
                pattern.write(&server, 7 + round as u64, size)?;
            }
        }
        Ok(())
    });
    for size in sizes {
        for round in 0..ROUNDS {
            pattern.write(&client, round as u64, size)?;
            pattern.read(&client, 7 + round as u64, size)?;
        }
    }
    answer.join().expect("answering thread panicked")?;
    Ok(Claim::ring(2 * ROUNDS * sizes.iter().sum::<usize>()))
}

fn both_send_before_reading(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let (up, down) = (Pattern::new(3), Pattern::new(4));
    for round in 0..3 {
        let position = (round * BEFORE_READING) as u64;
        up.write(&conn.client, position, BEFORE_READING)?;
        down.write(&conn.server, position, BEFORE_READING)?;
        up.read(&conn.server, position, BEFORE_READING)?;
        down.read(&conn.client, position, BEFORE_READING)?;
    }
    Ok(Claim::ring(2 * 3 * BEFORE_READING))
}

fn both_send_at_once(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 1 << 20;
    let conn = env.conn()?;
    let (up, down) = (Pattern::new(5), Pattern::new(6));
    thread::scope(|scope| -> Result<()> {
        let sends = [
            scope.spawn(|| send_randomly(&conn.client, up, LENGTH, 70_000)),
            scope.spawn(|| send_randomly(&conn.server, down, LENGTH, 3_000)),
        ];
        let receive = scope.spawn(|| receive_randomly(&conn.server, up, LENGTH, 5_000));
        receive_randomly(&conn.client, down, LENGTH, 100_000)?;
        receive.join().expect("receiver panicked")?;
        sends
            .into_iter()
            .try_for_each(|send| send.join().expect("sender panicked"))
    })?;
    Ok(Claim::ring(2 * LENGTH))
}

fn byte_by_byte(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 3000;
    let conn = env.conn()?;
    let pattern = Pattern::new(7);
    for byte in pattern.bytes(0, LENGTH) {
        (&conn.client).write_all(&[byte])?;
    }
    pattern.read(&conn.server, 0, LENGTH)?;
    pattern.write(&conn.server, 0, LENGTH)?;
    for position in 0..LENGTH {
        pattern.read(&conn.client, position as u64, 1)?;
    }
    Ok(Claim::ring(2 * LENGTH))
}

fn one_large_write(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 4 << 20;
    let conn = env.conn()?;
    let pattern = Pattern::new(8);
    thread::scope(|scope| -> Result<()> {
        let send = scope.spawn(|| pattern.write(&conn.client, 0, LENGTH));
        receive_randomly(&conn.server, pattern, LENGTH, 300_000)?;
        send.join().expect("sender panicked")
    })?;
    Ok(Claim::ring(LENGTH))
}

fn vectors(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let pattern = Pattern::new(9);
    let sizes = [1, 0, 4096, 3, 5000, 17, 0, 20_000];
    let bytes = pattern.bytes(0, sizes.iter().sum());
    let (mut rest, mut parts) = (&bytes[..], Vec::new());
    for size in sizes {
        let (part, after) = rest.split_at(size);
        parts.push(IoSlice::new(part));
        rest = after;
    }
    let sent = (&conn.client).write_vectored(&parts)?;
    ensure!(
        sent == bytes.len(),
        "writev sent {sent} of {} bytes",
        bytes.len()
    );
    let (mut first, mut second, mut third) = (vec![0; 7], vec![0; 9000], vec![0; 100]);
    let mut got = 0;
    while got < bytes.len() {
        let mut into = [&mut first, &mut second, &mut third].map(|part| IoSliceMut::new(part));
        let count = (&conn.server).read_vectored(&mut into)?;
        ensure!(count > 0, "stream ended after {got} bytes");
        let joined = [&first[..], &second, &third].concat();
        pattern.check(got as u64, &joined[..count])?;
        got += count;
    }
    Ok(Claim::ring(bytes.len()))
}

fn many_connections_at_once(env: &Env) -> Result<Claim> {
    const COUNT: usize = 50;
    const LENGTH: usize = 5000;
    let conns = env.many(COUNT)?;
    for (index, conn) in conns.iter().enumerate() {
        Pattern::new(index as u64).write(&conn.client, 0, LENGTH)?;
        Pattern::new(!index as u64).write(&conn.server, 0, LENGTH)?;
    }
    for (index, conn) in conns.iter().enumerate().rev() {
        Pattern::new(index as u64).read(&conn.server, 0, LENGTH)?;
        Pattern::new(!index as u64).read(&conn.client, 0, LENGTH)?;
    }
    Ok(Claim::ring(2 * COUNT * LENGTH).pairs(COUNT as u64))
}
