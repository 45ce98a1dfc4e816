// SPDX-License-Identifier: GPL-2.0-only
//! In a namespace of its own an attacker may use TCP_REPAIR: its socket becomes ESTABLISHED at once, with addresses, ports and
//! sequence numbers of its choice and no packet sent, so the policy program offers it. Here it even knows the victim's numbers,
//! which it could only guess, and comes before, during and after the victim's handshake, as either end. It does not help: a
//! handshake without a segment is refused, since there is no transmit hash of another socket to prove anything by; the victim's
//! connection pairs as if the attacker were not there.

use std::io::Write;
use std::net::{SocketAddrV4, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use tcp_splice_world::counters::Counters;

use super::attacker::{Attacker, numbers, own_both_addresses};
use super::moved_exactly;
use super::numbers::{Watch, choose, repair};
use super::tenant::{CLIENT, PORT, SERVER, Tenant, talk};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("repair_before_the_handshake", before_the_handshake)
        .spliced_only()
        .limit(180),
    Scenario::one("repair_during_the_handshake", during_the_handshake).spliced_only(),
    Scenario::one("repair_after_the_handshake", after_the_handshake).spliced_only(),
];

const VICTIM: u16 = 30_000;

/// An attacker that, by the order "PORT CLIENT_ISN SERVER_ISN", takes the place of both ends, writes to each, and looks for anything to read.
fn attacker() -> Result<Attacker> {
    Attacker::start(|| {
        own_both_addresses()?;
        let mut sockets = Vec::new();
        Ok(move |order: &str| {
            let [port, client_isn, server_isn] = numbers(order)?;
            let client = SocketAddrV4::new(CLIENT, port as u16);
            let server = SocketAddrV4::new(SERVER, PORT);
            let next = [client_isn.wrapping_add(1), server_isn.wrapping_add(1)];
            sockets.push(impersonate(client, server, next[0], next[1])?);
            sockets.push(impersonate(server, client, next[1], next[0])?);
            for socket in &sockets {
                let read = sys::recv(socket, &mut [0; 100], libc::MSG_DONTWAIT);
                ensure!(read.is_err(), "{read:?} foreign bytes");
            }
            Ok(String::new())
        })
    })
}

/// A socket that is connected by TCP_REPAIR alone.
fn impersonate(me: SocketAddrV4, you: SocketAddrV4, send: u32, receive: u32) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    repair(&socket, true)?;
    socket.bind(&me.into()).context("failed to bind")?;
    choose(&socket, send, receive)?;
    socket.connect(&you.into()).context("failed to connect")?;
    let mut stream: TcpStream = socket.into();
    stream.write_all(b"foreign bytes")?;
    Ok(stream)
}

/// Lets no SYN-ACK in.
const HOLD: &str = "
table ip hold {
    chain input {
        type filter hook input priority 0
        tcp flags & (syn | ack) == syn | ack drop
    }
}
";

/// What the attacker is refused for each attempt: two sockets.
const REFUSED: (&str, u64) = ("refused_handshake", 2);

/// The client is kept from seeing the SYN-ACK until the attacker has been there.
fn before_the_handshake(_env: &Env) -> Result<Claim> {
    let mut attacker = attacker()?;
    let tenant = Tenant::new()?;
    tenant.keep_hashes()?;
    tenant.client.nft(HOLD)?;
    let (listener, before) = (tenant.listen()?, Counters::read()?);
    let watch = Watch::new(&tenant.client)?;
    let client = thread::scope(|scope| {
        let client = scope.spawn(|| tenant.connect(VICTIM));
        let (mine, yours) = watch.handshake(VICTIM)?;
        let refused = attacker
            .order(&format!("{VICTIM} {mine} {yours}"))
            .and_then(|_| moved_exactly(&before, &[REFUSED, ("offers_made", 0)]));
        tenant.client.nft("delete table ip hold")?;
        refused?;
        client.join().expect("client panicked")
    })?;
    let (server, _) = listener.accept()?;
    talk(&client, &server, 1)?;
    moved_exactly(&before, &[REFUSED, ("pairs_made", 1)])?;
    Ok(Claim::ring(400))
}

/// The client's end is offered already, the server's does not exist yet.
fn during_the_handshake(_env: &Env) -> Result<Claim> {
    let mut attacker = attacker()?;
    let tenant = Tenant::new()?;
    let before = Counters::read()?;
    let halfway = tenant.connect_halfway(VICTIM)?;
    let (mine, yours) = halfway.numbers;
    attacker.order(&format!("{VICTIM} {mine} {yours}"))?;
    moved_exactly(&before, &[REFUSED, ("offers_made", 1), ("pairs_made", 0)])?;
    let conn = halfway.finish(2)?;
    moved_exactly(&before, &[REFUSED, ("offers_made", 1), ("pairs_made", 1)])?;
    drop(conn);
    Ok(Claim::ring(400))
}

/// The victim's ends are joined.
fn after_the_handshake(_env: &Env) -> Result<Claim> {
    let mut attacker = attacker()?;
    let tenant = Tenant::new()?;
    let (listener, before) = (tenant.listen()?, Counters::read()?);
    let watch = Watch::new(&tenant.client)?;
    let client = tenant.connect(VICTIM)?;
    let (server, _) = listener.accept()?;
    let (mine, yours) = watch.handshake(VICTIM)?;
    talk(&client, &server, 3)?;
    attacker.order(&format!("{VICTIM} {mine} {yours}"))?;
    talk(&client, &server, 4)?;
    moved_exactly(&before, &[REFUSED, ("offers_made", 1), ("pairs_made", 1)])?;
    Ok(Claim::ring(800))
}
