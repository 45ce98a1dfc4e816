// SPDX-License-Identifier: GPL-2.0-only
//! The whole suite: messages by size and by number of pairs over TCP, spliced, `AF_UNIX` and pipes, and real programs.
//!
//! In each round every cell is done in all ways, one right after the other, so that what else the machine does moves all of them; factors
//! are made within rounds. Nothing is measured where the data is wrong, and the module's counters prove for each measurement that the bytes
//! went the way it is about.

mod cell;
mod chart;
mod client;
mod cpu;
mod end;
mod keep;
mod programs;
mod report;
pub mod results;
mod serve;
mod team;
mod usage;
mod way;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::netns::{Names, World};

use crate::machine::Machine;
use crate::place::{Place, Stage};
use crate::stats::short;
use cell::{Cell, Program};
use keep::Kept;
use programs::{Asked, Files};
use results::{Figures, Results, Sample};
use usage::Usage;
use way::{Switch, Way};

const RESULTS: &str = "\
suite.json:
  kind      suite
  schema    1; it changes only when a field here is removed or changes its meaning
  version   of this program; machine, host: what it ran on; checks, left_out: lines of the report
  samples   each with
    place         loopback or netns (namespaces joined by veth devices and a bridge)
    cell          round_trip or stream (size of a message, pairs), or program (program, clients)
    way           plain, spliced, no_spin (spliced, spin_us is 0), polled (spliced, 50 us), unix, pipe
    round         from 1; ways are compared within a round
    rate          of all pairs together: round trips/s, MB/s (10^6 bytes) or requests/s
    operations    round trips, messages or requests, and bytes of all of them, both ways together (at least)
    carried       bytes, with those of a run that was too short, which counters has, too
    cpu_seconds   processor time of all ends meanwhile
    times         null, or microseconds of an operation: p50, p99, p999 (null of fewer than 1000, and where a program does not tell)
    counters      what the module's counters did, those that moved

suite.txt and suite.md have the tables of it, suite.svg the chart; tcp-splice-bench report SUITE.JSON draws them once more.";

/// How the suite is to go.
#[derive(Debug, Args)]
#[command(after_help = RESULTS)]
pub struct Options {
    /// Directory for suite.json, suite.txt, suite.md and suite.svg
    #[arg(long, default_value = "tcp-splice-bench")]
    out: PathBuf,
    /// How many times each cell is measured in each way
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of a measurement by this program's own clients (up to five where there would be fewer than 1000 round trips); those by others take about one
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Only what has this in "PLACE: CELL", as "loopback", "stream 64 B", "16 KiB, 8 pairs", "nginx"; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// One round of short measurements, to see that it works
    #[arg(long)]
    quick: bool,
    /// Take the policy that is in force away meanwhile, and put it back afterwards
    #[arg(long)]
    suspend_policy: bool,
    /// Fail where a program is not installed, instead of leaving it out
    #[arg(long)]
    all_programs: bool,
    /// A line about what else the machine does, for the head of the report
    #[arg(long, default_value = "")]
    host: String,
}

impl Options {
    fn wants(&self, place: Place, cell: Cell) -> bool {
        let name = format!("{}: {cell}", place.name()).to_lowercase();
        let named = |word: &String| name.contains(&word.to_lowercase());
        self.only.is_empty() || self.only.iter().any(named)
    }

    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    fn length(&self) -> Duration {
        let seconds = if self.quick {
            self.seconds.min(0.05)
        } else {
            self.seconds
        };
        Duration::from_secs_f64(seconds)
    }
}

/// Draws the tables and the chart once more from raw results.
pub fn redraw(file: &Path, directory: &Path) -> Result<()> {
    report::write(&Results::load(file)?, directory)
}

