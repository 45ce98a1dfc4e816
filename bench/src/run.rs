// SPDX-License-Identifier: GPL-2.0-only
//! A whole run: check, measure in rounds, report.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tcp_splice_world::netns::{Names, World};
use tcp_splice_world::policy;

use crate::cell::{Cell, Mode};
use crate::check;
use crate::machine::Machine;
use crate::measure::{Amount, measure};
use crate::place::{Place, Stage};
use crate::report;
use crate::results::{Results, Sample};
use crate::stats::{Summary, short};

/// How the run is to go.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory for results.json, report.txt and chart.svg
    #[arg(long)]
    out: PathBuf,
    /// How many times plain, spliced and polled take turns
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long each measurement takes from the second round on
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Measurements get shorter than --seconds where the whole run would take longer than this many seconds
    #[arg(long, default_value_t = 420.0)]
    budget: f64,
    /// Measure only what has one of these words in "PLACE CELL", such as "loopback" or "TCP_RR 1 B"
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Two rounds of short measurements, to see that it works
    #[arg(long)]
    quick: bool,
    /// How this machine runs (kvm, tcg); by default what the kernel's command line says
    #[arg(long)]
    accel: Option<String>,
}

impl Options {
    fn wants(&self, place: Place, cell: Cell) -> bool {
        let name = format!("{} {cell}", place.name()).to_lowercase();
        let named = |word: &String| name.contains(&word.to_lowercase());
        self.only.is_empty() || self.only.iter().any(named)
    }

    fn rounds(&self) -> u32 {
        if self.quick {
            self.rounds.min(2)
        } else {
            self.rounds
        }
    }

    fn seconds(&self) -> f64 {
        if self.quick {
            self.seconds.min(0.3)
        } else {
            self.seconds
        }
    }

    fn cells(&self, place: Place) -> Vec<Cell> {
        let mut cells = Cell::of_place(place == Place::Loopback);
        cells.retain(|cell| self.wants(place, *cell));
        cells
    }
}

/// Below this many seconds a measurement says nothing.
const SHORTEST: f64 = 0.15;

/// Puts the machine back when the run ends, however it ends.
struct PolicyOff;

impl Drop for PolicyOff {
    fn drop(&mut self) {
        let _ = policy::disable();
    }
}

/// Runs everything and writes the results.
pub fn run(options: &Options) -> Result<()> {
    fs::create_dir_all(&options.out)
        .with_context(|| format!("failed to make directory {}", options.out.display()))?;
    policy::load().context("failed to load the module")?;
    policy::disable()?;
    let _off = PolicyOff;
    let names = Names::new(&format!("tb{}", std::process::id() % 1_000_000));
    let _world = World::create(&names).context("failed to make the network namespaces")?;
    let wanted = Place::ALL
        .into_iter()
        .filter(|place| !options.cells(*place).is_empty());
    let stages = wanted
        .map(|place| Stage::set_up(place, &names))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        !stages.is_empty(),
        "nothing to measure: no cell matches --only"
    );
    let machine = Machine::detect(options.accel.as_deref());
    eprintln!("machine: {}", machine.line());
    let results = Results::new(machine, check_all(&stages)?);
    let seconds = options.seconds();
    let mut runner = Runner {
        options,
        stages,
        results,
        seconds,
    };
    runner.all_rounds()?;
    report::write(&runner.results, &options.out)
}

/// Nothing is measured where the data is wrong.
fn check_all(stages: &[Stage]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for mode in Mode::ALL {
        mode.enter()?;
        for stage in stages {
            let line = check::check(stage, mode)?;
            eprintln!("check: {line}");
            lines.push(line);
        }
    }
    Ok(lines)
}

/// The rounds under way.
struct Runner<'a> {
    options: &'a Options,
    stages: Vec<Stage>,
    results: Results,
    /// How long each measurement may take once its rate is known.
    seconds: f64,
}

impl Runner<'_> {
    fn all_rounds(&mut self) -> Result<()> {
        let (start, rounds) = (Instant::now(), self.options.rounds());
        let mut overhead = 0.0;
        for round in 1..=rounds {
            self.one_round(round)?;
            self.results.save(&self.options.out.join("results.json"))?;
            let (spent, count) = (
                start.elapsed().as_secs_f64(),
                self.results.samples.len() as f64,
            );
            if round == 1 {
                // These measured for about a second each; the rest of the time went into starting programs.
                overhead = (spent / count - 1.0).max(0.0);
            }
            let measurements = count / f64::from(round) * f64::from((rounds - round).max(1));
            let left = (self.options.budget - spent) / measurements - overhead;
            self.seconds = self.options.seconds().min(left).max(SHORTEST);
        }
        Ok(())
    }

    /// The modes take turns with all cells each, or, where a factor moves much with the host's load, one after the other with each cell:
    /// changing the mode takes time.
    fn one_round(&mut self, round: u32) -> Result<()> {
        let start = Instant::now();
        for mode in Mode::ALL {
            self.one_turn(mode, round, |cell| !cell.is_unsteady())?;
        }
        for unsteady in self.unsteady_cells() {
            for mode in Mode::ALL {
                self.one_turn(mode, round, |cell| cell == unsteady)?;
            }
        }
        let (rounds, took) = (self.options.rounds(), start.elapsed().as_secs_f64());
        eprintln!("round {round} of {rounds}: {took:.0} s");
        Ok(())
    }

    fn unsteady_cells(&self) -> Vec<Cell> {
        let mut found = Vec::new();
        for stage in &self.stages {
            for cell in self.options.cells(stage.place) {
                if cell.is_unsteady() && !found.contains(&cell) {
                    found.push(cell);
                }
            }
        }
        found
    }

    /// Some cells in one mode.
    fn one_turn(&mut self, mode: Mode, round: u32, wanted: impl Fn(Cell) -> bool) -> Result<()> {
        let mut entered = false;
        for index in 0..self.stages.len() {
            for cell in self.options.cells(self.stages[index].place) {
                if !wanted(cell) {
                    continue;
                }
                if !entered {
                    mode.enter()?;
                    entered = true;
                }
                self.one_cell(index, cell, mode, round)?;
            }
        }
        Ok(())
    }

    fn one_cell(&mut self, index: usize, cell: Cell, mode: Mode, round: u32) -> Result<()> {
        let stage = &self.stages[index];
        let (place, name) = (stage.place, stage.place.name());
        let known = self.results.summary(place, cell, mode);
        let seconds = self.seconds;
        let sized = |known: Summary| Amount::Sized {
            rate: known.median,
            seconds,
        };
        let amount = known.map_or(Amount::Second, sized);
        let outcome = measure(stage, cell, mode, amount)
            .with_context(|| format!("failed to measure {cell}, {mode}, {name}"))?;
        let (rate, unit) = (outcome.rate, cell.unit());
        eprintln!(
            "  {round} {mode:8} {name:9} {cell:24} {:>12} {unit}",
            short(rate)
        );
        let counters = outcome.counters.moved();
        self.results.samples.push(Sample {
            place,
            cell,
            mode,
            round,
            rate,
            counters,
        });
        Ok(())
    }
}
