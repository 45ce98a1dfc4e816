// SPDX-License-Identifier: GPL-2.0-only
//! Two tenants of one host have the same private addresses, use the same ports, and connect at the same time, as containers do
//! that nobody numbers across tenants. An attacker among them may choose addresses and ports to be those of another's
//! connection. It does not help: addresses and ports are not what the ends are found by. They are found by both initial
//! sequence numbers, which the kernel draws anew for each connection, and joined only if each end has seen the other's transmit
//! hash, which a packet carries from socket to socket and no socket of another connection has.

use std::thread;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pace;

use super::tenant::{Tenant, abort, connect_from, talk};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::one("tenants_with_equal_addresses", equal_addresses)
        .spliced_only()
        .limit(600),
];

const FIRST_PORT: u16 = 10_000;

/// Connections of each tenant, each from another port.
fn each() -> u16 {
    pace::count(10_000, 2_000) as u16
}

fn equal_addresses(_env: &Env) -> Result<Claim> {
    let tenants = [Tenant::new()?, Tenant::new()?];
    let before = Counters::read()?;
    thread::scope(|scope| {
        let run = |(number, tenant)| scope.spawn(move || connections(number, tenant));
        let threads: Vec<_> = (0..).zip(&tenants).map(run).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("tenant panicked"))
    })?;
    let all = 2 * u64::from(each());
    let moved = Counters::read()?.since(&before);
    // A handshake that had to send its SYN-ACK again has another hash, and may stay TCP.
    let (pairs, again) = (moved.get("pairs_made")?, moved.get("refused_witness")?);
    ensure!(
        pairs + again == all && moved.refused() == again && moved.get("offers_made")? == all,
        "not every one of {all} was paired with its own: {:?}",
        moved.moved()
    );
    Ok(Claim::ring(0).pairs(all * 99 / 100).tcp(usize::MAX / 2))
}

fn connections(number: u64, tenant: &Tenant) -> Result<()> {
    let listener = tenant.listen()?;
    tenant.client.within(|| {
        for port in FIRST_PORT..FIRST_PORT + each() {
            let client = connect_from(port)?;
            let (server, _) = listener.accept().context("failed to accept")?;
            let seed = number << 32 | u64::from(port);
            talk(&client, &server, seed)
                .with_context(|| format!("tenant {number}, port {port}"))?;
            abort(client, server)?;
        }
        Ok(())
    })
}
