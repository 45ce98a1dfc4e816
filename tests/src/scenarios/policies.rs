// SPDX-License-Identifier: GPL-2.0-only
//! Which connections the policy offers, and that the others are plain TCP.

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;
use tcp_splice_world::program::run;

use crate::cgroup::Cgroup;
use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::each("negative_control", negative_control).reconfigures(),
    Scenario::each("ports", ports).reconfigures(),
    Scenario::each("loopback_only", loopback_only).reconfigures(),
    Scenario::each("same_netns", same_netns).reconfigures(),
    Scenario::each("one_end_in_the_cgroup", one_end_in_the_cgroup).reconfigures(),
    Scenario::some("nothing_lasting_on_one_end", nothing_lasting_on_one_end).reconfigures(),
    Scenario::each("refusals_are_counted", refusals_are_counted).reconfigures(),
    Scenario::each("disable_keeps_pairs", disable_keeps_pairs).reconfigures(),
    Scenario::some("replaced_without_a_gap", replaced_without_a_gap).reconfigures(),
    Scenario::one("status", status).reconfigures(),
];

const PATTERN: Pattern = Pattern::new(31);
const LENGTH: usize = 20_000;

/// Exchanges bytes both ways; returns what the counters did.
fn exchange(conn: &Conn) -> Result<Counters> {
    let before = Counters::read()?;
    PATTERN.write(&conn.client, 0, LENGTH)?;
    PATTERN.read(&conn.server, 0, LENGTH)?;
    PATTERN.write(&conn.server, 0, LENGTH)?;
    PATTERN.read(&conn.client, 0, LENGTH)?;
    Ok(Counters::read()?.since(&before))
}

/// A connection that works and is not paired.
fn plain(env: &Env) -> Result<()> {
    let before = Counters::read()?;
    let conn = env.cold()?;
    exchange(&conn)?;
    let delta = Counters::read()?.since(&before);
    for name in ["pairs_made", "pairs_alive", "ring_bytes"] {
        let value = delta.get(name)?;
        ensure!(
            value == 0,
            "{name} moved by {value} for a connection that must be plain TCP"
        );
    }
    Ok(())
}

/// Shows that the claims of the other scenarios can fail.
fn negative_control(env: &Env) -> Result<Claim> {
    policy::disable()?;
    plain(env)?;
    ensure!(
        env.conn().is_err(),
        "a connection was warmed up although nothing is offered"
    );
    policy::disable().context("failed to disable twice")?;
    policy::enable(&[])?;
    Ok(Claim::untouched())
}

fn ports(env: &Env) -> Result<Claim> {
    let (inside, outside) = (env.link.listen()?, env.link.listen()?);
    let port = inside.local_addr()?.port().to_string();
    policy::enable(&["--ports", &port])?;
    let conn = env.conn_from(&inside)?;
    exchange(&conn)?;
    let other = env.cold_from(&outside)?;
    let delta = exchange(&other)?;
    policy::enable(&[])?;
    ensure!(
        delta.get("ring_bytes")? == 0,
        "a port outside the policy was spliced"
    );
    ensure!(
        delta.get("tcp_bytes")? == 0,
        "a port outside the policy was paired"
    );
    Ok(Claim::ring(2 * LENGTH))
}

fn loopback_only(env: &Env) -> Result<Claim> {
    policy::enable(&["--loopback-only"])?;
    let local = env.link.names.is_none();
    if local {
        exchange(&env.conn()?)?;
    } else {
        plain(env)?;
    }
    policy::enable(&[])?;
    Ok(if local {
        Claim::ring(2 * LENGTH)
    } else {
        Claim::untouched()
    })
}

/// Between namespaces the offer is refused for that reason; within one it is taken.
fn same_netns(env: &Env) -> Result<Claim> {
    let local = env.link.names.is_none();
    policy::enable(&["--same-netns"])?;
    let before = Counters::read()?;
    if local {
        exchange(&env.conn()?)?;
    } else {
        plain(env)?;
        // Of one whose SYN-ACK was sent again the numbers fit, and the hashes do not.
        let since = Counters::read()?.since(&before);
        let witness = since.get("refused_witness")?;
        ensure!(
            since.get("refused_namespace")? + witness == 1,
            "not refused for the namespace: {:?}",
            since.moved()
        );
    }
    policy::enable(&[])?;
    Ok(if local {
        Claim::ring(2 * LENGTH)
    } else {
        Claim::untouched()
    })
}

