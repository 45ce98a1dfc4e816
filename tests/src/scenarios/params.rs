// SPDX-License-Identifier: GPL-2.0-only
//! The ring's size: module parameter and policy.

use std::fs;

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::{self, RING_KBYTES};

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::scenarios::full::fill;

pub const ALL: &[Scenario] = &[
    Scenario::some("ring_sizes", ring_sizes).reconfigures(),
    Scenario::some("applies_to_later_connections", applies_to_later_connections).reconfigures(),
    Scenario::one("out_of_range", out_of_range).reconfigures(),
    Scenario::some("ring_size_by_policy", ring_size_by_policy).reconfigures(),
];

/// The pattern that `fill` sends.
const PATTERN: Pattern = Pattern::new(77);

fn set(kbytes: &str) -> std::io::Result<()> {
    fs::write(RING_KBYTES, kbytes)
}

/// Fills both directions of a connection and says how much one ring held; everything is read and checked.
///
/// The sockets' buffers are made so small that the ring does not grow.
fn capacity(env: &Env, conn: &Conn) -> Result<usize> {
    for socket in [&conn.client, &conn.server] {
        let socket = SockRef::from(socket);
        socket.set_send_buffer_size(1)?;
        socket.set_recv_buffer_size(1)?;
    }
    let before = env.counters()?;
    let up = fill(&conn.client, 0, 1000)?;
    let up = up + fill(&conn.client, up, 1)?;
    let in_ring = env.since(&before)?.get("ring_bytes")? as usize;
    ensure!(
        in_ring == up,
        "{up} bytes were taken, {in_ring} of them by the ring"
    );
    let down = fill(&conn.server, 0, 1000)?;
    PATTERN.read(&conn.client, 0, down)?;
    PATTERN.read(&conn.server, 0, up)?;
    for round in 0..10 {
        PATTERN.write(&conn.client, round, 3000)?;
        PATTERN.read(&conn.server, round, 3000)?;
    }
    Ok(up)
}

/// The ring has to hold all of its size, and nothing above it, unless the sockets' smallest buffers do.
fn expect_capacity(env: &Env, conn: &Conn, kbytes: usize) -> Result<usize> {
    let held = capacity(env, conn)?;
    let buffers = SockRef::from(&conn.client).send_buffer_size()?
        + SockRef::from(&conn.server).recv_buffer_size()?;
    let size = buffers.max(kbytes << 10);
    ensure!(held == size, "a ring of {kbytes} KiB held {held} bytes");
    Ok(held)
}

fn ring_sizes(env: &Env) -> Result<Claim> {
    let mut total = 0;
    for (kbytes, rounded) in [(4, 4), (16, 16), (100, 128), (1024, 1024), (64, 64)] {
        set(&kbytes.to_string()).context("failed to set the ring's size")?;
        total += expect_capacity(env, &env.conn()?, rounded)?;
    }
    Ok(Claim::ring(total).pairs(5))
}

fn applies_to_later_connections(env: &Env) -> Result<Claim> {
    set("16")?;
    let before = env.conn()?;
    set("64")?;
    let after = env.conn()?;
    let total = expect_capacity(env, &before, 16)? + expect_capacity(env, &after, 64)?;
    Ok(Claim::ring(total).pairs(2))
}

fn out_of_range(env: &Env) -> Result<Claim> {
    for wrong in ["0", "3", "16385", "-1", "4294967300", "x"] {
        let error = set(wrong)
            .err()
            .with_context(|| format!("ring_kbytes took {wrong:?}"))?;
        let right = [Some(libc::EINVAL), Some(libc::ERANGE)].contains(&error.raw_os_error());
        ensure!(right, "ring_kbytes refused {wrong:?} with {error}");
    }
    let now = fs::read_to_string(RING_KBYTES)?;
    ensure!(
        now.trim() == "64",
        "ring_kbytes is {now} after refused changes"
    );
    for right in ["4", "16384", "64"] {
        set(right).with_context(|| format!("ring_kbytes refused {right}"))?;
    }
    drop(env.conn()?);
    Ok(Claim::ring(1))
}

fn ring_size_by_policy(env: &Env) -> Result<Claim> {
    policy::enable(&["--ring-kbytes", "16"])?;
    let total = expect_capacity(env, &env.conn()?, 16)?;
    policy::enable(&[])?;
    let total = total + expect_capacity(env, &env.conn()?, 64)?;
    Ok(Claim::ring(total).pairs(2))
}
