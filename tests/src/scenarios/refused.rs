// SPDX-License-Identifier: GPL-2.0-only
//! Connections that the policy offers and the module refuses for what they are: they stay plain TCP, work, and are counted under their reason.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("fast_open", fast_open),
    Scenario::one("connected_to_itself", connected_to_itself),
    Scenario::one("signed", signed).spliced_only(),
    Scenario::one("multipath", multipath).spliced_only(),
    Scenario::some("of_one_end_only", of_one_end_only),
    Scenario::one("many_of_one_end_only", many_of_one_end_only).limit(240),
];

const PATTERN: Pattern = Pattern::new(113);
const LENGTH: usize = 20_000;

/// What `connect` makes is refused at both ends, for this reason; and nothing stays of it while it lives.
fn refused(env: &Env, reason: &str, connect: impl FnOnce() -> Result<Conn>) -> Result<()> {
    let before = env.counters()?;
    let conn = connect()?;
    PATTERN.write(&conn.client, 3, LENGTH)?;
    PATTERN.read(&conn.server, 3, LENGTH)?;
    PATTERN.write(&conn.server, 7, LENGTH)?;
    PATTERN.read(&conn.client, 7, LENGTH)?;
    if env.spliced() {
        counted(&before, reason, 2)?;
    }
    Ok(())
}

/// The connection that `client` has made to `listener`.
fn accepted(client: Socket, listener: &TcpListener) -> Result<Conn> {
    let (server, _) = listener.accept()?;
    let client = client.into();
    Ok(Conn { client, server })
}

fn counted(before: &Counters, reason: &str, ends: u64) -> Result<()> {
    let since = Counters::read()?.since(before);
    let (ours, all) = (since.get(&format!("refused_{reason}"))?, since.refused());
    ensure!(
        ours == ends && all == ends,
        "{ours} of {all} refusals for {reason}, {ends} ends: {:?}",
        since.moved()
    );
    let alive = since.get("endpoints_alive")?;
    ensure!(alive == 0, "{alive} endpoints of a refused connection");
    Ok(())
}

/// As `tcp_fastopen` was before.
struct FastOpen(String);

impl FastOpen {
    const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_fastopen";

    /// At clients and servers.
    fn everywhere() -> Result<Self> {
        let before = fs::read_to_string(Self::SYSCTL).context("failed to read tcp_fastopen")?;
        fs::write(Self::SYSCTL, "3").context("failed to set tcp_fastopen")?;
        Ok(Self(before))
    }
}

impl Drop for FastOpen {
    fn drop(&mut self) {
        let _ = fs::write(Self::SYSCTL, self.0.trim());
    }
}

/// Bytes with the SYN (RFC 7413), once there is a cookie. The connection that asks for it is one only to its client, which is refused for that.
fn fast_open(env: &Env) -> Result<Claim> {
    let early = b"early";
    let _everywhere = FastOpen::everywhere()?;
    let listener = env.link.listen()?;
    sys::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 8)?;
    let address = env.link.address(&listener)?.into();
    let connect = || -> Result<Conn> {
        let client = env.link.client_socket()?;
        let sent = client.send_to_with_flags(early, &address, libc::MSG_FASTOPEN)?;
        ensure!(sent == early.len(), "{sent} bytes sent");
        let conn = accepted(client, &listener)?;
        let mut got = [0; 5];
        (&conn.server).read_exact(&mut got)?;
        ensure!(&got == early, "{got:?} came");
        Ok(conn)
    };
    drop(connect()?);
    refused(env, "handshake", connect)?;
    Ok(Claim::untouched())
}

/// Its SYN meets itself.
fn connected_to_itself(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let socket = env.link.client_socket()?;
    socket.bind(&SocketAddr::new(env.link.target(), 0).into())?;
    socket.connect(&socket.local_addr()?)?;
    let mut socket: TcpStream = socket.into();
    socket.write_all(b"to me")?;
    let mut got = [0; 5];
    socket.read_exact(&mut got)?;
    ensure!(&got == b"to me", "{got:?} came");
    if env.spliced() {
        counted(&before, "handshake", 1)?;
    }
    socket.shutdown(Shutdown::Write)?;
    Ok(Claim::untouched())
}

/// TCP-MD5 (RFC 2385) from the first segment on.
fn signed(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let address = env.link.address(&listener)?;
    sys::set_md5(&listener, &SocketAddr::new(env.link.target(), 0))?;
    refused(env, "packet_policy", || {
        let client = env.link.client_socket()?;
        sys::set_md5(&client, &address)?;
        client.connect(&address.into())?;
        accepted(client, &listener)
    })?;
    Ok(Claim::untouched())
}

