// SPDX-License-Identifier: GPL-2.0-only
//! Storms: processes with several threads each do at random what can be done with sockets that they share, are killed and replaced, while
//! others look on. What the bytes are is known ([`pool::Marks`]); of the rest, that it ends, and that nothing is left of it.
//!
//! A failure names its seed. `TCP_SPLICE_SEED=N` in the environment begins with it again (the threads' order is the machine's), and
//! `TCP_SPLICE_SECONDS=N` has each storm go on for so long.

mod board;
mod deeds;
mod onlookers;
mod pool;
mod troupe;
mod weather;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use nix::sys::prctl::set_child_subreaper;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::{pace, policy};

use self::board::Board;
use self::deeds::Deed;
use self::troupe::{Stage, Troupe};
use crate::audit;
use crate::cgroup::Cgroup;
use crate::env::{Claim, Env};
use crate::faults::AtRandom;
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::some("shared_sockets", shared_sockets).limit(LIMIT),
    Scenario::one("namespaces_destroyed", weather::namespaces_destroyed).limit(LIMIT),
    Scenario::one("policy_and_cgroup", policy_and_cgroup)
        .reconfigures()
        .limit(LIMIT),
    Scenario::some("short_connections", weather::short_connections).limit(LIMIT),
    Scenario::one("without_memory", without_memory)
        .injects_faults()
        .spliced_only()
        .limit(LIMIT),
    Scenario::one("load_and_unload", load_and_unload)
        .reconfigures()
        .limit(LIMIT),
];

const LIMIT: u64 = 300;

/// Players of a storm.
const PLAYERS: usize = 4;

/// Bytes that go through rings in any storm, however short.
const SOME: u64 = 100_000;

/// How long a storm is.
fn length() -> Result<Duration> {
    let usual = Duration::from_secs(pace::count(6, 10));
    Ok(pace::seconds()?.unwrap_or(usual))
}

/// What a storm begins with: a seed, and the children of those who are killed.
fn begin() -> Result<(Rng, Board)> {
    set_child_subreaper(true).context("failed to take others' children")?;
    deeds::catch_signals()?;
    Ok((Rng::with_seed(pace::seed()?), Board::new()?))
}

/// All of this was done, and those who meddle have done so as often as that.
fn enough(board: Board, meddled: u64, deeds: &[Deed]) -> bool {
    board.times_meddled() >= meddled && board.all_done(deeds).is_ok()
}

/// No byte was where it has no business, and nothing was only tried.
fn verdict(board: Board, deeds: &[Deed]) -> Result<()> {
    println!("{board}");
    board.no_strangers()?;
    board.all_done(deeds)
}

/// After the last descriptor is closed.
fn nothing_left(env: &Env) -> Result<()> {
    if env.spliced() {
        audit::nothing_left()?;
    }
    Ok(())
}

/// With drains at any time, in a memory cgroup of its own, which gets all its memory back.
fn shared_sockets(env: &Env) -> Result<Claim> {
    let (mut rng, board) = begin()?;
    let cgroup = env
        .spliced()
        .then(|| Cgroup::with_memory("storm", "max"))
        .transpose()?;
    if let Some(cgroup) = &cgroup {
        cgroup.enter()?;
    }
    let before = env.counters()?;
    let stage = Stage::new(&env.link, board, PLAYERS)?;
    let mut troupe = Troupe::default();
    onlookers::look_on(env, board, &mut troupe, false)?;
    if env.spliced() {
        onlookers::drain_often(board, &mut troupe)?;
    }
    troupe.enter(&stage, &mut rng)?;
    // A machine that only has TCP may not have kTLS.
    let (drains, deeds) = if env.spliced() {
        (2, Deed::ALL)
    } else {
        (0, weather::ESSENTIAL)
    };
    let enough = || enough(board, drains, deeds);
    troupe.play(&stage, length()?, enough, &mut rng)?;
    troupe.end(board)?;
    drop(stage);
    verdict(board, deeds)?;
    if let Some(cgroup) = &cgroup {
        cgroup.leave()?;
        let drained = env.since(&before)?.get("drained")?;
        ensure!(
            drained > 0 && board.times_meddled() >= drains,
            "nothing was drained: {board}"
        );
        audit::nothing_left()?;
        audit::memory_is_back(cgroup)?;
    }
    Ok(Claim::ring(SOME as usize).pairs(10).any_tcp())
}

