// SPDX-License-Identifier: GPL-2.0-only
//! What only TCP can do takes its place in the order of the bytes.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use socket2::{SockRef, TcpKeepalive};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("urgent_byte_in_line", urgent_byte_in_line),
    Scenario::each("urgent_byte_alone", urgent_byte_alone),
    Scenario::each("time_stamped_sends", time_stamped_sends),
    Scenario::each("receive_time_stamps", receive_time_stamps),
    Scenario::each("filter_attached_later", filter_attached_later),
    Scenario::each("byte_counts", byte_counts),
    Scenario::each("leaves_under_load", leaves_under_load),
    Scenario::some("keepalive", keepalive),
    Scenario::each("addresses_and_options", addresses_and_options),
];

const PATTERN: Pattern = Pattern::new(28);

fn urgent_byte_in_line(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    PATTERN.write(&client, 0, 5000)?;
    let sent = sys::send(&client, &PATTERN.bytes(5000, 1), libc::MSG_OOB)?;
    ensure!(sent == 1, "urgent send gave {sent}");
    PATTERN.write(&client, 5001, 5000)?;
    client.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(&server, 0, 10_001)?;
    Ok(Claim::ring(5000).tcp(5001))
}

fn urgent_byte_alone(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 5000)?;
    sys::send(&client, b"!", libc::MSG_OOB)?;
    PATTERN.write(&client, 5000, 5000)?;
    client.shutdown(Shutdown::Write)?;
    PATTERN.read(&server, 0, 5000)?;
    crate::env::wait_until("urgent byte", || {
        let mut byte = [0];
        let count = sys::recv(&server, &mut byte, libc::MSG_OOB | libc::MSG_DONTWAIT);
        Ok(count.is_ok_and(|count| count == 1 && byte == *b"!"))
    })?;
    PATTERN.read_to_end(&server, 5000, 5000)?;
    Ok(Claim::ring(5000).tcp(5001))
}

fn time_stamped_sends(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let flags = libc::SOF_TIMESTAMPING_SOFTWARE | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    sys::set_option(
        &client,
        libc::SOL_SOCKET,
        libc::SO_TIMESTAMPING,
        flags as i32,
    )?;
    let mut position = 0;
    for _ in 0..10 {
        PATTERN.write(&client, position, 1000)?;
        let sent = sys::send_with_timestamp(&client, &PATTERN.bytes(position + 1000, 500))?;
        ensure!(sent == 500, "time-stamped send gave {sent}");
        position += 1500;
    }
    client.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(&server, 0, position as usize)?;
    Ok(Claim::ring(1000).tcp(15_000))
}

/// A receiver that wants to know when bytes came gets packets, as long as it wants to; then the ring again.
fn receive_time_stamps(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let before = env.counters()?;
    PATTERN.write(&client, 0, 1000)?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1)?;
    PATTERN.read(&server, 0, 1000)?;
    // The kernel takes a moment to begin with stamping.
    crate::env::wait_until("a time stamp", || {
        PATTERN.write(&client, 0, 100)?;
        let mut buffer = [0; 100];
        let (count, stamped) = sys::recv_with_timestamp(&server, &mut buffer)?;
        PATTERN.check(0, &buffer[..count])?;
        ensure!(count == 100, "{count} bytes came");
        Ok(stamped)
    })?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 0)?;
    for round in 0..50 {
        PATTERN.write(&client, round, 100)?;
        PATTERN.read(&server, round, 100)?;
    }
    if env.spliced() {
        let delta = env.since(&before)?;
        ensure!(
            delta.get("ring_leaves")? > 0 && delta.get("ring_starts")? > 0,
            "the lane did not leave and come back: {:?}",
            delta.moved()
        );
    }
    Ok(Claim::ring(1000).tcp(1 << 20))
}

/// A filter that drops everything, attached to the receiver while ring bytes are unread: those stay, and nothing comes after them until it
/// is taken off.
fn filter_attached_later(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 1000)?;
    sys::attach_filter(&server, 0)?;
    PATTERN.write(&client, 1000, 1000)?;
    thread::sleep(Duration::from_millis(300));
    let there = sys::readable_bytes(&server)?;
    ensure!(there == 1000, "{there} bytes came past the filter");
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)?;
    PATTERN.read(&server, 0, 2000)?;
    Ok(Claim::ring(1000).tcp(1000))
}

/// TCP_INFO counts the ring's bytes.
fn byte_counts(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let info = [sys::byte_counts(&client)?, sys::byte_counts(&server)?];
    PATTERN.write(&client, 0, 5000)?;
    PATTERN.read(&server, 0, 5000)?;
    PATTERN.write(&server, 0, 300)?;
    PATTERN.read(&client, 0, 300)?;
    for (end, was, out, inn) in [
        (&client, &info[0], 5000, 300),
        (&server, &info[1], 300, 5000),
    ] {
        // The last acknowledgement may be on its way over plain TCP.
        crate::env::wait_until("byte counts", || {
            let now = sys::byte_counts(end)?;
            Ok(now.sent - was.sent == out
                && now.acked - was.acked == out
                && now.received - was.received == inn)
        })?;
    }
    Ok(Claim::ring(5300))
}

/// One thread reads all the time while the sender goes between ring and TCP.
fn leaves_under_load(env: &Env) -> Result<Claim> {
    const ROUNDS: u64 = 60;
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    let length = ROUNDS as usize * 21_000;
    let reader = thread::spawn(move || PATTERN.read_to_end(&server, 0, length));
    for round in 0..ROUNDS {
        PATTERN.write(&client, round * 21_000, 20_000)?;
        sys::send_with_timestamp(&client, &PATTERN.bytes(round * 21_000 + 20_000, 1000))?;
    }
    drop(client);
    reader.join().expect("reader panicked")?;
    Ok(Claim::ring(20_000).tcp(length))
}

/// Probes go on under a connection that carries ring bytes, and end nothing.
fn keepalive(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let second = Duration::from_secs(1);
    let probes = TcpKeepalive::new()
        .with_time(second)
        .with_interval(second)
        .with_retries(2);
    SockRef::from(&client).set_tcp_keepalive(&probes)?;
    PATTERN.write(&client, 0, 10_000)?;
    PATTERN.write(&server, 0, 10_000)?;
    thread::sleep(4 * second);
    PATTERN.read(&client, 0, 10_000)?;
    PATTERN.read(&server, 0, 10_000)?;
    PATTERN.write(&client, 0, 10_000)?;
    PATTERN.read(&server, 0, 10_000)?;
    Ok(Claim::ring(30_000))
}

fn addresses_and_options(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    ensure!(
        client.local_addr()?.port() == server.peer_addr()?.port(),
        "ports do not agree"
    );
    ensure!(
        client.peer_addr()?.port() == server.local_addr()?.port(),
        "ports do not agree"
    );
    client.set_nodelay(false)?;
    ensure!(!client.nodelay()?, "TCP_NODELAY did not change");
    client.set_ttl(33)?;
    ensure!(client.take_error()?.is_none(), "SO_ERROR is set");
    sys::set_option(&client, libc::IPPROTO_TCP, libc::TCP_CORK, 1)?;
    PATTERN.write(&client, 0, 100)?;
    sys::send(&client, &PATTERN.bytes(100, 100), libc::MSG_MORE)?;
    sys::set_option(&client, libc::IPPROTO_TCP, libc::TCP_CORK, 0)?;
    PATTERN.read(&server, 0, 200)?;
    Ok(Claim::ring(200))
}
