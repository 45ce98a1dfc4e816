// SPDX-License-Identifier: GPL-2.0-only
//! Loading and unloading.

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::{self, Counters};
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;
use tcp_splice_world::program::run;

use crate::env::{Claim, Conn, Env, SOON};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::one("says_that_it_is_loaded", says_that_it_is_loaded).reconfigures(),
    Scenario::some("unload_refused_while_in_use", unload_refused_while_in_use).reconfigures(),
    Scenario::one("load_and_unload_100_times", load_and_unload)
        .reconfigures()
        .limit(300),
];

const PATTERN: Pattern = Pattern::new(32);

fn exchange(conn: &Conn) -> Result<()> {
    PATTERN.write(&conn.client, 0, 1000)?;
    PATTERN.read(&conn.server, 0, 1000)?;
    PATTERN.write(&conn.server, 0, 1000)?;
    PATTERN.read(&conn.client, 0, 1000)
}

fn says_that_it_is_loaded(env: &Env) -> Result<Claim> {
    let log = run(&["dmesg"])?;
    ensure!(log.contains("tcp_splice"), "dmesg does not name tcp_splice");
    exchange(&env.conn()?)?;
    Ok(Claim::ring(2000))
}

fn refused() -> Result<()> {
    let error = run(&["rmmod", "tcp_splice"])
        .err()
        .context("rmmod succeeded with a pair alive")?;
    ensure!(
        policy::loaded(),
        "the module is gone after a refused rmmod: {error}"
    );
    Ok(())
}

fn unload_refused_while_in_use(env: &Env) -> Result<Claim> {
    let before = Counters::read()?;
    let conn = env.conn()?;
    refused().context("with the policy attached")?;
    policy::disable()?;
    refused().context("without the policy")?;
    exchange(&conn)?;
    let ring_bytes = Counters::read()?.since(&before).get("ring_bytes")?;
    ensure!(
        ring_bytes >= 2000,
        "only {ring_bytes} bytes through the ring"
    );
    // One end alone still holds the module: it may have bytes to read.
    PATTERN.write(&conn.client, 0, 1000)?;
    drop(conn.client);
    refused().context("with one end open")?;
    PATTERN.read_to_end(&conn.server, 0, 1000)?;
    drop(conn.server);
    counters::settle(&before, SOON)?;
    policy::unload(SOON)?;
    ensure!(!policy::loaded(), "the module is there after rmmod");
    policy::restore()?;
    // The counters began anew, so the claim is made for a new connection.
    exchange(&env.conn()?)?;
    Ok(Claim::untouched().after_reload())
}

/// Each tenth time with a policy and a connection in between.
fn load_and_unload(env: &Env) -> Result<Claim> {
    policy::disable()?;
    policy::unload(SOON)?;
    for round in 0..100 {
        policy::load()?;
        if round % 10 == 0 {
            policy::restore()?;
            exchange(&env.conn()?)?;
            policy::disable()?;
        }
        policy::unload(SOON).with_context(|| format!("round {round}"))?;
    }
    policy::restore()?;
    let fresh = Counters::read()?;
    for name in ["endpoints_alive", "pairs_alive", "ring_kbytes_alive"] {
        let value = fresh.get(name)?;
        ensure!(value == 0, "{name} is {value} right after loading");
    }
    Ok(Claim::untouched().after_reload())
}
