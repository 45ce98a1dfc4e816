// SPDX-License-Identifier: GPL-2.0-only
//! Any user may make a user namespace and in it a network namespace, where it is root: it owns the victim's addresses and ports
//! there, and can see and change every packet. Its own connections, though they have the victim's addresses and ports, pair
//! among themselves and with nobody else, since sequence numbers and transmit hashes are not the victim's. Where a real
//! connection leads out of such a namespace, over a device that root gave it, its root could have made the packets what it
//! likes: the ends are the two ends of one connection, and are still not joined, because such a namespace pairs with no other.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;

use super::attacker::{Attacker, numbers, own_both_addresses};
use super::moved_exactly;
use super::tenant::{PORT, SERVER, Tenant, abort, connect_from, talk};
use crate::env::{Claim, Env, wait_until};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::one("userns_that_owns_the_addresses", owns_the_addresses)
        .spliced_only()
        .limit(180),
    Scenario::one("userns_that_reaches_out", reaches_out).spliced_only(),
];

const COUNT: u16 = 1000;
const FIRST_PORT: u16 = 20_000;

fn owns_the_addresses(_env: &Env) -> Result<Claim> {
    let mut attacker = Attacker::start(|| {
        own_both_addresses()?;
        let listener = TcpListener::bind(SocketAddrV4::new(SERVER, PORT))?;
        Ok(move |_: &str| connections(&listener, 1).map(|()| String::new()))
    })?;
    let tenant = Tenant::new()?;
    let listener = tenant.listen()?;
    let before = Counters::read()?;
    attacker.begin("go")?;
    tenant.client.within(|| connections(&listener, 2))?;
    attacker.answer()?;
    let moved = Counters::read()?.since(&before);
    let all = 2 * u64::from(COUNT);
    let (pairs, again) = (moved.get("pairs_made")?, moved.get("refused_witness")?);
    ensure!(
        pairs + again == all && moved.refused() == again,
        "not every one of {all} was paired with its own: {:?}",
        moved.moved()
    );
    Ok(Claim::ring(0).pairs(all * 99 / 100).tcp(usize::MAX / 2))
}

fn connections(listener: &TcpListener, who: u64) -> Result<()> {
    for port in FIRST_PORT..FIRST_PORT + COUNT {
        let client = connect_from(port)?;
        let (server, _) = listener.accept().context("failed to accept")?;
        talk(&client, &server, who << 32 | u64::from(port))?;
        abort(client, server)?;
    }
    Ok(())
}

/// Connections between a tenant and the attacker, as many in each direction.
const CROSSING: u16 = 10;
const OUT_PORT: u16 = 9000;

fn reaches_out(_env: &Env) -> Result<Claim> {
    let (ours, theirs) = (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 1));
    let mut attacker = Attacker::start(|| {
        let mut listener = None;
        Ok(move |order: &str| {
            let [what] = numbers(order)?;
            match what {
                0 => listener = Some(TcpListener::bind((theirs, OUT_PORT))?),
                1 => say(TcpStream::connect((ours, PORT))?, 1, 2)?,
                _ => say(listener.as_ref().context("no listener")?.accept()?.0, 1, 2)?,
            }
            Ok(String::new())
        })
    })?;
    let tenant = Tenant::new()?;
    let space = attacker.space()?;
    let there = space.path();
    tenant.server.ip(&format!(
        "link add out type veth peer name out netns {there}\n\
         link set out up\n\
         addr add {ours}/24 dev out\n"
    ))?;
    space.ip(&format!("link set out up\naddr add {theirs}/24 dev out\n"))?;
    let listener = tenant
        .server
        .listen(SocketAddrV4::new(ours, PORT).into(), false)
        .context("failed to listen")?;
    let before = Counters::read()?;
    attacker.order("0")?;
    for _ in 0..CROSSING {
        attacker.begin("1")?;
        say(listener.accept()?.0, 2, 1)?;
        attacker.answer()?;
        attacker.begin("2")?;
        say(
            tenant
                .server
                .connect(SocketAddrV4::new(theirs, OUT_PORT).into())?,
            2,
            1,
        )?;
        attacker.answer()?;
    }
    let all = 2 * u64::from(CROSSING);
    let want = [
        ("offers_made", all),
        ("refused_namespace", all),
        ("pairs_made", 0),
    ];
    moved_exactly(&before, &want)?;
    // A FIN that is on its way when the attacker's namespace goes would be sent again for minutes.
    wait_until("all connections to end", || {
        Ok(Counters::read()?.get("endpoints_alive")? == before.get("endpoints_alive")?)
    })?;
    Ok(Claim::untouched())
}

/// One end's half of an exchange: its own bytes, and those of the other end.
fn say(stream: TcpStream, own: u64, other: u64) -> Result<()> {
    for position in [0, 1000] {
        Pattern::new(own).write(&stream, position, 1000)?;
        Pattern::new(other).read(&stream, position, 1000)?;
    }
    Ok(())
}
