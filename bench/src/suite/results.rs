// SPDX-License-Identifier: GPL-2.0-only
//! The raw results, as they are kept in suite.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::way::Way;
use crate::machine::Machine;
use crate::place::Place;
use crate::stats::Summary;

/// Changes when a field is removed or changes its meaning.
const SCHEMA: u32 = 1;
/// What kind of results these are.
const KIND: &str = "suite";

/// Microseconds that this share of the round trips, or requests, took at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// half
    pub p50: f64,
    /// all but a hundredth
    pub p99: f64,
    /// all but a thousandth, where there were a thousand; not every program tells
    pub p999: Option<f64>,
}

/// What one measurement gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// In the cell's unit.
    pub rate: f64,
    /// Round trips, messages or requests while it was measured.
    pub operations: u64,
    /// Of all messages, both ways together; 0 where a program does not tell.
    pub bytes: u64,
    /// The same, and those of a run before it that was too short; what the counters have seen at least.
    #[serde(default)]
    pub carried: u64,
    /// Processor time that all ends took meanwhile.
    pub cpu_seconds: f64,
    /// Of round trips and requests, where known.
    pub times: Option<Times>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Where.
    pub place: Place,
    /// What.
    pub cell: Cell,
    /// How the bytes travelled.
    pub way: Way,
    /// In which round, from 1.
    pub round: u32,
    /// What it gave.
    #[serde(flatten)]
    pub figures: Figures,
    /// What the module's counters did meanwhile: the proof that the ring was used, or was not.
    pub counters: BTreeMap<String, u64>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    kind: String,
    schema: u32,
    /// Version of this program.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// A line about what else the machine does.
    pub host: String,
    /// What the check of the data before the measurements found.
    pub checks: Vec<String>,
    /// Programs that were not measured, and why.
    pub left_out: Vec<String>,
    /// All samples, in the order they were taken.
    pub samples: Vec<Sample>,
}

impl Results {
    /// A run without samples yet.
    pub fn new(machine: Machine, host: &str, checks: Vec<String>, left_out: Vec<String>) -> Self {
        Self {
            kind: KIND.to_owned(),
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine,
            host: host.to_owned(),
            checks,
            left_out,
            samples: Vec::new(),
        }
    }

    /// Does this file have results of this kind?
    pub fn are_in(path: &Path) -> Result<bool> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("failed to parse {}", path.display()))?;
        Ok(value["kind"] == KIND)
    }

    /// Reads an earlier run.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let results: Self = serde_json::from_str(&text)
            .with_context(|| format!("failed to parse {}", path.display()))?;
        ensure!(
            results.schema == SCHEMA,
            "failed to understand {}: it has schema {}",
            path.display(),
            results.schema
        );
        Ok(results)
    }

    /// Writes the run.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
    }

    fn of(&self, place: Place, cell: Cell, way: Way) -> impl Iterator<Item = &Sample> {
        let samples = self.samples.iter();
        samples.filter(move |s| (s.place, s.cell, s.way) == (place, cell, way))
    }

    /// Median and spread of what `value` takes from the samples of one cell in one way; none where a sample does not have it.
    pub fn summary(
        &self,
        place: Place,
        cell: Cell,
        way: Way,
        value: impl Fn(&Figures) -> Option<f64>,
    ) -> Option<Summary> {
        let samples = self.of(place, cell, way);
        let values = samples.map(|sample| value(&sample.figures));
        Summary::of(&values.collect::<Option<Vec<_>>>()?)
    }

    /// Rates against those of another way: the factor is made within each round, since the host's load moves both.
    pub fn factor(&self, place: Place, cell: Cell, way: Way, against: Way) -> Option<Summary> {
        let of_round = |sample: &Sample| {
            let mut others = self.of(place, cell, against);
            let other = others.find(|other| other.round == sample.round)?;
            Some(sample.figures.rate / other.figures.rate)
        };
        let factors = self.of(place, cell, way).filter_map(of_round);
        Summary::of(&factors.collect::<Vec<_>>())
    }

    /// The cells that were measured at a place.
    pub fn cells(&self, place: Place) -> Vec<Cell> {
        let measured = |cell: &Cell| {
            let mut samples = self.samples.iter();
            samples.any(|sample| (sample.place, sample.cell) == (place, *cell))
        };
        Cell::all().into_iter().filter(measured).collect()
    }

    /// How many rounds were made.
    pub fn rounds(&self) -> u32 {
        let rounds = self.samples.iter().map(|sample| sample.round);
        rounds.max().unwrap_or(0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Three rounds of one cell, in two ways, and in one of them of another.
    pub fn example() -> Results {
        let machine = Machine::detect(Some("test"));
        let mut results = Results::new(machine, "host: idle", Vec::new(), Vec::new());
        let cells = [
            Cell::RoundTrip { size: 64, pairs: 1 },
            Cell::Stream {
                size: 64 << 10,
                pairs: 8,
            },
        ];
        for (round, plain, spliced) in [(1, 100.0, 200.0), (2, 200.0, 500.0), (3, 100.0, 260.0)] {
            for (way, rate) in [
                (Way::Plain, plain),
                (Way::Spliced, spliced),
                (Way::Unix, 250.0),
            ] {
                for cell in cells {
                    let times = Some(Times {
                        p50: 1e6 / rate,
                        p99: 2e6 / rate,
                        p999: None,
                    });
                    results.samples.push(Sample {
                        place: Place::Loopback,
                        cell,
                        way,
                        round,
                        figures: Figures {
                            rate,
                            operations: 1000,
                            bytes: 1 << 20,
                            carried: 1 << 20,
                            cpu_seconds: 0.5,
                            times,
                        },
                        counters: BTreeMap::new(),
                    });
                }
            }
        }
        results
    }

    #[test]
    fn factors_are_made_within_rounds() {
        let cell = Cell::RoundTrip { size: 64, pairs: 1 };
        let factor = example().factor(Place::Loopback, cell, Way::Spliced, Way::Plain);
        let factor = factor.unwrap();
        assert_eq!((factor.median, factor.min, factor.max), (2.5, 2.0, 2.6));
        let none = example().factor(Place::Netns, cell, Way::Spliced, Way::Plain);
        assert_eq!(none, None);
    }

    #[test]
    fn what_is_saved_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suite.json");
        example().save(&path).unwrap();
        assert!(Results::are_in(&path).unwrap());
        let loaded = Results::load(&path).unwrap();
        fs::write(&path, r#"{"schema": 1, "samples": []}"#).unwrap();
        assert!(!Results::are_in(&path).unwrap());
        assert_eq!(loaded.samples.len(), 18);
        assert_eq!(loaded.cells(Place::Loopback).len(), 2);
        assert_eq!(loaded.rounds(), 3);
    }
}
