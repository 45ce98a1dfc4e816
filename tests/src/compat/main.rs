// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-compat`: other people's test suites, unmodified, over plain TCP and with every connection offered, compared test by test.

mod cases;
mod compare;
mod kselftest;
mod outcome;
mod process;
mod python;
mod report;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::{policy, program};

use crate::compare::Difference;
use crate::outcome::Outcomes;
use crate::report::{Report, Row, Way};
use crate::suite::{Place, Proof, SUITES, Suite};

/// Run other people's test suites over plain TCP and spliced, and compare
#[derive(Debug, Parser)]
#[command(name = "tcp-splice-compat", version)]
struct Options {
    /// Run only suites whose name contains one of these
    suites: Vec<String>,
    /// Where compat.json, compat.txt and the logs go
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// How often a test that ended differently is run again, both ways
    #[arg(long, default_value_t = 5)]
    again: u32,
    /// Minutes after which what still runs is ended
    #[arg(long, default_value_t = 38)]
    minutes: u64,
    /// List the suites
    #[arg(long)]
    list: bool,
}

/// For one run of one suite.
const SUITE_LIMIT: Duration = Duration::from_secs(600);

/// Over what a suite is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Spliced,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Spliced => "spliced",
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if no suite differs.
fn run(options: &Options) -> Result<bool> {
    let chosen = |suite: &&Suite| {
        let wanted = |part: &String| suite.name.contains(part.as_str());
        options.suites.is_empty() || options.suites.iter().any(wanted)
    };
    let suites: Vec<_> = SUITES.iter().filter(chosen).collect();
    ensure!(!suites.is_empty(), "failed to find a suite of that name");
    if options.list {
        suites.iter().for_each(|suite| println!("{}", suite.name));
        return Ok(true);
    }
    set_up()?;
    let runner = Runner {
        begun: Instant::now(),
        options,
    };
    let rows = suites.iter().enumerate().map(|(at, suite)| {
        println!("{}/{}: {} ...", at + 1, suites.len(), suite.name);
        let row = runner.row(suite);
        println!("{}", row.line());
        row
    });
    let suites = rows.collect();
    policy::disable()?;
    let report = Report {
        machine: machine(),
        seconds: runner.begun.elapsed().as_secs_f64(),
        suites,
    };
    report.write(&options.out)?;
    Ok(report.good())
}

/// The module, and what the suites take for granted of a machine.
fn set_up() -> Result<()> {
    policy::load()?;
    policy::disable()?;
    let _ = program::run(&["modprobe", "tls"]);
    // As the kernel's scripts for zero-copy set it.
    fs::write("/proc/sys/net/core/optmem_max", "1000000")
        .context("failed to write net.core.optmem_max")
}

/// How many connections the guest has accepted so far: TCP's own count.
fn accepted() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp").context("failed to read /proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let mut words = || lines.next().unwrap_or_default().split(' ');
    let (names, values) = (words(), words());
    let mut both = names.zip(values);
    let found = both.find(|(name, _)| *name == "PassiveOpens");
    let (_, value) = found.context("failed to find PassiveOpens in /proc/net/snmp")?;
    value.parse().context("failed to parse PassiveOpens")
}

/// Kernel and processors, for the table.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("", |(_, model)| model);
    format!("Linux {}, {cpus} CPUs, {model}", kernel.trim())
}

/// What a run of a suite, one way, came to.
struct Run {
    outcomes: Outcomes,
    way: Way,
    /// what the module's counters did
    counters: Counters,
    /// how many connections the guest accepted
    connections: u64,
    /// true if it did not come to its end in time
    late: bool,
}

struct Runner<'a> {
    begun: Instant,
    options: &'a Options,
}

