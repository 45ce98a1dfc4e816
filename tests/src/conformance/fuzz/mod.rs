// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-conformance fuzz`: random programs of socket calls, each over plain TCP and over a spliced connection.
//!
//! A program is made of its seed alone, so a failure is run again by naming the seed.

mod steps;
mod streams;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fastrand::Rng;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::link::Link;

use crate::case::Need;
use crate::child;
use crate::ktap::{Report, Traces};
use crate::options::Options;
use crate::run::{Over, Run};
use crate::setting::Setting;

/// The program that `seed` names.
type Program = fn(run: &Run, seed: u64) -> Result<()>;

/// The kinds of programs.
const KINDS: [(&str, Program); 2] = [("steps", steps::run), ("streams", streams::run)];

/// What part of all bytes has to go through rings: some steps need TCP and take others with them.
const LEAST_PERCENT: u64 = 20;

/// The result about that part.
const SHARE: &str = "machine/random_programs_use_rings";

/// Programs of one kind on one link.
struct Item {
    name: String,
    link: Link,
    program: Program,
    done: usize,
    failures: Vec<String>,
}

fn items(options: &Options, world: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for link in Link::all(world) {
        for (kind, program) in KINDS {
            let name = format!("{link}/fuzz/{kind}");
            if options.chooses(&name) {
                items.push(Item {
                    name,
                    link: link.clone(),
                    program,
                    done: 0,
                    failures: Vec::new(),
                });
            }
        }
    }
    items
}

/// Runs random programs; true when no result differed.
pub fn run(options: &Options, world: &str) -> Result<bool> {
    let mut items = items(options, world);
    if options.list {
        items.iter().for_each(|item| println!("{}", item.name));
        return Ok(true);
    }
    let spliced = !options.self_check && !items.is_empty();
    let namespaces = items.iter().any(|item| item.link.names.is_some());
    let setting = Setting::make(spliced, namespaces.then_some(world))?;
    let before = spliced.then(Counters::read).transpose()?;
    let last = if spliced { 2 } else { 0 };
    let mut report = Report::begin(items.len() + last);
    run_programs(options, &mut items);
    for item in &items {
        println!("# {}: {} programs", item.name, item.done);
        let good = item.failures.is_empty() && item.done > 0;
        report.result(&item.name, good, &item.failures);
    }
    if let Some(before) = before {
        let share = share(&before);
        let lines = share.as_ref().err().map(|error| format!("# {error:#}"));
        report.result(SHARE, share.is_ok(), lines.as_slice());
    }
    setting.end(&mut report);
    Ok(report.end())
}

/// In turn on each link, until the time is over; each item at least once.
fn run_programs(options: &Options, items: &mut [Item]) {
    let begin = Instant::now();
    let mut seeds = Rng::new();
    loop {
        for item in &mut *items {
            let seed = options.seed.unwrap_or_else(|| seeds.u64(..));
            item.run(options, seed);
        }
        let over = begin.elapsed() > Duration::from_secs(options.seconds);
        if over || options.seed.is_some() || items.is_empty() {
            return;
        }
    }
}

impl Item {
    fn run(&mut self, options: &Options, seed: u64) {
        let trace = |over| {
            let (program, counted) = (self.program, !options.self_check);
            let body = |run: &Run| program(run, seed);
            child::trace_of(&body, Need::Pairs, &self.link, over, counted)
        };
        let (label, over) = options.other();
        let traces = Traces {
            plain: trace(Over::Plain),
            other: trace(over),
        };
        self.done += 1;
        if options.trace {
            traces.plain.iter().for_each(|line| println!("#   {line}"));
        }
        if traces.agree(&[]) || self.failures.len() > 100 {
            return;
        }
        let how = format!(
            "# again: tcp-splice-conformance fuzz --seed {seed} {}",
            self.name
        );
        // At once too: this program may be the last that the machine runs.
        println!("{how}");
        self.failures.push(how);
        self.failures.extend(traces.difference(label));
    }
}

/// An error when too few bytes went through rings.
fn share(before: &Counters) -> Result<()> {
    let moved = Counters::read()?.since(before);
    let (ring, tcp) = (moved.get("ring_bytes")?, moved.get("tcp_bytes")?);
    println!("# {ring} bytes through rings, {tcp} over TCP on spliced connections");
    ensure!(
        ring > 0 && ring * 100 / (ring + tcp) >= LEAST_PERCENT,
        "only {ring} of {} bytes went through rings",
        ring + tcp
    );
    Ok(())
}
