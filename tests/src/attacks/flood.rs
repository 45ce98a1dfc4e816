// SPDX-License-Identifier: GPL-2.0-only
//! Connections that never complete: the client's end is offered, the server's never comes to be, and the offer waits until it
//! is stale. An attacker makes them by the thousand, in several namespaces, to fill the table of offers, so that nobody else's
//! connections pair. It does not help: a namespace has at most half of each set of the table, and where a set is full the one
//! that has most makes room. So the attackers displace their own offers and each other's, and whoever connects and is accepted
//! at once pairs as ever.

use std::net::{SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context, Result};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pace;

use super::attacker::{Attacker, numbers, own_both_addresses};
use super::moved_exactly;
use super::tenant::{PORT, SERVER, Tenant, abort, defer, talk};
use crate::env::Claim;
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("flood_of_one_namespace", |_| flood(1, "refused_share"))
        .spliced_only()
        .limit(300),
    Scenario::one("flood_of_many_namespaces", |_| {
        flood(4, "refused_table_full")
    })
    .spliced_only()
    .limit(300),
];

/// Half offers of an attacker at a time.
const BATCH: u32 = 500;
/// Half offers that an attacker keeps: more than can be fresh at once.
const KEPT: usize = 6000;
/// Offers to be displaced before the test is over.
const DISPLACED: u64 = 200;
/// On a kernel with checkers handshakes are so slow that offers are stale before the table is full: so many batches, and nobody honest is hurt.
const BATCHES: u64 = 8;

/// Honest connections for each batch.
const HONEST: u16 = 20;

fn attacker() -> Result<Attacker> {
    Attacker::start(|| {
        own_both_addresses()?;
        let mut half = std::collections::VecDeque::new();
        // A listener holds as many half connections as its backlog; each port serves for one batch.
        let mut port = PORT;
        Ok(move |order: &str| {
            let [count] = numbers(order)?;
            port += 1;
            let listener = TcpListener::bind(SocketAddrV4::new(SERVER, port))?;
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4000)?)?;
            defer(&listener)?;
            let mut batch = Vec::new();
            for _ in 0..count {
                let socket = TcpStream::connect(SocketAddrV4::new(SERVER, port))
                    .context("failed to connect by half")?;
                batch.push(socket);
            }
            half.push_back((listener, batch));
            if half.len() * BATCH as usize > KEPT {
                half.pop_front();
            }
            Ok(String::new())
        })
    })
}

/// Honest connections go on while `attackers` flood, until `displaced` counts.
fn flood(attackers: usize, displaced: &str) -> Result<Claim> {
    sys::need_descriptors(2 * KEPT)?;
    let mut attackers = (0..attackers)
        .map(|_| attacker())
        .collect::<Result<Vec<_>>>()?;
    let tenant = Tenant::new()?;
    let listener = tenant.listen()?;
    let before = Counters::read()?;
    let (mut honest, mut floods) = (0, 0);
    while Counters::read()?.since(&before).get(displaced)? < DISPLACED
        && !(pace::checked_kernel() && floods >= BATCHES)
    {
        for attacker in &mut attackers {
            attacker.begin(&BATCH.to_string())?;
            floods += 1;
        }
        for number in 0..HONEST {
            let client = tenant.connect(40_000 + number)?;
            let (server, _) = listener.accept()?;
            talk(&client, &server, u64::from(number))?;
            abort(client, server)?;
            honest += 1;
        }
        for attacker in &mut attackers {
            attacker.answer()?;
        }
        let moved = Counters::read()?.since(&before);
        // Not even together with the honest ones can a single namespace fill a set.
        let full = if attackers.len() == 1 {
            0
        } else {
            moved.get("refused_table_full")?
        };
        let want = [
            ("pairs_made", honest),
            ("offers_made", honest + floods * u64::from(BATCH)),
            ("refused_share", moved.get("refused_share")?),
            ("refused_table_full", full),
        ];
        moved_exactly(&before, &want)?;
    }
    drop(attackers);
    Ok(Claim::ring(0).pairs(honest).tcp(usize::MAX / 2))
}
