// SPDX-License-Identifier: GPL-2.0-only
//! The table, and the same for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;
use tcp_splice_world::counters::Counters;

use crate::compare::{Difference, in_words};
use crate::outcome::{Outcomes, Verdict};

/// How many of the lines that a test said are printed; all are in the file.
const LINES: usize = 12;

/// One run of a suite.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Way {
    /// how many tests there were
    pub tests: usize,
    /// those that failed, crashed or hung
    pub failed: Vec<String>,
    /// how many were skipped
    pub skipped: usize,
    /// how long it took
    pub seconds: f64,
}

impl Way {
    /// Sums a run up.
    pub fn new(outcomes: &Outcomes, seconds: f64) -> Self {
        Self {
            tests: outcomes.len(),
            failed: outcomes.that(Verdict::bad),
            skipped: outcomes.that(|verdict| verdict == Verdict::Skip).len(),
            seconds,
        }
    }
}

/// Everything about one suite.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// its name
    pub suite: String,
    /// over plain TCP
    pub plain: Way,
    /// with every connection offered
    pub spliced: Way,
    /// connections that the guest accepted during the spliced run, whoever made them: TCP's own count
    pub connections: u64,
    /// what the module's counters did during the spliced run
    pub counters: BTreeMap<String, u64>,
    /// tests that end differently because they are spliced
    pub different: Vec<Difference>,
    /// tests that end now so, now so, over plain TCP as well
    pub flaky: Vec<Difference>,
    /// why the row proves nothing, if it does not
    pub trouble: Option<String>,
}

impl Row {
    /// True if the suite found no difference, and shows that it could have.
    pub fn good(&self) -> bool {
        self.different.is_empty() && self.trouble.is_none()
    }

    /// Notes what the counters did.
    pub fn count(&mut self, delta: &Counters) {
        self.counters = delta.moved();
    }

    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    fn cells(&self) -> [String; 12] {
        [
            self.suite.clone(),
            self.spliced.tests.to_string(),
            self.spliced.skipped.to_string(),
            self.plain.failed.len().to_string(),
            self.spliced.failed.len().to_string(),
            self.different.len().to_string(),
            self.flaky.len().to_string(),
            self.connections.to_string(),
            self.counter("pairs_made").to_string(),
            self.counter("ring_bytes").to_string(),
            format!("{:.0}", self.plain.seconds),
            format!("{:.0}", self.spliced.seconds),
        ]
    }

    /// One line of progress.
    pub fn line(&self) -> String {
        format!(
            "{}: {} tests, {} failed plain, {} spliced, {} different, {} flaky, {} pairs{}",
            self.suite,
            self.spliced.tests,
            self.plain.failed.len(),
            self.spliced.failed.len(),
            self.different.len(),
            self.flaky.len(),
            self.counter("pairs_made"),
            self.trouble
                .as_ref()
                .map(|trouble| format!("; {trouble}"))
                .unwrap_or_default()
        )
    }
}

/// All suites of one boot.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// on what they ran
    pub machine: String,
    /// how long all of it took
    pub seconds: f64,
    /// one for each suite
    pub suites: Vec<Row>,
}

impl Report {
    /// True if no suite differs.
    pub fn good(&self) -> bool {
        !self.suites.is_empty() && self.suites.iter().all(Row::good)
    }

    /// Writes compat.json and compat.txt into `directory`, and prints the latter.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = self.text()?;
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            std::fs::write(&file, text)
                .with_context(|| format!("failed to write {}", file.display()))
        };
        write("compat.json", &serde_json::to_string_pretty(self)?)?;
        write("compat.txt", &text)?;
        print!("{text}");
        Ok(())
    }

    fn text(&self) -> Result<String> {
        let mut text = String::new();
        for row in &self.suites {
            describe(&mut text, row)?;
        }
        writeln!(text, "\n{}", self.machine)?;
        writeln!(text, "{}", self.table())?;
        let different: usize = self.suites.iter().map(|row| row.different.len()).sum();
        let trouble = self.suites.iter().filter(|row| row.trouble.is_some());
        let (suites, trouble) = (self.suites.len(), trouble.count());
        let seconds = self.seconds;
        writeln!(
            text,
            "{suites} suites, {different} tests different, {trouble} suites in trouble, {seconds:.0} s"
        )?;
        Ok(text)
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([
            "",
            "tests",
            "skipped",
            "failed\nplain",
            "failed\nspliced",
            "different",
            "flaky",
            "connec-\ntions",
            "pairs",
            "ring bytes",
            "s\nplain",
            "s\nspliced",
        ]);
        for row in &self.suites {
            table.add_row(row.cells());
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

fn describe(text: &mut String, row: &Row) -> Result<()> {
    if let Some(trouble) = &row.trouble {
        writeln!(text, "\n{}: {trouble}", row.suite)?;
    }
    let different = row.different.iter().map(|test| ("different", test));
    let flaky = row.flaky.iter().map(|test| ("flaky", test));
    for (kind, test) in different.chain(flaky) {
        let (plain, spliced) = (in_words(&test.plain), in_words(&test.spliced));
        writeln!(text, "\n{kind}: {}: {}", row.suite, test.test)?;
        writeln!(text, "  plain: {plain}; spliced: {spliced}")?;
        let said = match test.spliced_said.as_str() {
            "" => &test.plain_said,
            said => said,
        };
        let lines: Vec<_> = said.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            writeln!(text, "  | {line}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_suite_is_no_proof() {
        let mut report = Report {
            machine: String::new(),
            seconds: 0.0,
            suites: Vec::new(),
        };
        assert!(!report.good());
        report.suites.push(Row::default());
        assert!(report.good());
        report.suites[0].trouble = Some("no connection was spliced".to_owned());
        assert!(!report.good());
        assert!(report.text().unwrap().contains("1 suites in trouble"));
    }
}