impl Runner<'_> {
    /// Runs one suite; what keeps it from being run goes into the row as well.
    fn row(&self, suite: &Suite) -> Row {
        let mut row = Row {
            suite: suite.name.to_owned(),
            ..Row::default()
        };
        if let Err(error) = self.fill(suite, &mut row) {
            row.trouble = Some(format!("{error:#}"));
        }
        row
    }

    fn fill(&self, suite: &Suite, row: &mut Row) -> Result<()> {
        let plain = self.timed(suite, None, Mode::Plain)?;
        let spliced = self.timed(suite, None, Mode::Spliced)?;
        let late = plain.late || spliced.late;
        let mut differences = compare::differences(&plain.outcomes, &spliced.outcomes);
        if late {
            differences.retain(|difference| !difference.absent());
        }
        row.plain = plain.way;
        row.spliced = spliced.way;
        row.connections = spliced.connections;
        row.count(&spliced.counters);
        let again = match late {
            true => Ok(()),
            false => self.again(suite, &mut differences),
        };
        (row.flaky, row.different) = differences.into_iter().partition(Difference::flaky);
        again?;
        ensure!(!late, "not finished: its time was over");
        ensure!(plain.outcomes.len() > 0, "there is no test in it");
        ensure!(
            plain.counters.get("pairs_made")? == 0,
            "connections were spliced although none should have been"
        );
        let (pairs, bytes) = (
            spliced.counters.get("pairs_made")?,
            spliced.counters.get("ring_bytes")?,
        );
        let connections = spliced.connections;
        ensure!(
            pairs >= connections,
            "only {pairs} of {connections} connections were spliced"
        );
        let proved = match suite.proof {
            Proof::Ring => pairs > 0 && bytes > 0,
            Proof::Pairs => pairs > 0,
            Proof::Nothing => true,
        };
        ensure!(proved, "no connection was spliced");
        Ok(())
    }

    fn deadline(&self) -> Instant {
        self.begun + Duration::from_secs(self.options.minutes * 60)
    }

    /// Runs the tests that differ again, until plain TCP has shown the same or it is clear enough that it does not.
    fn again(&self, suite: &Suite, differences: &mut [Difference]) -> Result<()> {
        for _ in 0..self.options.again {
            let open = differences.iter().filter(|d| !d.flaky() && !d.clear());
            let tests: Vec<String> = open.map(|d| d.test.clone()).collect();
            if tests.is_empty() {
                break;
            }
            println!("  {} tests differ: {}", tests.len(), tests.join(", "));
            let plain = self.timed(suite, Some(&tests), Mode::Plain)?;
            let spliced = self.timed(suite, Some(&tests), Mode::Spliced)?;
            ensure!(
                !plain.late && !spliced.late,
                "not repeated often enough: the time was over"
            );
            let open = differences.iter_mut().filter(|d| tests.contains(&d.test));
            open.for_each(|difference| difference.again(&plain.outcomes, &spliced.outcomes));
        }
        Ok(())
    }

    fn timed(&self, suite: &Suite, only: Option<&[String]>, mode: Mode) -> Result<Run> {
        let deadline = self.deadline().min(Instant::now() + SUITE_LIMIT);
        let late = || Instant::now() >= deadline;
        ensure!(!late(), "not run: the time was over");
        match mode {
            Mode::Plain => policy::disable()?,
            Mode::Spliced => policy::enable(&[])?,
        }
        let directory = PathBuf::from(format!("/tmp/compat-{}", mode.word()));
        let _ = fs::remove_dir_all(&directory);
        let logs = self.options.out.join("logs");
        for path in [&directory, &logs] {
            make(path)?;
        }
        let place = Place {
            directory,
            log: logs.join(format!(
                "{}.{}.log",
                suite.name.replace(' ', "-"),
                mode.word()
            )),
            deadline,
        };
        let (before, accepted_before) = (Counters::read()?, accepted()?);
        let begun = Instant::now();
        let outcomes = suite.run(only, &place)?;
        let way = Way::new(&outcomes, begun.elapsed().as_secs_f64());
        let counters = Counters::read()?.since(&before);
        let connections = accepted()? - accepted_before;
        println!(
            "  {}: {} tests, {} failed ({:.0} s)",
            mode.word(),
            way.tests,
            way.failed.len(),
            way.seconds
        );
        Ok(Run {
            outcomes,
            way,
            counters,
            connections,
            late: late(),
        })
    }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("failed to create {}", path.display()))
}
