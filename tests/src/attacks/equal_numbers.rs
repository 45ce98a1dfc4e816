// SPDX-License-Identifier: GPL-2.0-only
//! The strongest forgery: in a namespace where it may use TCP_REPAIR an attacker makes a real connection between two sockets of
//! its own, with the victim's addresses, ports and both initial sequence numbers. The connecting end's number is preset; the
//! accepting end's follows from a TIME_WAIT socket that the attacker has prepared. Nothing is wrong with the handshake, so its
//! end is offered, next to the victim's or in place of it when that has expired. It does not help: the victim's accepting end
//! has seen the transmit hash of another socket, so it is joined with the true end, or with none. That holds even for
//! an attacker in a namespace of the initial user namespace, a privileged container for example.

use std::io::Read;
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::space::Space;

use super::attacker::{Attacker, numbers, own_both_addresses};
use super::moved_exactly;
use super::numbers::{Watch, choose, repair};
use super::tenant::{CLIENT, PORT, SERVER, Tenant, defer};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::one("equal_numbers_beside_the_true_ones", beside).spliced_only(),
    Scenario::one("equal_numbers_in_their_place", in_place).spliced_only(),
    Scenario::one("equal_numbers_of_a_privileged_tenant", privileged).spliced_only(),
];

const VICTIM: u16 = 31_000;

/// An offer is stale after 5.12 s.
const STALE: Duration = Duration::from_secs(6);

/// What the kernel adds to a TIME_WAIT socket's last number for the next connection (tcp_timewait_state_process()).
const AFTER_TIME_WAIT: u32 = 65_535 + 2;

/// Each forgery makes two sockets by TCP_REPAIR, of which none is offered.
const REFUSED: (&str, u64) = ("refused_handshake", 2);

/// A connection with these numbers; the accepting end waits for data.
fn forge(port: u16, client_isn: u32, server_isn: u32) -> Result<(TcpListener, TcpStream)> {
    let client = SocketAddrV4::new(CLIENT, port);
    let server = SocketAddrV4::new(SERVER, PORT);
    leave_time_wait(client, server, client_isn, server_isn)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&server.into())
        .context("failed to bind the listener")?;
    socket.listen(10)?;
    defer(&socket)?;
    let listener = socket.into();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    repair(&socket, true)?;
    socket.bind(&client.into()).context("failed to bind")?;
    choose(&socket, client_isn, 0)?;
    repair(&socket, false)?;
    socket
        .connect(&server.into())
        .context("failed to connect")?;
    Ok((listener, socket.into()))
}

/// Makes and ends a connection such that its TIME_WAIT socket gives the next one from `client` to `server` the number `server_isn`.
fn leave_time_wait(
    client: SocketAddrV4,
    server: SocketAddrV4,
    client_isn: u32,
    server_isn: u32,
) -> Result<()> {
    // One more is added by the FIN.
    let down = server_isn.wrapping_sub(AFTER_TIME_WAIT + 1);
    // Older than the SYN to come.
    let up = client_isn.wrapping_sub(10_000);
    let made = |me: SocketAddrV4, you: SocketAddrV4, send, receive| -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        repair(&socket, true)?;
        socket.bind(&me.into()).context("failed to bind")?;
        choose(&socket, send, receive)?;
        socket.connect(&you.into()).context("failed to connect")?;
        Ok(socket)
    };
    let (mut first, mut last) = (
        made(server, client, down, up)?,
        made(client, server, up, down)?,
    );
    repair(&first, false)?;
    repair(&last, false)?;
    // TCP_REPAIR has taken it away; the listener to come has to have it of both.
    first.set_reuse_address(true)?;
    first.shutdown(Shutdown::Write)?;
    ensure!(last.read(&mut [0])? == 0, "bytes out of nowhere");
    drop(last);
    ensure!(first.read(&mut [0])? == 0, "bytes out of nowhere");
    Ok(())
}

fn attacker() -> Result<Attacker> {
    Attacker::start(|| {
        own_both_addresses()?;
        let mut forged = Vec::new();
        Ok(move |order: &str| {
            let [port, client_isn, server_isn] = numbers(order)?;
            forged.push(forge(port as u16, client_isn, server_isn)?);
            Ok(String::new())
        })
    })
}

/// Has the attacker forge a connection with the same numbers, and checks that it has them.
fn attack(attacker: &mut Attacker, want: (u32, u32)) -> Result<()> {
    let watch = Watch::new(&attacker.space()?)?;
    attacker.order(&format!("{VICTIM} {} {}", want.0, want.1))?;
    let got = watch.handshake(VICTIM)?;
    ensure!(got == want, "forged {got:?} instead of {want:?}");
    Ok(())
}

/// Both offers wait with equal numbers.
fn beside(_env: &Env) -> Result<Claim> {
    let mut attacker = attacker()?;
    let tenant = Tenant::new()?;
    let before = Counters::read()?;
    let halfway = tenant.connect_halfway(VICTIM)?;
    attack(&mut attacker, halfway.numbers)?;
    moved_exactly(&before, &[REFUSED, ("offers_made", 2), ("pairs_made", 0)])?;
    let conn = halfway.finish(1)?;
    moved_exactly(&before, &[REFUSED, ("offers_made", 2), ("pairs_made", 1)])?;
    drop(conn);
    Ok(Claim::ring(400))
}

/// Only the forged offer waits.
fn in_place(_env: &Env) -> Result<Claim> {
    let mut attacker = attacker()?;
    let tenant = Tenant::new()?;
    let before = Counters::read()?;
    let halfway = tenant.connect_halfway(VICTIM)?;
    std::thread::sleep(STALE);
    attack(&mut attacker, halfway.numbers)?;
    let conn = halfway.finish(2)?;
    let want = [REFUSED, ("refused_witness", 1), ("pairs_made", 0)];
    moved_exactly(&before, &want)?;
    drop(conn);
    Ok(Claim::untouched())
}

/// As before; the attacker's namespace may pair with the victim's.
fn privileged(_env: &Env) -> Result<Claim> {
    let space = Space::new()?;
    space.within(own_both_addresses)?;
    let tenant = Tenant::new()?;
    let before = Counters::read()?;
    let halfway = tenant.connect_halfway(VICTIM)?;
    std::thread::sleep(STALE);
    let (mine, yours) = halfway.numbers;
    let forged = space.within(|| forge(VICTIM, mine, yours))?;
    let conn = halfway.finish(3)?;
    let want = [REFUSED, ("refused_witness", 1), ("pairs_made", 0)];
    moved_exactly(&before, &want)?;
    drop((forged, conn));
    Ok(Claim::untouched())
}
