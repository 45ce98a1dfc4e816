// SPDX-License-Identifier: GPL-2.0-only
//! The raw results, as they are kept in results.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cell::{Cell, Mode};
use crate::machine::Machine;
use crate::place::Place;
use crate::stats::Summary;

/// Changes when a field is removed or changes its meaning.
const SCHEMA: u32 = 1;

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Where.
    pub place: Place,
    /// What.
    pub cell: Cell,
    /// How the bytes travelled.
    pub mode: Mode,
    /// In which round, from 1.
    pub round: u32,
    /// The result, in the cell's unit.
    pub rate: f64,
    /// What the module's counters did meanwhile: the proof that the ring was used, or was not.
    pub counters: BTreeMap<String, u64>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    schema: u32,
    /// Version of this program.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// What the check of the data before the measurements found, one line for each mode and place.
    pub checks: Vec<String>,
    /// All samples, in the order they were taken.
    pub samples: Vec<Sample>,
}

impl Results {
    /// A run without samples yet.
    pub fn new(machine: Machine, checks: Vec<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            schema: SCHEMA,
            version,
            machine,
            checks,
            samples: Vec::new(),
        }
    }

    /// Reads an earlier run.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))
    }

    /// Writes the run.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
    }

    fn rates(&self, place: Place, cell: Cell, mode: Mode) -> Vec<(u32, f64)> {
        let matching = self.samples.iter();
        let matching = matching.filter(|s| (s.place, s.cell, s.mode) == (place, cell, mode));
        matching.map(|sample| (sample.round, sample.rate)).collect()
    }

    /// Median and spread of one cell in one mode.
    pub fn summary(&self, place: Place, cell: Cell, mode: Mode) -> Option<Summary> {
        let rates = self.rates(place, cell, mode);
        Summary::of(&rates.iter().map(|(_, rate)| *rate).collect::<Vec<_>>())
    }

    /// The factor against plain TCP of the same place: of the medians, with the spread of the rounds' own factors.
    pub fn factor(&self, place: Place, cell: Cell, mode: Mode) -> Option<Summary> {
        let plain = self.rates(place, cell, Mode::Plain);
        let rates = self.rates(place, cell, mode);
        let of_round = |(round, rate): &(u32, f64)| {
            let (_, plain) = plain.iter().find(|(other, _)| other == round)?;
            Some(rate / plain)
        };
        let factors: Vec<f64> = rates.iter().filter_map(of_round).collect();
        let spread = Summary::of(&factors)?;
        let median = self.summary(place, cell, mode)?.median
            / self.summary(place, cell, Mode::Plain)?.median;
        Some(Summary { median, ..spread })
    }

    /// The cells of a place that were measured in any mode.
    pub fn cells(&self, place: Place) -> Vec<Cell> {
        let mut cells = Cell::of_place(place == Place::Loopback);
        let measured = |cell: &Cell| {
            self.samples
                .iter()
                .any(|s| s.place == place && s.cell == *cell)
        };
        cells.retain(measured);
        cells
    }

    /// How many rounds were made.
    pub fn rounds(&self) -> u32 {
        self.samples
            .iter()
            .map(|sample| sample.round)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Three rounds of one cell.
    pub fn example() -> Results {
        let machine = Machine::detect(Some("test"));
        let mut results = Results::new(machine, Vec::new());
        for (round, plain, spliced) in [(1, 100.0, 200.0), (2, 200.0, 500.0), (3, 100.0, 260.0)] {
            for (mode, rate) in [(Mode::Plain, plain), (Mode::Spliced, spliced)] {
                let (place, cell) = (Place::Loopback, Cell::Rr(1));
                let counters = BTreeMap::new();
                results.samples.push(Sample {
                    place,
                    cell,
                    mode,
                    round,
                    rate,
                    counters,
                });
            }
        }
        results
    }

    #[test]
    fn factors_are_of_medians_and_spread_of_rounds() {
        let factor = example()
            .factor(Place::Loopback, Cell::Rr(1), Mode::Spliced)
            .unwrap();
        assert_eq!((factor.median, factor.min, factor.max), (2.6, 2.0, 2.6));
    }

    #[test]
    fn what_is_saved_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        example().save(&path).unwrap();
        let loaded = Results::load(&path).unwrap();
        assert_eq!(loaded.samples.len(), 6);
        assert_eq!(loaded.cells(Place::Loopback), [Cell::Rr(1)]);
        assert_eq!(loaded.cells(Place::Netns), []);
        assert_eq!(loaded.rounds(), 3);
    }
}
