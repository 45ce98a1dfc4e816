// SPDX-License-Identifier: GPL-2.0-only
//! Figures: what one operation costs, and on what machine. The same file is a result and the baseline.

use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// All figures of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// of the file
    #[serde(rename = "SPDX-License-Identifier")]
    pub licence: String,
    /// what the figures depend on besides our own code
    pub machine: Machine,
    /// in the order of the table
    pub cells: Vec<Cell>,
    /// in the order of the second table
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// What the figures depend on besides our own code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// the guest's kernel
    pub kernel: String,
    /// QEMU's version
    pub qemu: String,
    /// first size of a ring
    pub ring_kbytes: String,
}

/// One operation, by each way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// what is done
    pub operation: String,
    /// TCP over loopback
    pub plain: Figure,
    /// through the ring
    pub spliced: Figure,
    /// an `AF_UNIX` stream
    pub unix: Figure,
    /// two pipes; none for what they cannot do
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipe: Option<Figure>,
}

/// One operation in several cases, of which the first is what the others are compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// what is done
    pub operation: String,
    /// in the order of the table
    pub cases: Vec<Case>,
}

/// An operation in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// which
    pub name: String,
    /// what it costs
    pub figure: Figure,
}

/// Instructions of one operation, both ends and the kernel together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// median of the windows, a repeated string instruction counted as one
    pub median: f64,
    /// in the cheapest window
    pub least: f64,
    /// in the dearest window
    pub most: f64,
    /// further turns of repeated string instructions, median
    pub turns: f64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} + {:.0}", self.median, self.turns)
    }
}

impl Figure {
    /// Of what was counted in each window.
    pub fn of(instructions: Vec<f64>, turns: Vec<f64>) -> Self {
        let (least, median, most) = spread(instructions);
        let (_, turns, _) = spread(turns);
        Self {
            median,
            least,
            most,
            turns,
        }
    }
}

/// Least, median and most, to a hundredth.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| {
        let value = values.get(index).copied().unwrap_or_default();
        (value * 100.0).round() / 100.0
    };
    let last = values.len().saturating_sub(1);
    (at(0), at(last / 2), at(last))
}

impl Figures {
    /// Those of a run.
    pub fn new(machine: Machine, cells: Vec<Cell>, groups: Vec<Group>) -> Self {
        Self {
            licence: "GPL-2.0-only".to_owned(),
            machine,
            cells,
            groups,
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))
    }

    /// Writes them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    /// The cell of this name.
    pub fn cell(&self, operation: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.operation == operation)
    }

    /// The figure of an operation's case.
    pub fn case(&self, operation: &str, name: &str) -> Option<&Figure> {
        let mut groups = self.groups.iter();
        let group = groups.find(|group| group.operation == operation)?;
        let case = group.cases.iter().find(|case| case.name == name)?;
        Some(&case.figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_figure() {
        let figure = Figure::of(vec![9.0, 1.0, 2.004], vec![0.0; 3]);
        assert_eq!((figure.least, figure.median, figure.most), (1.0, 2.0, 9.0));
    }
}
