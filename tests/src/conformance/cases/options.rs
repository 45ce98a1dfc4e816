// SPDX-License-Identifier: GPL-2.0-only
//! Options that can be read and set, ioctls, addresses and TCP_INFO.

use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::Result;
use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use tcp_splice_world::sys::{ByteCounts, byte_counts};

use crate::calls;
use crate::case::{Case, case};
use crate::observe::{DATA, soon};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(socket_level).lanes(),
    case!(tcp_level).lanes(),
    case!(ip_level).lanes(),
    case!(unknown_levels).lanes(),
    case!(set_socket_level),
    case!(set_tcp_level),
    case!(set_ip_level),
    case!(refused_values).lanes(),
    case!(wrong_lengths).lanes(),
    case!(addresses).lanes(),
    case!(addresses_after_the_end),
    case!(readable_bytes),
    case!(readable_bytes_across_the_border),
    case!(outgoing_bytes),
    case!(other_requests).lanes(),
    case!(info_of_an_idle_connection).lanes(),
    case!(info_counts_bytes),
    case!(info_counts_bytes_both_ways),
    case!(info_state),
    case!(congestion_control).lanes(),
    case!(upper_layer_protocol_name).lanes(),
];

const SIOCOUTQ: libc::Ioctl = 0x5411;
const SIOCOUTQNSD: libc::Ioctl = 0x894b;

/// Options whose value depends on the connection's history or on chance.
const CHANCE: &[(i32, i32)] = &[
    // Buffers grow with what was received; marks and identifiers are the machine's.
    (SOL_SOCKET, libc::SO_INCOMING_CPU),
    (SOL_SOCKET, libc::SO_INCOMING_NAPI_ID),
    (SOL_SOCKET, libc::SO_COOKIE),
    (SOL_SOCKET, libc::SO_MEMINFO),
    (SOL_SOCKET, libc::SO_RCVBUF),
    (SOL_SOCKET, libc::SO_SNDBUF),
    (SOL_SOCKET, libc::SO_BPF_EXTENSIONS),
    // A descriptor.
    (SOL_SOCKET, 77),
    (IPPROTO_TCP, libc::TCP_INFO),
    // These follow the packets: half the largest window seen, and whether acknowledgements are being held back.
    (IPPROTO_TCP, libc::TCP_MAXSEG),
    (IPPROTO_TCP, libc::TCP_QUICKACK),
    (IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (IPPROTO_TCP, libc::TCP_TIMESTAMP),
    (IPPROTO_TCP, libc::TCP_CC_INFO),
    (IPPROTO_TCP, libc::TCP_SAVED_SYN),
    // Part of an address.
    (IPPROTO_IP, 52),
];

/// Notes each option of a level: its bytes or its error, or only its length if the value is chance.
fn read_all(r: &Run, socket: &TcpStream, level: i32, names: impl Iterator<Item = i32>) {
    for name in names {
        let value = calls::get_bytes(socket, level, name, 256);
        let chance = CHANCE.contains(&(level, name));
        let words = value.map(|value| match chance {
            true => "some value".to_owned(),
            false => format!("{value:x?}"),
        });
        r.result(&format!("option {level}/{name}"), words);
    }
}

fn socket_level(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    read_all(r, &client, SOL_SOCKET, 1..=85);
    read_all(r, &server, SOL_SOCKET, 1..=85);
    Ok(())
}

fn tcp_level(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    read_all(r, &client, IPPROTO_TCP, 1..=48);
    read_all(r, &server, IPPROTO_TCP, 1..=48);
    Ok(())
}

fn ip_level(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for socket in [&client, &server] {
        read_all(r, socket, IPPROTO_IP, 1..=52);
        read_all(r, socket, IPPROTO_IPV6, 1..=80);
    }
    Ok(())
}

fn unknown_levels(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    for level in [2, 17, 136, 255, 263, 282, 284, 286, 9999] {
        r.option(&format!("get {level}"), &client, level, 1);
        r.set(&format!("set {level}"), &client, (level, 1), 1);
    }
    Ok(())
}

/// Sets options one after another, reads each, and shows that bytes still go through.
fn set_and_read(r: &Run, options: &[(i32, i32, i32)]) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for (level, name, value) in options {
        let what = format!("option {level}/{name}");
        r.set(&format!("set {what}"), &client, (*level, *name), *value);
        if !CHANCE.contains(&(*level, *name)) || *level == SOL_SOCKET {
            r.option(&what, &client, *level, *name);
        }
        r.send("send", &client, b"hello", 0);
        r.take("take", &server, 5);
    }
    Ok(())
}