/// The policy comes, changes and goes, and so does the cgroup that it is for, with the players in it.
fn policy_and_cgroup(env: &Env) -> Result<Claim> {
    /// Each kind of change comes twice.
    const CHANGES: u64 = 8;
    let (mut rng, board) = begin()?;
    let stage = Stage::new(&env.link, board, PLAYERS)?;
    let mut troupe = Troupe::default();
    onlookers::look_on(env, board, &mut troupe, false)?;
    let seed = rng.u64(..);
    let ports = stage.addresses[0].port();
    troupe.add("policy maker", || {
        weather::change_policy(board, ports, seed)
    })?;
    troupe.enter(&stage, &mut rng)?;
    let enough = || enough(board, CHANGES, Deed::ALL);
    troupe.play(&stage, length()?, enough, &mut rng)?;
    troupe.end(board)?;
    drop(stage);
    verdict(board, Deed::ALL)?;
    ensure!(
        board.times_meddled() >= CHANGES,
        "the policy did not change often: {board}"
    );
    nothing_left(env)?;
    policy::restore()?;
    Ok(Claim::ring(SOME as usize).pairs(10).any_tcp())
}

/// Allocations fail at random: the module's objects, whoever asks for them, and large pieces of memory, of which a ring's chunks are some,
/// when players ask for them.
fn without_memory(env: &Env) -> Result<Claim> {
    let (mut rng, board) = begin()?;
    let before = Counters::read()?;
    let mut stage = Stage::new(&env.link, board, PLAYERS)?;
    stage.lacks_memory = true;
    let mut troupe = Troupe::default();
    onlookers::look_on(env, board, &mut troupe, false)?;
    let faults = AtRandom::of(&["tcp_splice_endpoint", "tcp_splice_pair"])?;
    troupe.enter(&stage, &mut rng)?;
    let lacked = || -> Result<(u64, u64)> {
        let since = Counters::read()?.since(&before);
        Ok((since.get("refused_no_memory")?, since.get("left_memory")?))
    };
    let both = || lacked().is_ok_and(|(refused, left)| refused > 0 && left > 0);
    let enough = || enough(board, 0, Deed::ALL) && both();
    troupe.play(&stage, length()?, enough, &mut rng)?;
    troupe.end(board)?;
    drop((stage, faults));
    verdict(board, Deed::ALL)?;
    nothing_left(env)?;
    let (refused, left) = lacked()?;
    println!("{refused} connections and {left} directions without memory");
    ensure!(
        both(),
        "allocations of both kinds should have failed: {refused}, {left}"
    );
    Ok(Claim::ring(SOME as usize).pairs(10).any_tcp())
}

/// As often as it lets itself be unloaded.
fn load_and_unload(env: &Env) -> Result<Claim> {
    const TIMES: u64 = 2;
    let (mut rng, board) = begin()?;
    let stage = Stage::new(&env.link, board, PLAYERS)?;
    let mut troupe = Troupe::default();
    onlookers::look_on(env, board, &mut troupe, true)?;
    troupe.add("loader", || weather::come_and_go(board))?;
    troupe.enter(&stage, &mut rng)?;
    let enough = || enough(board, TIMES, Deed::ALL);
    troupe.play(&stage, length()?, enough, &mut rng)?;
    troupe.end(board)?;
    drop(stage);
    verdict(board, Deed::ALL)?;
    let (times, bytes) = (board.times_meddled(), board.ring_bytes());
    ensure!(times >= TIMES, "the module was unloaded {times} times");
    ensure!(
        bytes >= SOME,
        "only {bytes} bytes went through rings of modules that came and went"
    );
    policy::restore()?;
    nothing_left(env)?;
    let left = Counters::read()?.get("pairs_alive")?;
    ensure!(left == 0, "{left} pairs are alive");
    Ok(Claim::untouched().after_reload())
}