/// Runs everything and writes the results.
///
/// # Errors
/// When data is wrong, or bytes went another way than they should; and when somebody's policy is in force.
pub fn run(options: &Options) -> Result<()> {
    fs::create_dir_all(&options.out)
        .with_context(|| format!("failed to make directory {}", options.out.display()))?;
    ensure!(
        std::thread::available_parallelism()?.get() > 1,
        "client and server need a processor each"
    );
    let stop = stop_on_signals()?;
    let _kept = Kept::take(options.suspend_policy)?;
    let usage = Usage::enter()?;
    let names = Names::new(&format!("tb{}", std::process::id() % 1_000_000));
    let (present, left_out) = programs(options)?;
    let wanted = wanted(options, &present);
    ensure!(
        !wanted.is_empty(),
        "nothing to measure: no cell matches --only"
    );
    let _world = World::create(&names).context("failed to make the network namespaces")?;
    let files = Files::new()?;
    let machine = Machine::detect(None);
    eprintln!("machine: {}", machine.line());
    for line in &left_out {
        eprintln!("left out: {line}");
    }
    let mut switch = Switch::new(usage.path())?;
    let stages = stages(&wanted, &names, &files)?;
    let others = Counters::read()?.get("pairs_alive")? > 0;
    let checks = check_all(&stages, &wanted, &files, &mut switch, others)?;
    let mut runner = Runner {
        options,
        stop,
        usage: &usage,
        files: &files,
        switch,
        stages,
        wanted,
        others,
        results: Results::new(machine, &options.host, checks, left_out),
    };
    let done = runner.all_rounds();
    // What was measured is kept, whatever came then.
    runner.results.save(&options.out.join("suite.json"))?;
    done?;
    report::write(&runner.results, &options.out)
}

/// A signal ends the run between two measurements, so that everything is put back.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())
            .context("failed to listen for signals")?;
    }
    Ok(stop)
}

/// Those that are installed, and a line for each that is not.
fn programs(options: &Options) -> Result<(Vec<Program>, Vec<String>)> {
    let (mut present, mut left_out) = (Vec::new(), Vec::new());
    for program in Program::ALL {
        match program.missing() {
            None => present.push(program),
            Some(name) => left_out.push(format!("{}: {name} is not installed", program.name())),
        }
    }
    if options.all_programs {
        ensure!(left_out.is_empty(), "{}", left_out.join("; "));
    }
    Ok((present, left_out))
}

fn wanted(options: &Options, present: &[Program]) -> Vec<(Place, Cell)> {
    let mut wanted = Vec::new();
    for place in Place::ALL {
        let mut cells = Cell::all();
        cells.retain(|cell| match cell {
            Cell::Program { program, .. } => present.contains(program),
            _ => true,
        });
        cells.retain(|cell| options.wants(place, *cell));
        wanted.extend(cells.into_iter().map(|cell| (place, cell)));
    }
    wanted
}

/// The places that are needed, with the servers that are needed there.
fn stages(wanted: &[(Place, Cell)], names: &Names, files: &Files) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for place in Place::ALL {
        if !wanted.iter().any(|(other, _)| *other == place) {
            continue;
        }
        let mut stage = Stage::new(place, names);
        for program in servers(wanted, place) {
            eprintln!("starting, {}: {}", place.name(), program.name());
            programs::serve(program, &mut stage, files)?;
        }
        stages.push(stage);
    }
    Ok(stages)
}

/// Whose servers are needed at a place.
fn servers(wanted: &[(Place, Cell)], place: Place) -> Vec<Program> {
    let is_served = |program: &Program| {
        wanted.iter().any(|(other, cell)| {
            matches!(cell, Cell::Program { program: of, .. } if *other == place && of.server() == *program)
        })
    };
    Program::ALL.into_iter().filter(is_served).collect()
}

