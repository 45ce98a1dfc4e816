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

    /// Its opposite.
    pub const ONE_PASSED: Self = Self {
        passed: 1,
        failed: 0,
    };

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
            for line in report.lines() {
                if let Some(count) = line.strip_prefix("1..") {
                    planned = count.trim().parse().unwrap_or(0);
                } else if is_result(line.strip_prefix("not ok ")) {
                    here.failed += 1;
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
            };
        }
        sum
    }
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
        let empty = Tally::of_output("KTAP version 1\n1..0\n");
        assert_eq!(empty, Tally::default());
    }
}
