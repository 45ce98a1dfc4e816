// SPDX-License-Identifier: GPL-2.0-only
//! Which tests ended differently, and whether that is the splicing or chance.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::outcome::{Outcomes, Verdict};

/// How often a test has to end the same both ways, and differently, for a difference that is beyond doubt.
const ENOUGH: usize = 3;

/// A test that did not end as over plain TCP when the suite was run, and what became of it when it was run again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// the test
    pub test: String,
    /// over plain TCP: in the suite first, then again
    pub plain: Vec<Verdict>,
    /// spliced: in the suite first, then again
    pub spliced: Vec<Verdict>,
    /// what it said over plain TCP, the worst time
    pub plain_said: String,
    /// what it said spliced, the worst time
    pub spliced_said: String,
}

impl Difference {
    /// True if everything that it did spliced it did over plain TCP as well.
    pub fn flaky(&self) -> bool {
        let plain: BTreeSet<_> = self.plain.iter().collect();
        self.spliced.iter().all(|verdict| plain.contains(verdict))
    }

    /// True if no further repetition could make a difference: it ended one way plain and another way spliced, often enough.
    pub fn clear(&self) -> bool {
        let same = |verdicts: &[Verdict]| verdicts.windows(2).all(|two| two[0] == two[1]);
        self.plain.len() >= ENOUGH && same(&self.plain) && same(&self.spliced) && !self.flaky()
    }

    /// True if it was run one way only.
    pub fn absent(&self) -> bool {
        let mut all = self.plain.iter().chain(&self.spliced);
        all.any(|&verdict| verdict == Verdict::Absent)
    }

    /// Adds what became of it when it was run again both ways.
    pub fn again(&mut self, plain: &Outcomes, spliced: &Outcomes) {
        let add = |verdicts: &mut Vec<Verdict>, said: &mut String, outcomes: &Outcomes| {
            let verdict = outcomes.verdict(&self.test);
            if verdicts.iter().all(|&before| before < verdict) {
                outcomes.said(&self.test).clone_into(said);
            }
            verdicts.push(verdict);
        };
        add(&mut self.plain, &mut self.plain_said, plain);
        add(&mut self.spliced, &mut self.spliced_said, spliced);
    }
}

/// The tests that ended differently.
pub fn differences(plain: &Outcomes, spliced: &Outcomes) -> Vec<Difference> {
    let names: BTreeSet<&str> = plain.names().chain(spliced.names()).collect();
    let differs = |test: &&str| plain.verdict(test) != spliced.verdict(test);
    let difference = |test: &str| Difference {
        test: test.to_owned(),
        plain: vec![plain.verdict(test)],
        spliced: vec![spliced.verdict(test)],
        plain_said: plain.said(test).to_owned(),
        spliced_said: spliced.said(test).to_owned(),
    };
    names.into_iter().filter(differs).map(difference).collect()
}

/// `pass ×3, fail ×1`.
pub fn in_words(verdicts: &[Verdict]) -> String {
    let kinds: BTreeSet<_> = verdicts.iter().copied().collect();
    let count = |kind: Verdict| verdicts.iter().filter(|&&verdict| verdict == kind).count();
    let words = kinds
        .into_iter()
        .map(|kind| format!("{} ×{}", kind.word(), count(kind)));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(list: &[(&str, Verdict)]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for (test, verdict) in list {
            outcomes.add(test, *verdict, "");
        }
        outcomes
    }

    #[test]
    fn a_test_that_fails_both_ways_is_no_difference() {
        let plain = outcomes(&[
            ("a", Verdict::Fail),
            ("b", Verdict::Pass),
            ("c", Verdict::Pass),
        ]);
        let spliced = outcomes(&[("a", Verdict::Fail), ("b", Verdict::Skip)]);
        let found = differences(&plain, &spliced);
        let names: Vec<_> = found.iter().map(|d| d.test.as_str()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(found[1].spliced, [Verdict::Absent]);
    }

    #[test]
    fn what_plain_tcp_does_too_is_chance() {
        let plain = outcomes(&[("a", Verdict::Pass)]);
        let spliced = outcomes(&[("a", Verdict::Fail)]);
        let mut difference = differences(&plain, &spliced).remove(0);
        difference.again(&plain, &plain);
        assert!(!difference.flaky() && !difference.clear());
        assert_eq!(in_words(&difference.spliced), "pass ×1, fail ×1");
        difference.again(&spliced, &plain);
        assert!(difference.flaky());
    }

    #[test]
    fn three_times_each_way_is_no_chance() {
        let plain = outcomes(&[("a", Verdict::Pass)]);
        let spliced = outcomes(&[("a", Verdict::Hang)]);
        let mut difference = differences(&plain, &spliced).remove(0);
        difference.again(&plain, &spliced);
        assert!(!difference.clear());
        difference.again(&plain, &spliced);
        assert!(difference.clear());
    }
}