/// Nothing is measured where the data is wrong.
fn check_all(
    stages: &[Stage],
    wanted: &[(Place, Cell)],
    files: &Files,
    switch: &mut Switch,
    others: bool,
) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for way in Way::ALL.into_iter().filter(|way| way.is_tcp()) {
        switch.enter(way, None)?;
        for stage in stages {
            let line = crate::check::check_way(stage, way.name(), way.is_spliced())?;
            eprintln!("check: {line}");
            lines.push(line);
        }
    }
    for stage in stages {
        for program in servers(wanted, stage.place) {
            if let Some(line) = programs::check(program, stage, files, switch, others)? {
                eprintln!("check: {line}");
                lines.push(line);
            }
        }
    }
    Ok(lines)
}

/// The rounds under way.
struct Runner<'a> {
    options: &'a Options,
    stop: Arc<AtomicBool>,
    usage: &'a Usage,
    files: &'a Files,
    switch: Switch,
    stages: Vec<Stage>,
    wanted: Vec<(Place, Cell)>,
    /// Are there spliced connections that are not ours?
    others: bool,
    results: Results,
}

impl Runner<'_> {
    fn all_rounds(&mut self) -> Result<()> {
        let (begun, rounds) = (Instant::now(), self.options.rounds());
        let all = self.wanted.len() * rounds as usize;
        let mut done = 0;
        for round in 1..=rounds {
            for (place, cell) in self.wanted.clone() {
                let said = self.one_cell(place, cell, round, done % 2 == 1)?;
                done += 1;
                let left = begun.elapsed().as_secs_f64() / done as f64 * (all - done) as f64;
                eprintln!(
                    "[{round}/{rounds}, {:.0} min left] {}: {cell}:{said}",
                    (left / 60.0).ceil(),
                    place.name()
                );
            }
        }
        Ok(())
    }

    /// One cell in all ways; every other time in the opposite order, so that no way always comes after the same one, and a policy
    /// stays in force from one cell to the next.
    fn one_cell(&mut self, place: Place, cell: Cell, round: u32, back: bool) -> Result<String> {
        let mut ways = cell.ways(place);
        if back {
            ways.reverse();
        }
        let mut said = String::new();
        for way in ways {
            ensure!(
                !self.stop.load(Ordering::Relaxed),
                "interrupted; what was measured is in {}",
                self.options.out.display()
            );
            let name = format!("{}, {cell}, {way}", place.name());
            let sample = self.one_way(place, cell, way, round);
            let sample = sample.with_context(|| format!("failed to measure {name}"))?;
            write!(said, " {way} {}", short(sample.figures.rate))?;
            self.results.samples.push(sample);
        }
        write!(said, " {}", cell.unit())?;
        Ok(said)
    }

    fn one_way(&mut self, place: Place, cell: Cell, way: Way, round: u32) -> Result<Sample> {
        let port = match cell {
            Cell::Program { program, .. } => program.port(),
            _ => None,
        };
        self.switch.enter(way, port)?;
        let before = Counters::read()?;
        let figures = self.measured(place, cell, way)?;
        ensure!(
            figures.rate.is_finite() && figures.rate > 0.0,
            "measured {} {}",
            figures.rate,
            cell.unit()
        );
        let moved = Counters::read()?.since(&before);
        way.prove(cell.links(), figures.carried as f64, &moved, self.others)?;
        let counters = moved.moved();
        Ok(Sample {
            place,
            cell,
            way,
            round,
            figures,
            counters,
        })
    }

    fn measured(&self, place: Place, cell: Cell, way: Way) -> Result<Figures> {
        let mut stages = self.stages.iter();
        let Some(stage) = stages.find(|stage| stage.place == place) else {
            bail!("{} was not made", place.name());
        };
        let length = self.options.length();
        let Cell::Program { program, clients } = cell else {
            return team::messages(stage, cell, way, self.usage, length);
        };
        let known = self
            .results
            .summary(place, cell, way, |figures| Some(figures.rate));
        let asked = Asked {
            stage,
            files: self.files,
            way,
            clients,
            known: known.map(|known| known.median),
            length,
        };
        programs::measure(program, &asked, self.usage)
    }
}
