// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-tests`: runs as root in a guest that has the module and the tool; with `--plain` on any Linux box.
//!
//! Each scenario runs in a process of its own, so that a hang or a crash is one failed test and nothing more. The options are
//! those of `cargo test` (filters, `--list`, `--exact`, `--skip`), and `--plain`: over plain TCP, without the module.

mod attacks;
mod audit;
mod cgroup;
mod delays;
mod env;
mod faults;
mod fixture;
mod scenario;
mod scenarios;
mod watchdog;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tcp_splice_world::{asleep, link, sys};

use crate::env::{Env, Mode};
use crate::fixture::Fixture;
use crate::link::Link;
use crate::scenario::Scenario;
use crate::watchdog::Job;

/// Our own options; everything else belongs to libtest-mimic.
#[derive(Debug, Default)]
struct Options {
    plain: bool,
    exec: Option<String>,
    world: Option<String>,
    rest: Vec<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self::default();
        let mut words = std::env::args();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--plain" => options.plain = true,
                "--exec" => options.exec = Some(words.next().context("--exec needs a name")?),
                "--world" => options.world = Some(words.next().context("--world needs a prefix")?),
                _ => options.rest.push(word),
            }
        }
        Ok(options)
    }

    fn mode(&self) -> Mode {
        if self.plain {
            Mode::Plain
        } else {
            Mode::Spliced
        }
    }
}

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    let options = Options::parse()?;
    let own = format!("ts{}", std::process::id() % 1_000_000);
    let world = options.world.clone().unwrap_or(own);
    let tests = all_tests(options.mode(), &world);
    match &options.exec {
        Some(name) => run_here(&tests, name, options.mode()),
        None => run_all(tests, options, &world),
    }
}

/// A scenario on a link.
struct Test {
    name: String,
    link: Link,
    scenario: &'static Scenario,
}

fn all_tests(mode: Mode, world: &str) -> Vec<Test> {
    let mut tests = Vec::new();
    for (group, scenario) in scenarios::all() {
        for link in Link::all(world) {
            if scenario.runs(mode, &link) {
                let name = format!("{link}/{group}/{}", scenario.name);
                tests.push(Test {
                    name,
                    link,
                    scenario,
                });
            }
        }
    }
    tests
}

/// Runs one test in this process.
fn run_here(tests: &[Test], name: &str, mode: Mode) -> Result<ExitCode> {
    let test = tests.iter().find(|test| test.name == name);
    let test = test.with_context(|| format!("there is no test {name:?}"))?;
    let link = test.link.clone();
    sys::hold_sigchld_back()?;
    env::run(&Env { mode, link }, test.scenario.body)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the chosen tests one after another, since the counters are the machine's.
fn run_all(tests: Vec<Test>, options: Options, world: &str) -> Result<ExitCode> {
    let mode = options.mode();
    let mut arguments = Arguments::from_iter(options.rest);
    arguments.test_threads = Some(1);
    let shows = arguments.nocapture;
    let make = |test: Test| {
        let job = Job::new(&test.name, test.scenario, mode, world, shows);
        Trial::test(test.name, move || job.run().map_err(Failed::from))
    };
    let mut trials: Vec<Trial> = tests.into_iter().map(make).collect();
    if mode == Mode::Spliced {
        trials.push(Trial::test("machine/kmemleak", || {
            fixture::no_leak().map_err(|error| format!("{error:#}").into())
        }));
    }
    if arguments.list {
        libtest_mimic::run(&arguments, trials).exit();
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "failed to start: the tests must run as root"
    );
    let fixture = Fixture::set_up(mode, world)?;
    let mut conclusion = libtest_mimic::run(&arguments, trials);
    if mode == Mode::Spliced && conclusion.num_passed > 0 && !conclusion.has_failed() {
        conclusion = libtest_mimic::run(&Arguments::default(), vec![audit()]);
    }
    drop(fixture);
    Ok(conclusion.exit_code())
}

/// The last test, whichever were chosen. After a failure it would only say what that one left behind.
fn audit() -> Trial {
    Trial::test("machine/audit", || {
        audit::module_goes().map_err(|error| format!("{error:#}").into())
    })
}