/// Multipath TCP (RFC 8684), whose subflows are the kernel's own sockets.
fn multipath(env: &Env) -> Result<Claim> {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
    let listener = socket()?;
    listener.bind(&SocketAddr::new(env.link.target(), 0).into())?;
    listener.listen(8)?;
    let listener: TcpListener = listener.into();
    refused(env, "not_plain_tcp", || {
        let client = socket()?;
        client.connect(&listener.local_addr()?.into())?;
        accepted(client, &listener)
    })?;
    Ok(Claim::untouched())
}

/// The client's end is offered and nobody takes the offer: the module lets go of it by itself, whatever the program does with it meanwhile.
fn of_one_end_only(env: &Env) -> Result<Claim> {
    let before = env.counters()?;
    let listener = env.link.listen()?;
    sys::attach_filter(&listener, u32::MAX)?;
    let conns = [
        env.cold_from(&listener)?,
        env.cold_from(&listener)?,
        env.cold_from(&listener)?,
        env.cold_from(&listener)?,
    ];
    let [idle, blocked, watched, shut] = &conns;
    let reader = blocked.client.try_clone()?;
    let reader = Asleep::start(move || PATTERN.read(&reader, 7, LENGTH))?;
    let watch = Watch::edge(&watched.client, libc::EPOLLIN)?;
    watch.expect_nothing()?;
    shut.client.shutdown(Shutdown::Write)?;
    if env.spliced() {
        let ends = conns.len() as u64;
        let since = env.since(&before)?;
        let refused = since.get("refused_packet_policy")?;
        ensure!(
            refused == ends,
            "{refused} of {ends} servers' ends were refused"
        );
        let made = since.get("endpoints_made")?;
        ensure!(made == ends, "{made} of {ends} clients' ends were offered");
        wait_until("the module to let go of what nobody takes", || {
            Ok(env.counters()?.get("endpoints_alive")? == 0)
        })?;
        let drained = env.since(&before)?.get("drained")?;
        ensure!(drained == 0, "{drained} ends count as drained");
    }
    watch.expect_nothing()?;
    for Conn { client, server } in &conns {
        PATTERN.write(server, 7, LENGTH)?;
        if client.as_raw_fd() != blocked.client.as_raw_fd() {
            PATTERN.read(client, 7, LENGTH)?;
        }
    }
    reader.join()?;
    for Conn { client, server } in [idle, blocked, watched] {
        PATTERN.write(client, 3, LENGTH)?;
        PATTERN.read(server, 3, LENGTH)?;
    }
    PATTERN.read_to_end(&shut.server, 0, 0)?;
    Ok(Claim::untouched())
}

/// More than the module lets go of at once (half of `TS_RETIRED_MAX` of kmod/main.c), while some are closed, reset or connected anew.
fn many_of_one_end_only(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 1500;
    /// Every second one is kept as it is: more than that limit.
    const KEPT: usize = 2;
    const KINDS: usize = 4;
    /// Apart from the others, in milliseconds: in the middle of what the module does meanwhile.
    const BETWEEN: u64 = 8;
    sys::need_descriptors(2 * CONNECTIONS + 100)?;
    let before = env.counters()?;
    let listener = env.link.listen()?;
    sys::attach_filter(&listener, u32::MAX)?;
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let conn = env.cold_from(&listener)?;
        if number % KEPT == 0 {
            kept.push(conn);
        } else {
            others.push(conn);
        }
    }
    let address = env.link.address(&listener)?.into();
    let mut again = Vec::new();
    for (number, Conn { client, server }) in others.into_iter().enumerate() {
        let socket = SockRef::from(&client);
        match number % KINDS {
            0 => drop(client),
            1 => socket.set_linger(Some(Duration::ZERO))?,
            2 => {
                sys::disconnect(&client)?;
                socket.connect(&address)?;
                again.push((client, listener.accept()?.0));
            }
            _ => {
                socket.set_linger(Some(Duration::from_secs(5)))?;
                drop(client);
            }
        }
        drop(server);
        thread::sleep(Duration::from_millis(BETWEEN));
    }
    if env.spliced() {
        let since = env.since(&before)?;
        let met = since.get("endpoints_made")? + since.get("refused_held_up")?;
        let all = (CONNECTIONS + again.len()) as u64;
        ensure!(met == all, "{met} of {all} ends were offered");
        wait_until("the module to let go of what nobody takes", || {
            Ok(env.counters()?.get("endpoints_alive")? == 0)
        })?;
    }
    for Conn { client, server } in &kept {
        exchange(client, server)?;
    }
    for (client, server) in &again {
        exchange(client, server)?;
    }
    Ok(Claim::untouched())
}

fn exchange(client: &TcpStream, server: &TcpStream) -> Result<()> {
    const SHORT: usize = 1000;
    PATTERN.write(server, 7, SHORT)?;
    PATTERN.read(client, 7, SHORT)?;
    PATTERN.write(client, 3, SHORT)?;
    PATTERN.read(server, 3, SHORT)
}