fn set_socket_level(r: &Run) -> Result<()> {
    let set = |name, value| (SOL_SOCKET, name, value);
    set_and_read(
        r,
        &[
            set(libc::SO_KEEPALIVE, 1),
            set(libc::SO_PRIORITY, 4),
            set(libc::SO_MARK, 3),
            set(libc::SO_SNDBUF, 100_000),
            set(libc::SO_RCVBUF, 100_000),
            set(libc::SO_SNDBUFFORCE, 200_000),
            set(libc::SO_RCVBUFFORCE, 200_000),
            set(libc::SO_OOBINLINE, 1),
            set(libc::SO_BUSY_POLL, 5),
            set(libc::SO_DONTROUTE, 0),
            set(libc::SO_REUSEADDR, 1),
            set(libc::SO_REUSEPORT, 1),
            set(libc::SO_RCVLOWAT, 3),
            set(libc::SO_TIMESTAMP, 1),
            set(libc::SO_ZEROCOPY, 1),
            set(libc::SO_LOCK_FILTER, 0),
            set(libc::SO_INCOMING_CPU, 0),
            set(47, 1_000_000), // SO_MAX_PACING_RATE
        ],
    )
}

fn set_tcp_level(r: &Run) -> Result<()> {
    let set = |name, value| (IPPROTO_TCP, name, value);
    set_and_read(
        r,
        &[
            set(libc::TCP_NODELAY, 0),
            set(libc::TCP_NODELAY, 1),
            set(libc::TCP_QUICKACK, 1),
            set(libc::TCP_KEEPIDLE, 77),
            set(libc::TCP_KEEPINTVL, 7),
            set(libc::TCP_KEEPCNT, 3),
            set(libc::TCP_USER_TIMEOUT, 5000),
            set(libc::TCP_LINGER2, 5),
            set(libc::TCP_SYNCNT, 4),
            set(libc::TCP_NOTSENT_LOWAT, 100_000),
            set(libc::TCP_THIN_LINEAR_TIMEOUTS, 1),
            set(libc::TCP_INQ, 1),
            set(libc::TCP_WINDOW_CLAMP, 60_000),
            set(libc::TCP_DEFER_ACCEPT, 1),
            set(libc::TCP_FASTOPEN_CONNECT, 1),
            set(libc::TCP_MAXSEG, 1000),
        ],
    )
}

