// SPDX-License-Identifier: GPL-2.0-only
//! Counting what test harnesses report.

use std::fmt;
use std::ops::AddAssign;

/// Tests that passed and tests that failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// passed
    pub passed: u64,
    /// failed
    pub failed: u64,
}

impl Tally {
    /// One thing that is not a test of a harness, and failed.
    pub const ONE_FAILED: Self = Self {
        passed: 0,
        failed: 1,
    };

    /// Sums the `test result:` lines in the output of one or several test programs.
    pub fn of_output(text: &str) -> Self {
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
            };
        }
        sum
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
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
                failed: 2
            }
        );
        assert_eq!(Tally::of_output(""), Tally::default());
    }
}
