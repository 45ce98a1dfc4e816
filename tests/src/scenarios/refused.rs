// SPDX-License-Identifier: GPL-2.0-only
//! Connections that the policy offers and the module refuses for what they are: they stay plain TCP, work, and are counted under their reason.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("fast_open", fast_open),
    Scenario::one("connected_to_itself", connected_to_itself),
    Scenario::one("signed", signed).spliced_only(),
    Scenario::one("multipath", multipath).spliced_only(),
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