fn set_ip_level(r: &Run) -> Result<()> {
    let set = |name, value| (IPPROTO_IP, name, value);
    set_and_read(
        r,
        &[
            set(libc::IP_TOS, 0x10),
            set(libc::IP_TTL, 33),
            set(libc::IP_RECVERR, 1),
            set(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
            set(libc::IP_RECVTOS, 1),
            set(libc::IP_MINTTL, 1),
            set(libc::IP_FREEBIND, 1),
        ],
    )
}

fn refused_values(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    for (level, name, value) in [
        (IPPROTO_TCP, libc::TCP_KEEPIDLE, -1),
        (IPPROTO_TCP, libc::TCP_KEEPCNT, 9999),
        (IPPROTO_TCP, libc::TCP_USER_TIMEOUT, -1),
        (IPPROTO_TCP, libc::TCP_MAXSEG, 1),
        (IPPROTO_TCP, 9999, 1),
        (SOL_SOCKET, libc::SO_BUSY_POLL, -1),
        (SOL_SOCKET, libc::SO_ERROR, 1),
        (SOL_SOCKET, libc::SO_TYPE, 1),
        (SOL_SOCKET, libc::SO_ZEROCOPY, 2),
        (SOL_SOCKET, 9999, 1),
        (IPPROTO_IP, libc::IP_TTL, 999),
        (IPPROTO_IP, 9999, 1),
    ] {
        r.set(
            &format!("{level}/{name} = {value}"),
            &client,
            (level, name),
            value,
        );
    }
    Ok(())
}

fn wrong_lengths(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    for (level, name) in [
        (IPPROTO_TCP, libc::TCP_NODELAY),
        (IPPROTO_TCP, libc::TCP_ULP),
        (SOL_SOCKET, libc::SO_RCVLOWAT),
        (SOL_SOCKET, libc::SO_LINGER),
        (SOL_SOCKET, libc::SO_RCVTIMEO),
    ] {
        let what = format!("{level}/{name}");
        r.done(
            &format!("set {what} of nothing"),
            calls::set_bytes(&client, level, name, &[]),
        );
        let short = calls::get_bytes(&client, level, name, 2);
        r.result(&format!("get {what} of 2"), short.map(|value| value.len()));
    }
    Ok(())
}

/// Whether addresses are there and agree crosswise.
fn agree(r: &Run, one: &TcpStream, other: &TcpStream) {
    let port = |address: std::io::Result<SocketAddr>| address.map(|address| address.port());
    for (mine, theirs) in [
        (one.local_addr(), other.peer_addr()),
        (one.peer_addr(), other.local_addr()),
    ] {
        match (port(mine), port(theirs)) {
            (Ok(mine), Ok(theirs)) => r.note("ports agree", mine == theirs),
            (mine, theirs) => {
                let there = |port: std::io::Result<u16>| trace::outcome(port.map(|_| "there"));
                r.note("ports", format_args!("{}, {}", there(mine), there(theirs)));
            }
        }
    }
}

fn addresses(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    agree(r, &client, &server);
    Ok(())
}

fn addresses_after_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"x", 0);
    client.shutdown(Shutdown::Write)?;
    r.end("server", &server);
    agree(r, &client, &server);
    server.shutdown(Shutdown::Write)?;
    r.poll_until("client", &client, libc::POLLHUP);
    r.note(
        "client",
        trace::outcome(client.peer_addr().map(|_| "there")),
    );
    Ok(())
}

fn readable_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.readable("nothing", &server);
    let mut total = 0;
    for size in [1, 10, 4000, 20_000, 30_000] {
        DATA.write(&client, total as u64, size)?;
        total += size;
        r.arrived(&server, total);
    }
    for size in [1, 5000, 40_000] {
        r.take("take", &server, size);
        r.readable("left", &server);
    }
    client.shutdown(Shutdown::Write)?;
    r.poll_until("poll", &server, libc::POLLRDHUP);
    r.readable("with the end behind", &server);
    r.end("end", &server);
    r.readable("at the end", &server);
    Ok(())
}

fn readable_bytes_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"ring, ", 0);
    r.result(
        "stamped",
        tcp_splice_world::sys::send_with_timestamp(&client, b"TCP again"),
    );
    r.arrived(&server, 24);
    for size in [4, 8, 5, 7] {
        r.take("take", &server, size);
        r.readable("left", &server);
    }
    Ok(())
}

/// Waits until all bytes of the warm-up are acknowledged.
fn acknowledged(socket: &TcpStream) {
    soon(|| calls::ioctl(socket, SIOCOUTQ).is_ok_and(|count| count == 0));
}

/// SIOCOUTQ of bytes that the other side has: TCP counts only what was not acknowledged.
fn outgoing_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let acknowledged = || calls::ioctl(&client, SIOCOUTQ).is_ok_and(|count| count == 0);
    r.note("idle", soon(acknowledged));
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    r.note("all acknowledged though not read", soon(acknowledged));
    r.result("not sent", calls::ioctl(&client, SIOCOUTQNSD));
    r.take("take", &server, 5);
    r.note("all acknowledged", soon(acknowledged));
    Ok(())
}