fn one_end_in_the_cgroup(env: &Env) -> Result<Claim> {
    let cgroup = Cgroup::new("test")?;
    policy::enable_for(cgroup.path(), &[])?;
    // The listener is outside, the client inside.
    let before = Counters::read()?;
    let listener = env.link.listen()?;
    cgroup.enter()?;
    let conn = env.cold_from(&listener)?;
    let delta = exchange(&conn)?;
    ensure!(
        delta.get("ring_bytes")? == 0,
        "bytes went through a ring: {:?}",
        delta.moved()
    );
    let made = Counters::read()?.since(&before).get("pairs_made")?;
    ensure!(
        made == 0,
        "a connection was paired with one end outside the cgroup"
    );
    drop((conn, listener));
    // Both inside: paired.
    exchange(&env.conn()?)?;
    policy::enable(&[])?;
    Ok(Claim::ring(2 * LENGTH))
}

/// The connecting end was offered in vain. Its offer is stale after some seconds, and its next call frees it, if the module's worker did not before. (That
/// the call does it alone: group `absent`.)
fn nothing_lasting_on_one_end(env: &Env) -> Result<Claim> {
    let cgroup = Cgroup::new("test")?;
    policy::enable_for(cgroup.path(), &[])?;
    let listener = env.link.listen()?;
    let before = Counters::read()?;
    cgroup.enter()?;
    let conn = env.cold_from(&listener)?;
    exchange(&conn)?;
    let made = Counters::read()?.since(&before).get("endpoints_made")?;
    ensure!(made == 1, "{made} sockets were offered");
    wait_until("the endpoint of a socket in use to go", || {
        exchange(&conn)?;
        Ok(Counters::read()?.get("endpoints_alive")? == 0)
    })?;
    exchange(&conn)?;
    policy::enable(&[])?;
    Ok(Claim::untouched())
}

/// The accepting end looks for an offer that nobody made.
fn refusals_are_counted(env: &Env) -> Result<Claim> {
    const COUNT: u64 = 3;
    let cgroup = Cgroup::new("test")?;
    policy::enable_for(cgroup.path(), &[])?;
    cgroup.enter()?;
    let listener = env.link.listen()?;
    cgroup.leave()?;
    let before = Counters::read()?;
    for _ in 0..COUNT {
        let delta = exchange(&env.cold_from(&listener)?)?;
        let ring = delta.get("ring_bytes")?;
        ensure!(ring == 0, "{ring} bytes went through a ring");
    }
    let refused = Counters::read()?.since(&before).refused();
    ensure!(
        refused == COUNT,
        "{refused} of {COUNT} refusals were counted"
    );
    policy::enable(&[])?;
    Ok(Claim::untouched())
}

fn disable_keeps_pairs(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    policy::disable()?;
    let delta = exchange(&conn)?;
    let moved = delta.get("ring_bytes")?;
    ensure!(
        moved == 2 * LENGTH as u64,
        "{moved} bytes through the ring after disable"
    );
    plain(env)?;
    policy::enable(&[])?;
    Ok(Claim::ring(2 * LENGTH))
}

/// Connections are made while the policy is replaced again and again; each one is paired.
fn replaced_without_a_gap(env: &Env) -> Result<Claim> {
    const COUNT: u64 = 10;
    let listener = env.link.listen()?;
    let replace = std::thread::spawn(|| -> Result<()> {
        for round in 0..COUNT {
            let budget = (round % 2).to_string();
            policy::enable(&["--busy-poll-us", &budget])?;
        }
        Ok(())
    });
    let mut made = 0;
    while !replace.is_finished() || made < COUNT {
        drop(env.conn_from(&listener)?);
        made += 1;
        // No more than the ports of the machine allow.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    replace.join().expect("replacing thread panicked")?;
    policy::enable(&[])?;
    Ok(Claim::ring(2 * made as usize).pairs(made))
}

fn status(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let port = listener.local_addr()?.port();
    policy::enable(&["--loopback-only", "--ports", &port.to_string()])?;
    let text = run(&[policy::CTL, "status"])?;
    let line = format!("tcp_splice: enabled (loopback_only=1, ports={port})");
    ensure!(text.lines().next() == Some(&line), "status says {text:?}");
    exchange(&env.conn_from(&listener)?)?;
    let json: serde_json::Value = serde_json::from_str(&run(&[policy::CTL, "status", "--json"])?)?;
    ensure!(json.is_object(), "status --json says {json}");
    policy::disable()?;
    let text = run(&[policy::CTL, "status"])?;
    ensure!(
        text.lines().next() == Some("tcp_splice: disabled"),
        "status says {text:?}"
    );
    policy::enable(&[])?;
    Ok(Claim::ring(2 * LENGTH))
}
