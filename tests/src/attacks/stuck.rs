// SPDX-License-Identifier: GPL-2.0-only
//! A call that is stuck in a page fault holds up what every socket leaves behind that is connected again, whoever's socket it is, since the
//! module must not free what such a call may have found. An attacker has one stuck for as long as it likes, and connects one socket again and
//! again: without a limit it would have the kernel's memory, and with a single one for everybody nobody's connections would be spliced any more.
//! It does not help: each tenant has a limit of its own, and a user who makes user namespaces has one for all the network namespaces in them.
//! (Somebody with many users at hand reaches the limit of all, which bounds the memory; then everybody's connections are TCP.)

use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use socket2::SockRef;
use tcp_splice_world::counters::Counters;

use super::attacker::{Attacker, numbers, own_both_addresses};
use super::tenant::{PORT, SERVER, Tenant, abort, talk};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;
use crate::scenarios::absent;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::one("stuck_call_that_holds_up_others", holds_up_others)
        .spliced_only()
        .limit(240),
];

/// More than the module keeps of a tenant's (`TS_RETIRED_MAX` of kmod/main.c).
const ROUNDS: u32 = 1100;
/// After these none has come through for longer than a second.
const PAUSE: Duration = Duration::from_secs(2);
/// Connections of the attacker in its next namespace, and of the honest tenant.
const SOME: u16 = 20;

/// Of what an honest connection carries, 400 bytes, so many at least go through its ring.
const LEAST: u64 = 200;

/// The attacker's orders: connections of one socket, or a new network namespace.
const CONNECT: u32 = 0;
const MOVE: u32 = 1;

fn attacker() -> Result<Attacker> {
    Attacker::start(|| {
        own_both_addresses()?;
        Ok(|order: &str| {
            match numbers(order)? {
                [CONNECT, count] => again_and_again(count)?,
                _ => {
                    unshare(CloneFlags::CLONE_NEWNET).context("failed to make a namespace")?;
                    own_both_addresses()?;
                }
            }
            Ok(String::new())
        })
    })
}

/// So many connections of one socket.
fn again_and_again(count: u32) -> Result<()> {
    let listener = TcpListener::bind(SocketAddrV4::new(SERVER, PORT))?;
    let address: SocketAddr = listener.local_addr()?;
    let client = TcpStream::connect(address)?;
    listener.accept()?;
    for _ in 1..count {
        sys::disconnect(&client)?;
        SockRef::from(&client).connect(&address.into())?;
        listener.accept()?;
    }
    Ok(())
}

fn holds_up_others(env: &Env) -> Result<Claim> {
    let mut attacker = attacker()?;
    let tenant = Tenant::new()?;
    tenant.keep_hashes()?;
    let stuck = absent::stuck_for_long(env)?;
    let before = Counters::read()?;
    let since = |name: &str| Counters::read()?.since(&before).get(name);
    attacker.order(&format!("{CONNECT} {ROUNDS}"))?;
    thread::sleep(PAUSE);
    let pairs = since("pairs_made")?;
    // The second time in a namespace that has kept nothing yet.
    for anew in [false, true] {
        if anew {
            attacker.order(&format!("{MOVE} 0"))?;
        }
        let refused = since("refused_held_up")?;
        attacker.order(&format!("{CONNECT} {SOME}"))?;
        let more = since("refused_held_up")? - refused;
        ensure!(
            more >= u64::from(SOME),
            "only {more} of {SOME} were refused"
        );
    }
    ensure!(since("pairs_made")? == pairs, "the attacker goes on");
    let (refused, bytes) = (since("refused_held_up")?, since("ring_bytes")?);
    let listener = tenant.listen()?;
    for number in 0..SOME {
        let client = tenant.connect(40_000 + number)?;
        let (server, _) = listener.accept()?;
        talk(&client, &server, u64::from(number))?;
        sys::disconnect(&client)?;
        abort(client, server)?;
    }
    let (paired, same) = (since("pairs_made")? - pairs, since("refused_held_up")?);
    ensure!(
        paired == u64::from(SOME),
        "{paired} of {SOME} honest ones are spliced"
    );
    ensure!(same == refused, "{} of them were held up", same - refused);
    let bytes = since("ring_bytes")? - bytes;
    ensure!(
        bytes >= LEAST * u64::from(SOME),
        "only {bytes} of their bytes went through rings"
    );
    drop(attacker);
    absent::go_on(stuck)?;
    Ok(Claim::ring(0).pairs(pairs + paired).tcp(usize::MAX / 2))
}