fn other_requests(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    // SIOCGPGRP, SIOCGSTAMP, FIOASYNC's reading sibling, a request of nobody.
    for request in [0x8904, 0x8906, 0x8905, 0x5450, 0x1234] {
        r.result(
            &format!("ioctl {request:#x}"),
            calls::ioctl(&client, request),
        );
    }
    Ok(())
}

/// A field of TCP_INFO.
fn info(socket: &TcpStream, at: usize, length: usize) -> Result<u64> {
    let bytes = calls::get_bytes(socket, IPPROTO_TCP, libc::TCP_INFO, 256)?;
    let mut value = [0; 8];
    value[..length].copy_from_slice(&bytes[at..at + length]);
    Ok(u64::from_le_bytes(value))
}

/// What the counts did since `before`, once `sent` is reached and acknowledged or it is clear that it will not be.
fn counted(r: &Run, what: &str, socket: &TcpStream, before: ByteCounts, sent: u64) -> Result<()> {
    soon(|| byte_counts(socket).is_ok_and(|now| now.acked - before.acked >= sent));
    let now = byte_counts(socket)?;
    let [acked, received, sent] = [
        now.acked - before.acked,
        now.received - before.received,
        now.sent - before.sent,
    ];
    r.note(
        what,
        format_args!("acked {acked}, received {received}, sent {sent}"),
    );
    Ok(())
}

fn info_of_an_idle_connection(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for socket in [&client, &server] {
        r.note("state", info(socket, 0, 1)?);
        r.note("congestion state", info(socket, 1, 1)?);
        r.note("retransmits", info(socket, 2, 1)?);
        r.note("probes", info(socket, 3, 1)?);
        r.note("options", info(socket, 5, 1)?);
        r.note("not sent", info(socket, 144, 4)?);
        let acknowledged = || info(socket, 24, 4).is_ok_and(|unacked| unacked == 0);
        r.note("all acknowledged", soon(acknowledged));
    }
    Ok(())
}

fn info_counts_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    acknowledged(&client);
    acknowledged(&server);
    let before = (byte_counts(&client)?, byte_counts(&server)?);
    DATA.write(&client, 0, 10_000)?;
    r.take("take", &server, 10_000);
    counted(r, "client", &client, before.0, 10_000)?;
    counted(r, "server", &server, before.1, 0)?;
    Ok(())
}

fn info_counts_bytes_both_ways(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    acknowledged(&client);
    acknowledged(&server);
    let before = (byte_counts(&client)?, byte_counts(&server)?);
    for round in 0..5 {
        DATA.write(&client, round, 1000)?;
        r.take("server", &server, 1000);
        DATA.write(&server, round, 2000)?;
        r.take("client", &client, 2000);
    }
    counted(r, "client", &client, before.0, 5000)?;
    counted(r, "server", &server, before.1, 10_000)?;
    Ok(())
}

fn info_state(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"x", 0);
    client.shutdown(Shutdown::Write)?;
    r.end("server", &server);
    soon(|| info(&client, 0, 1).is_ok_and(|state| state == 5));
    r.note("client", info(&client, 0, 1)?);
    r.note("server", info(&server, 0, 1)?);
    drop(server);
    r.poll_until("client", &client, libc::POLLHUP);
    r.note("client", info(&client, 0, 1)?);
    Ok(())
}

fn congestion_control(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    let name = libc::TCP_CONGESTION;
    for value in [&b"reno"[..], b"nonsense"] {
        r.done("set", calls::set_bytes(&client, IPPROTO_TCP, name, value));
        let now = calls::get_bytes(&client, IPPROTO_TCP, name, 16);
        r.result(
            "get",
            now.map(|bytes| trace::bytes(bytes.split(|b| *b == 0).next().unwrap_or(b""))),
        );
    }
    Ok(())
}

/// TCP_ULP names nothing: the module's own name is not a program's business.
fn upper_layer_protocol_name(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    let name = calls::get_bytes(&client, IPPROTO_TCP, libc::TCP_ULP, 16);
    r.result("name", name.map(|name| trace::bytes(&name)));
    r.done(
        "nonsense",
        calls::set_bytes(&client, IPPROTO_TCP, libc::TCP_ULP, b"nonsense"),
    );
    Ok(())
}
