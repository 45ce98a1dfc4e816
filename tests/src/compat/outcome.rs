// SPDX-License-Identifier: GPL-2.0-only
//! What became of single tests, whatever suite they belong to.

use std::collections::BTreeMap;

use serde::Serialize;

/// How a test ended. The order is that of badness: of two verdicts on one test the worse counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// it was not run, although the other way it was
    Absent,
    /// it did what it should
    Pass,
    /// it said that it cannot be run here
    Skip,
    /// it said that something is wrong
    Fail,
    /// its process died
    Crash,
    /// it took longer than its time limit
    Hang,
}

impl Verdict {
    /// True for what a suite calls a failure.
    pub fn bad(self) -> bool {
        self >= Self::Fail
    }

    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "fail",
            Self::Crash => "crash",
            Self::Hang => "hang",
        }
    }
}

/// How a test ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// how it ended
    pub verdict: Verdict,
    /// a traceback, a reason to skip, the program's output
    pub said: String,
}

/// All tests of one run of a suite by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<String, Outcome>);

impl Outcomes {
    /// Adds a test, or makes its verdict worse.
    pub fn add(&mut self, test: &str, verdict: Verdict, said: &str) {
        let outcome = Outcome {
            verdict,
            said: said.trim_end().to_owned(),
        };
        match self.0.get_mut(test) {
            Some(old) if old.verdict >= verdict => {}
            Some(old) => *old = outcome,
            None => {
                self.0.insert(test.to_owned(), outcome);
            }
        }
    }

    /// Takes everything from `other`.
    pub fn extend(&mut self, other: Self) {
        for (test, outcome) in other.0 {
            self.add(&test, outcome.verdict, &outcome.said);
        }
    }

    /// The verdict on one test.
    pub fn verdict(&self, test: &str) -> Verdict {
        self.0
            .get(test)
            .map_or(Verdict::Absent, |outcome| outcome.verdict)
    }

    /// What one test said.
    pub fn said(&self, test: &str) -> &str {
        self.0.get(test).map_or("", |outcome| &outcome.said)
    }

    /// The names of all tests.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many tests there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The names of those that have one of the verdicts that `is` accepts.
    pub fn that(&self, is: impl Fn(Verdict) -> bool) -> Vec<String> {
        let those = self.0.iter().filter(|(_, outcome)| is(outcome.verdict));
        those.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_verdict_counts() {
        let mut outcomes = Outcomes::default();
        outcomes.add("a", Verdict::Fail, "first\n");
        outcomes.add("a", Verdict::Pass, "");
        outcomes.add("b", Verdict::Pass, "");
        outcomes.add("b", Verdict::Skip, "no IPv6");
        assert_eq!(outcomes.verdict("a"), Verdict::Fail);
        assert_eq!(outcomes.said("a"), "first");
        assert_eq!(outcomes.verdict("b"), Verdict::Skip);
        assert_eq!(outcomes.verdict("c"), Verdict::Absent);
        assert_eq!(outcomes.that(Verdict::bad), ["a"]);
    }
}
