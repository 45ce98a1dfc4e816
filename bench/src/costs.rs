// SPDX-License-Identifier: GPL-2.0-only
//! What connections cost besides their messages: to make and close them, to have them, to have many, and to use several at once.
//! Times, which emulation makes noisy; `cargo xtask instructions` counts the same things exactly.

mod among;
mod at_once;
pub mod connections;
mod cpu;
pub mod crowd;
mod idle;
pub mod kind;
pub mod list;
pub mod team;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use crate::machine::Machine;
use among::Among;
use at_once::AtOnce;
use connections::Connections;
use idle::Idle;

/// Changes when a field is removed or changes its meaning.
const SCHEMA: u32 = 1;

/// What to measure, and how much of it.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory for costs.json and costs.txt
    #[arg(long)]
    out: PathBuf,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Rounds, in each of which every kind or way has its turn
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Connections of each kind in a round
    #[arg(long, default_value_t = 400)]
    connections: usize,
    /// Idle connections whose memory is measured
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// How many idle pairs a message is measured among
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000, 10_000, 100_000])]
    among: Vec<usize>,
    /// Round trips in a round
    #[arg(long, default_value_t = 1500)]
    round_trips: usize,
    /// A line about the host, for the head of the report
    #[arg(long, default_value = "")]
    host: String,
}

/// The parts of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Connections a second, of each kind
    Connections,
    /// Memory of idle connections, and the time to list them
    Idle,
    /// A message while many pairs exist
    Among,
    /// Several pairs at work
    AtOnce,
}

impl Part {
    const ALL: [Self; 4] = [Self::Connections, Self::Idle, Self::Among, Self::AtOnce];
}

#[derive(Debug, Serialize)]
struct Results {
    schema: u32,
    machine: Machine,
    host: String,
    connections: Option<Connections>,
    idle: Option<Idle>,
    among: Option<Among>,
    at_once: Option<AtOnce>,
}

/// Measures, prints, and writes down.
///
/// # Errors
/// When data is wrong, or the counters say that bytes or connections went another way than they should.
pub fn run(options: &Options) -> Result<()> {
    tcp_splice_world::policy::restore()?;
    let machine = Machine::detect(None);
    let mut text = format!("{}\n{}\n", machine.line(), options.host);
    print!("{text}");
    let mut results = Results {
        schema: SCHEMA,
        machine,
        host: options.host.clone(),
        connections: None,
        idle: None,
        among: None,
        at_once: None,
    };
    // Once each, however often it was named.
    for part in Part::ALL.iter().filter(|part| options.only.contains(part)) {
        let part = match part {
            Part::Connections => results
                .connections
                .insert(Connections::measure(options)?)
                .text(),
            Part::Idle => results.idle.insert(Idle::measure(options)?).text(),
            Part::Among => results.among.insert(Among::measure(options)?).text(),
            Part::AtOnce => results.at_once.insert(AtOnce::measure(options)?).text(),
        };
        println!("\n{part}");
        text += &format!("\n{part}\n");
        write(&options.out.join("costs.txt"), &text)?;
        let json = serde_json::to_string_pretty(&results)?;
        write(&options.out.join("costs.json"), &(json + "\n"))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// Names to the left, figures to the right.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
