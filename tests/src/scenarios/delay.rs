// SPDX-License-Identifier: GPL-2.0-only
//! Other groups' scenarios while the module stops for a moment between its steps (kmod/delay.h), so that what may come in between does.
//! Each part says which of these places it is about, and has to have waited there; all of them together are all there are.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::delays::{self, Delays};
use crate::env::{self, Body, Claim, Env};
use crate::scenario::Scenario;
use crate::scenarios::{
    close, drain, full, refused, reset, stall, start, storm, takeover, threads,
};

pub const ALL: &[Scenario] = &[
    slow("waiting", waiting),
    slow("handing_over", handing_over),
    slow("ending", ending),
    slow("draining", draining),
    slow("stale_ends", stale_ends),
    slow("storm", in_a_storm),
    slow("no_place_is_left_out", no_place_is_left_out),
];

/// Put back as those are that change the module: a hang leaves the waits on.
const fn slow(name: &'static str, body: Body) -> Scenario {
    Scenario::one(name, body)
        .waits_between_steps()
        .reconfigures()
        .limit(600)
}

/// So many of a thousand steps wait.
const PER_MILLE: u32 = 200;
/// Where there are many threads already.
const PER_MILLE_IN_A_STORM: u32 = 100;

const WAITING: &[&str] = &[
    "seen_tcp",
    "seen_prod",
    "published",
    "parking",
    "parked",
    "given_back",
    "full",
    "parked_for_room",
    "registered",
    "asleep",
    "awake",
];

const HANDING_OVER: &[&str] = &[
    "may_start",
    "started",
    "leaving",
    "left",
    "to_tcp",
    "handing_back",
    "closed_to_reading",
    "copied_back",
    "registry",
    "taken",
    "claiming",
    "installed",
    "linked",
    "joined",
];

const ENDING: &[&str] = &[
    "half_closed",
    "slot_cleared",
    "letting_go",
    "last_put",
    "shutting_down",
    "closing",
    "unhashing",
    "releasing",
];

const DRAINING: &[&str] = &[
    "retired",
    "drain_found",
    "drain_looked",
    "drain_handed_back",
    "drain_taken_off",
];

const STALE: &[&str] = &["stale_found"];

const PARTS: [&[&str]; 5] = [WAITING, HANDING_OVER, ENDING, DRAINING, STALE];

/// Runs what `groups` have for this link, but not what loads the module anew, which would then go on without waits; and has to have waited
/// at all of these `places`.
fn slowly(env: &Env, per_mille: u32, groups: &[&[Scenario]], places: &[&[&str]]) -> Result<Claim> {
    let delays = Delays::begin(per_mille)?;
    for scenario in groups.iter().copied().flatten() {
        if !scenario.reconfigures && scenario.runs(env.mode, &env.link) {
            let begun = Instant::now();
            env::run(env, scenario.body).with_context(|| format!("{}, slowly", scenario.name))?;
            println!("{}: {:.1?}", scenario.name, begun.elapsed());
        }
    }
    let waits = delays.so_far()?;
    println!("{:?}", waits.moved());
    for place in places.iter().copied().flatten() {
        ensure!(waits.get(place)? > 0, "nobody waited at {place}");
    }
    Ok(Claim::ring(1).any_tcp())
}

fn waiting(env: &Env) -> Result<Claim> {
    slowly(
        env,
        PER_MILLE,
        &[stall::ALL, full::ALL, threads::ALL],
        &[WAITING],
    )
}

fn handing_over(env: &Env) -> Result<Claim> {
    slowly(
        env,
        PER_MILLE,
        &[start::ALL, takeover::ALL],
        &[HANDING_OVER],
    )
}

fn ending(env: &Env) -> Result<Claim> {
    slowly(env, PER_MILLE, &[close::ALL, reset::ALL], &[ENDING])
}

fn draining(env: &Env) -> Result<Claim> {
    slowly(env, PER_MILLE, &[drain::ALL], &[DRAINING])
}

/// None of them is paired.
fn stale_ends(env: &Env) -> Result<Claim> {
    slowly(env, PER_MILLE, &[refused::ALL], &[STALE])?;
    Ok(Claim::untouched())
}

/// Nobody in it has to wait.
fn in_a_storm(env: &Env) -> Result<Claim> {
    let places = [HANDING_OVER, ENDING, DRAINING];
    slowly(env, PER_MILLE_IN_A_STORM, &[storm::ALL], &places)
}

/// What the module has is what these parts are about.
fn no_place_is_left_out(_env: &Env) -> Result<Claim> {
    let listed: BTreeSet<String> = PARTS
        .iter()
        .copied()
        .flatten()
        .map(|name| (*name).to_owned())
        .collect();
    let there = delays::places()?;
    ensure!(listed == there, "{listed:?} here, {there:?} in the module");
    Ok(Claim::untouched())
}
