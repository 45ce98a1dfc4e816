// SPDX-License-Identifier: GPL-2.0-only
//! Results as KTAP: one line for each case on each link, and below a failed one where the two traces differ.

use std::io::Write;

use crate::case::Known;
use crate::trace::{FAULT, TIME};

/// How many lines of each trace are shown at most, and how many equal ones before the first difference.
const SHOWN: usize = 16;
const BEFORE: usize = 3;

/// The two traces of a case.
#[derive(Debug)]
pub struct Traces {
    /// Over plain TCP.
    pub plain: Vec<String>,
    /// Spliced, or over plain TCP once more.
    pub other: Vec<String>,
}

impl Traces {
    /// True when both runs saw the same but for the differences in `known`, all of which are there, and neither was worth nothing.
    pub fn agree(&self, known: &[Known]) -> bool {
        let (plain, other) = (&self.plain, &self.other);
        let fault = |lines: &[String]| lines.iter().any(|line| line.starts_with(FAULT));
        let pairs = || plain.iter().zip(other);
        let seen = |(a, b): &Known| pairs().any(|(plain, other)| plain == a && other == b);
        let fine = |(plain, other): (&String, &String)| {
            plain == other || known.iter().any(|(a, b)| plain == a && other == b)
        };
        let whole = plain.len() == other.len() && !plain.is_empty();
        whole && !fault(plain) && !fault(other) && pairs().all(fine) && known.iter().all(seen)
    }

    /// True when nothing differs but times.
    pub fn only_times(&self) -> bool {
        let (plain, other) = (&self.plain, &self.other);
        let fine = |(plain, other): (&String, &String)| plain == other || plain.starts_with(TIME);
        plain.len() == other.len() && plain != other && plain.iter().zip(other).all(fine)
    }

    /// The lines to read when they do not agree; `label` names the other run.
    pub fn difference(&self, label: &str) -> Vec<String> {
        let (plain, other) = (&self.plain, &self.other);
        let same = plain.iter().zip(other).take_while(|(a, b)| a == b).count();
        let (plain_rest, other_rest) = (&plain[same..], &other[same..]);
        let mut lines = Vec::new();
        show(
            &mut lines,
            "both:",
            &plain[same.saturating_sub(BEFORE)..same],
        );
        let label = format!("{label}:");
        if plain.len() == other.len() {
            // Each line stands for the same call: only those that differ.
            let pairs = plain_rest.iter().zip(other_rest).filter(|(a, b)| a != b);
            for (plain, other) in pairs.take(SHOWN) {
                show(&mut lines, "plain:", std::slice::from_ref(plain));
                show(&mut lines, &label, std::slice::from_ref(other));
            }
            return lines;
        }
        let reversed = plain_rest.iter().rev().zip(other_rest.iter().rev());
        let tail = reversed.take_while(|(a, b)| a == b).count();
        show(&mut lines, "plain:", &plain_rest[..plain_rest.len() - tail]);
        show(&mut lines, &label, &other_rest[..other_rest.len() - tail]);
        lines
    }
}

/// Adds part of a trace, cut if it is long.
fn show(lines: &mut Vec<String>, name: &str, part: &[String]) {
    let text = part.iter().take(SHOWN);
    lines.extend(text.map(|line| format!("# {name:9}{line}")));
    let cut = part.len().saturating_sub(SHOWN);
    if cut > 0 {
        lines.push(format!("# {name:9}({cut} more lines)"));
    }
}

/// Writes the results and counts them.
#[derive(Debug, Default)]
pub struct Report {
    passed: usize,
    failed: usize,
}

impl Report {
    /// Begins a report on `count` results.
    pub fn begin(count: usize) -> Self {
        println!("KTAP version 1\n1..{count}");
        Self::default()
    }

    /// One result, with the lines to read when it is a failure.
    pub fn result(&mut self, name: &str, good: bool, lines: &[String]) {
        let number = self.passed + self.failed + 1;
        if good {
            self.passed += 1;
            println!("ok {number} {name}");
        } else {
            self.failed += 1;
            println!("not ok {number} {name}");
            lines.iter().for_each(|line| println!("{line}"));
        }
        let _ = std::io::stdout().flush();
    }

    /// Ends the report; true when nothing failed.
    pub fn end(self) -> bool {
        println!("# {} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(plain: &[&str], other: &[&str]) -> Traces {
        let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        Traces {
            plain: own(plain),
            other: own(other),
        }
    }

    #[test]
    fn only_equal_traces_without_faults_agree() {
        assert!(traces(&["a: 1"], &["a: 1"]).agree(&[]));
        assert!(!traces(&["a: 1"], &["a: 2"]).agree(&[]));
        assert!(!traces(&["a: 1"], &["a: 1", "b: 1"]).agree(&[]));
        assert!(!traces(&["! hung"], &["! hung"]).agree(&[]));
        assert!(!traces(&[], &[]).agree(&[]));
    }

    #[test]
    fn times_may_differ_by_chance() {
        assert!(traces(&["a", "~ b: in time"], &["a", "~ b: too late"]).only_times());
        assert!(!traces(&["a", "~ b: in time"], &["c", "~ b: too late"]).only_times());
        assert!(!traces(&["a"], &["a"]).only_times());
    }

    #[test]
    fn known_differences_have_to_be_there_and_be_the_only_ones() {
        let known: &[Known] = &[("a: 1", "a: 2")];
        assert!(traces(&["a: 1", "b"], &["a: 2", "b"]).agree(known));
        assert!(!traces(&["a: 1", "b"], &["a: 1", "b"]).agree(known));
        assert!(!traces(&["a: 1", "b"], &["a: 3", "b"]).agree(known));
        assert!(!traces(&["a: 1", "b"], &["a: 2", "c"]).agree(known));
    }

    #[test]
    fn the_difference_is_shown_with_what_came_before() {
        let traces = traces(&["a", "b", "c", "z"], &["a", "b", "d", "e", "z"]);
        let lines = traces.difference("spliced");
        let want = [
            "# both:    a",
            "# both:    b",
            "# plain:   c",
            "# spliced: d",
            "# spliced: e",
        ];
        assert_eq!(lines, want);
    }

    #[test]
    fn of_traces_of_one_length_only_lines_that_differ_are_shown() {
        let lines = traces(&["a", "b", "c"], &["x", "b", "y"]).difference("spliced");
        let want = [
            "# plain:   a",
            "# spliced: x",
            "# plain:   c",
            "# spliced: y",
        ];
        assert_eq!(lines, want);
    }
}
