// SPDX-License-Identifier: GPL-2.0-only
//! Counting what test harnesses report.

use std::fmt;
use std::ops::AddAssign;

/// So many lines of what a failed test said are repeated at the end.
const TOLD: usize = 16;

/// Tests that passed and tests that failed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// passed
    pub passed: u64,
    /// failed
    pub failed: u64,
    /// what failures said, each with its test's name first: a long run has scrolled away by then
    pub told: Vec<String>,
}

impl Tally {
    /// One thing that is not a test of a harness, and passed.
    pub const ONE_PASSED: Self = Self {
        passed: 1,
        failed: 0,
        told: Vec::new(),
    };

    /// A failure that is not a test's of a harness, and what it said.
    pub fn failed_with(said: impl fmt::Display) -> Self {
        Self {
            passed: 0,
            failed: 1,
            told: vec![said.to_string()],
        }
    }

    /// Sums what one or several test programs report: in `test result:` lines, or in KTAP.
    pub fn of_output(text: &str) -> Self {
        let mut sum = Self::of_result_lines(text);
        sum += Self::of_ktap(text);
        sum
    }

    /// Counts the result lines of KTAP reports. Results that a report planned and does not have are failures.
    fn of_ktap(text: &str) -> Self {
        let mut sum = Self::default();
        for report in text.split("KTAP version ").skip(1) {
            let mut here = Self::default();
            let mut planned = 0;
            let mut lines = report.lines();
            while let Some(line) = lines.next() {
                if let Some(count) = line.strip_prefix("1..") {
                    planned = count.trim().parse().unwrap_or(0);
                } else if is_result(line.strip_prefix("not ok ")) {
                    here.failed += 1;
                    let said = lines.clone().take_while(|line| line.starts_with("# "));
                    here.told.push(paragraph(line, said));
                } else if is_result(line.strip_prefix("ok ")) {
                    here.passed += 1;
                }
            }
            here.failed += u64::saturating_sub(planned, here.passed + here.failed);
            sum += here;
        }
        sum
    }

    fn of_result_lines(text: &str) -> Self {
        let mut sum = Self::default();
        for line in text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("test result:"))
        {
            let number = |what: &str| {
                let fields = line.split([';', '.']).map(str::trim);
                fields
                    .filter_map(|field| field.strip_suffix(what))
                    .find_map(|n| n.trim().parse().ok())
                    .unwrap_or(0)
            };
            sum += Self {
                passed: number(" passed"),
                failed: number(" failed"),
                told: Vec::new(),
            };
        }
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if is_heading(line) {
                let said = lines.clone();
                let said = said.take_while(|line| !is_heading(line) && *line != "failures:");
                sum.told.push(paragraph(line, said));
            }
        }
        sum
    }
}

/// True for the line over what a failed test said: `---- NAME ----`, or `---- NAME stdout ----`.
fn is_heading(line: &str) -> bool {
    line.starts_with("---- ") && line.ends_with(" ----")
}

/// A heading and the first lines under it that say anything.
fn paragraph<'a>(heading: &'a str, said: impl Iterator<Item = &'a str>) -> String {
    let said = said.filter(|line| !line.trim().is_empty()).take(TOLD);
    let lines: Vec<&str> = std::iter::once(heading).chain(said).collect();
    lines.join("\n")
}

/// True if what follows the verdict of a line begins with a number, as in KTAP.
fn is_result(rest: Option<&str>) -> bool {
    let number = rest.and_then(|rest| rest.split(' ').next());
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.told.extend(other.told);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let text = "test a ... ok\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
            finished in 0.00s\nnoise 7 passed\n\ntest result: FAILED. 10 passed; 2 failed; 0 ignored\n";
        assert_eq!(
            Tally::of_output(text),
            Tally {
                passed: 13,
                failed: 2,
                told: Vec::new(),
            }
        );
        assert_eq!(Tally::of_output(""), Tally::default());
    }

    #[test]
    fn ktap_lines_are_counted_with_what_was_planned() {
        let report = "test result: ok. 3 passed; 0 failed; 0 ignored\nok 9 too early\nKTAP version 1\n1..4\n\
            ok 1 loopback/v4/a\nnot ok 2 loopback/v4/b\n# plain:   ok 3\nok then\nok 3 loopback/v4/c\n";
        let all = Tally::of_output(&format!(
            "{report}ok 4 loopback/v4/d\n# 3 passed, 1 failed\n"
        ));
        assert_eq!((all.passed, all.failed), (6, 1));
        let cut = Tally::of_output(report);
        assert_eq!((cut.passed, cut.failed), (5, 2));
        assert_eq!(all.told, ["not ok 2 loopback/v4/b\n# plain:   ok 3"]);
        let empty = Tally::of_output("KTAP version 1\n1..0\n");
        assert_eq!(empty, Tally::default());
    }

    #[test]
    fn what_failures_said_is_kept() {
        let report = "test a ... FAILED\n\nfailures:\n\n---- a ----\nlost a byte\n\nCaused by:\n    0: here\n\n\n\
            ---- b stdout ----\nsecond\n\nfailures:\n    a\n    b\n\ntest result: FAILED. 1 passed; 2 failed;\n";
        let mut tally = Tally::of_output(report);
        let a = "---- a ----\nlost a byte\nCaused by:\n    0: here";
        assert_eq!(tally.told, [a, "---- b stdout ----\nsecond"]);
        tally += Tally::failed_with("the guest was lost");
        assert_eq!((tally.failed, tally.told.len()), (3, 3));
    }
}
