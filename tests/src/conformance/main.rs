// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-conformance`: a spliced connection behaves as a TCP connection does, in every call.
//!
//! Each case runs in a process of its own over plain TCP and then over a spliced connection, in the same boot and with the module
//! loaded: only connections with certain ports are offered to it. A case writes down all that it sees (values, errors, bytes,
//! events, signals); both traces have to be equal. The counters prove that the one connection was plain and the other spliced.

mod calls;
mod case;
mod cases;
mod child;
mod fuzz;
mod ktap;
mod observe;
mod options;
mod run;
mod setting;
mod signals;
mod trace;
mod uring;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use tcp_splice_world::link::Link;

use crate::case::Case;
use crate::ktap::{Report, Traces};
use crate::options::{Options, USAGE};
use crate::run::Over;
use crate::setting::Setting;

/// How often a case runs whose runs differ in times alone.
const TRIES: usize = 3;

/// A case on a link.
#[derive(Debug)]
struct Item {
    name: String,
    link: Link,
    case: &'static Case,
}

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<bool> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.help {
        println!("{USAGE}");
        return Ok(true);
    }
    let world = format!("tc{}", std::process::id() % 1_000_000);
    if options.fuzz {
        need_root(options.list)?;
        return fuzz::run(&options, &world);
    }
    let items = chosen(&options, &world);
    if options.list {
        items.iter().for_each(|item| println!("{}", item.name));
        return Ok(true);
    }
    need_root(false)?;
    run_all(&options, &items, &world)
}

fn need_root(only_names: bool) -> Result<()> {
    ensure!(
        only_names || nix::unistd::geteuid().is_root(),
        "failed to start: the cases must run as root"
    );
    Ok(())
}

/// The cases that the options choose, link by link.
fn chosen(options: &Options, world: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for link in Link::all(world) {
        for (group, case) in cases::all() {
            let name = format!("{link}/{group}/{}", case.name);
            let link = link.clone();
            if options.chooses(&name) && (options.all || case.runs(group, &link)) {
                items.push(Item { name, link, case });
            }
        }
    }
    items
}

fn run_all(options: &Options, items: &[Item], world: &str) -> Result<bool> {
    let namespaces = items.iter().any(|item| item.link.names.is_some());
    let spliced = !options.self_check;
    let setting = Setting::make(spliced && !items.is_empty(), namespaces.then_some(world))?;
    let last = usize::from(setting.spliced());
    let mut report = Report::begin(items.len() * options.repeat + last);
    for _ in 0..options.repeat {
        for item in items {
            run_one(options, item, &mut report);
        }
    }
    setting.end(&mut report);
    Ok(report.end())
}

fn run_one(options: &Options, item: &Item, report: &mut Report) {
    let (label, over) = options.other();
    let begin = Instant::now();
    let run = |over| {
        let (case, counted) = (item.case, !options.self_check);
        child::trace_of(&case.body, case.need, &item.link, over, counted)
    };
    let both = || Traces {
        plain: run(Over::Plain),
        other: run(over),
    };
    let mut traces = both();
    for _ in 1..TRIES {
        if !traces.only_times() {
            break;
        }
        traces = both();
    }
    if options.trace {
        traces.plain.iter().for_each(|line| println!("#   {line}"));
    }
    if options.times {
        println!("# {:.3} s", begin.elapsed().as_secs_f64());
    }
    // Plain TCP does not differ from itself.
    let known = if options.self_check {
        &[]
    } else {
        item.case.known
    };
    let good = traces.agree(known);
    report.result(&item.name, good, &traces.difference(label));
}
