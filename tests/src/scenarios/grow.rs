// SPDX-License-Identifier: GPL-2.0-only
//! Programs that write more than the ring holds before anybody reads.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::thread;

use anyhow::{Result, ensure};
use libc::EPOLLOUT;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::scenarios::full::fill;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("both_write_then_both_read", both_write_then_both_read),
    Scenario::each("write_then_read_often", write_then_read_often),
    Scenario::each("memory_comes_back", memory_comes_back).spliced_only(),
    Scenario::each("writable_means_writable", writable_means_writable),
    Scenario::each("grows_under_a_reader", grows_under_a_reader),
    Scenario::some("peek_into_a_grown_ring", peek_into_a_grown_ring),
    Scenario::some("small_buffers_keep_it_small", small_buffers_keep_it_small).spliced_only(),
];

/// The pattern that `fill` sends.
const PATTERN: Pattern = Pattern::new(77);
/// More than a ring begins with, and less than TCP's buffers take at once on loopback and over a veth.
const LENGTH: usize = 150_000;

fn grown(env: &Env, before: &Counters, at_least: u64) -> Result<()> {
    if env.spliced() {
        let grown = env.since(before)?.get("ring_grows")?;
        ensure!(
            grown >= at_least,
            "{grown} rings grew instead of {at_least}"
        );
    }
    Ok(())
}

/// Each side writes all before it reads: with fixed rings they would wait for each other for ever.
fn both_write_then_both_read(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    let other = thread::spawn(move || -> Result<()> {
        PATTERN.write(&server, 1, LENGTH)?;
        PATTERN.read(&server, 0, LENGTH)
    });
    PATTERN.write(&client, 0, LENGTH)?;
    PATTERN.read(&client, 1, LENGTH)?;
    other.join().expect("server panicked")?;
    grown(env, &before, 1)?;
    Ok(Claim::ring(2 * LENGTH))
}

/// A ring that has grown stays usable at its new size.
fn write_then_read_often(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    let mut position = 0;
    for round in 0..20 {
        let length = LENGTH - round * 1111;
        PATTERN.write(&client, position, length)?;
        PATTERN.read(&server, position, length)?;
        position += length as u64;
    }
    grown(env, &before, 1)?;
    Ok(Claim::ring(position as usize))
}

/// What a late reader made the ring hold is given back as it catches up, not when the connection ends.
fn memory_comes_back(env: &Env) -> Result<Claim> {
    let held = || Counters::read()?.get("ring_kbytes_alive");
    let Conn { client, server } = env.conn()?;
    let small = held()?;
    let sent = fill(&client, 0, 10_000)?;
    let large = held()?;
    ensure!(
        (large - small) << 10 >= sent as u64 / 2,
        "{sent} bytes in {large} KiB, {small} before"
    );
    PATTERN.read(&server, 0, sent)?;
    let after = held()?;
    ensure!(
        after <= small + 64 + 16 + 40,
        "{after} KiB held after all was read, {small} before, {large} full"
    );
    PATTERN.write(&client, 7, 40_000)?;
    PATTERN.read(&server, 7, 40_000)?;
    Ok(Claim::ring(sent + 40_000))
}

/// A poller that was told of room finds it, also in a blocking send().
fn writable_means_writable(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    let watch = Watch::level(&client, EPOLLOUT)?;
    let mut sent = 0;
    while sent < 256 << 20 && watch.events(std::time::Duration::from_millis(300))? == EPOLLOUT {
        // Small enough for what poll() promises (a third of a send buffer, at least 1 KiB).
        PATTERN.write(&client, sent, 1000)?;
        sent += 1000;
    }
    let full = sys::send(&client, &PATTERN.bytes(sent, 1 << 20), libc::MSG_DONTWAIT);
    let more = full.unwrap_or(0);
    PATTERN.read(&server, 0, sent as usize + more)?;
    watch.expect(EPOLLOUT)?;
    grown(env, &before, 1)?;
    Ok(Claim::ring(sent as usize + more))
}

/// The reader begins in the middle, at its own pace: no byte is lost where the table is replaced.
fn grows_under_a_reader(env: &Env) -> Result<Claim> {
    const MUCH: usize = 6 << 20;
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    let send = Asleep::start(move || PATTERN.write(&client, 0, MUCH).map(|()| client))?;
    let (mut position, mut buffer) = (0, vec![0; 50_000]);
    while position < MUCH {
        let length = 1 + position * 7919 % buffer.len();
        let got = (&server).read(&mut buffer[..length])?;
        ensure!(got > 0, "stream ended after {position} bytes");
        PATTERN.check(position as u64, &buffer[..got])?;
        position += got;
    }
    drop(send.join()?);
    grown(env, &before, 1)?;
    Ok(Claim::ring(MUCH))
}

fn peek_into_a_grown_ring(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    let sent = fill(&client, 0, 3000)?;
    let mut all = vec![0; sent];
    let got = sys::recv(&server, &mut all, libc::MSG_PEEK)?;
    PATTERN.check(0, &all[..got])?;
    ensure!(
        !env.spliced() || got == sent,
        "peeked at {got} of {sent} bytes"
    );
    PATTERN.read(&server, 0, sent)?;
    let empty = sys::recv(&server, &mut [0], libc::MSG_DONTWAIT).err();
    ensure!(
        empty.is_some_and(|error| error.kind() == ErrorKind::WouldBlock),
        "bytes were left"
    );
    grown(env, &before, 1)?;
    Ok(Claim::ring(sent))
}

/// Who wants little buffered gets little: the ring does not grow beyond the sockets' buffers.
fn small_buffers_keep_it_small(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    let small = |socket: &TcpStream| -> Result<()> {
        let socket = socket2::SockRef::from(socket);
        socket.set_send_buffer_size(1)?;
        Ok(socket.set_recv_buffer_size(1)?)
    };
    small(&client)?;
    small(&server)?;
    let sent = fill(&client, 0, 5000)?;
    ensure!(sent == 64 << 10, "a ring of 64 KiB held {sent} bytes");
    ensure!(
        env.since(&before)?.get("ring_grows")? == 0,
        "the ring grew beyond the buffers"
    );
    PATTERN.read(&server, 0, sent)?;
    Ok(Claim::ring(sent))
}
