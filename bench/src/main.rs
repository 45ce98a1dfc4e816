// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-bench`: real programs over plain TCP, spliced, and spliced with busy polling, in one boot.

mod cell;
mod chart;
mod check;
mod copies;
mod costs;
mod instructions;
mod machine;
mod measure;
mod place;
mod report;
mod results;
mod run;
mod splices;
mod stats;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measure tcp-splice against plain TCP of the same boot
#[derive(Debug, Parser)]
#[command(name = "tcp-splice-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the data, measure, and write results.json, report.txt and chart.svg
    Run(run::Options),
    /// Measure messages by size and number of pairs beside AF_UNIX and pipes, and real programs; writes suite.json, suite.txt, suite.md and suite.svg
    Suite(suite::Options),
    /// Print what copying costs on this machine, by the ways that the module chooses from
    Copies,
    /// Measure splice(2) from a spliced connection beside recv() on it
    Splices(splices::Options),
    /// Measure what connections cost besides their messages: making them, having many of them, using several at once
    Costs(costs::Options),
    /// Exchange messages between markers that an emulator's plugin counts instructions by (see `cargo xtask instructions`)
    Instructions(instructions::Options),
    /// Draw tables and chart once more from raw results
    Report {
        /// A results.json or suite.json of an earlier run
        results: PathBuf,
        /// Where to put them (default: beside the results)
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<()> {
    match command {
        Command::Run(options) => run::run(&options),
        Command::Suite(options) => suite::run(&options),
        Command::Copies => copies::run(),
        Command::Splices(options) => splices::run(&options),
        Command::Costs(options) => costs::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Report { results, out } => {
            let directory = out.or_else(|| results.parent().map(PathBuf::from));
            let directory = directory.unwrap_or_default();
            if suite::results::Results::are_in(&results)? {
                return suite::redraw(&results, &directory);
            }
            report::write(&results::Results::load(&results)?, &directory)
        }
    }
}
