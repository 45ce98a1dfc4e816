// SPDX-License-Identifier: GPL-2.0-only
//! Programs that print KTAP: those of the kernel's selftests that have a harness.

use anyhow::Result;

use crate::outcome::{Outcomes, Verdict};
use crate::process::Running;
use crate::suite::Place;

/// What is said of a program that does not get to its results.
const WHOLE: &str = "(the whole program)";

/// Runs `argv`, or of its tests those in `only`.
pub fn run(argv: &[&str], only: Option<&[String]>, place: &Place) -> Result<Outcomes> {
    let argv = chosen(argv, only);
    let running = Running::start(&argv, &place.directory, &place.log)?;
    let ended = running.wait(place.deadline, argv[0])?;
    let mut outcomes = read(&ended.output);
    if ended.status.is_none() {
        outcomes.add(WHOLE, Verdict::Hang, "");
    } else if outcomes.len() == 0 {
        outcomes.add(WHOLE, Verdict::Crash, &ended.output);
    }
    Ok(outcomes)
}

/// The harness takes names of single tests after `-r`.
fn chosen<'a>(argv: &[&'a str], only: Option<&'a [String]>) -> Vec<&'a str> {
    match only {
        Some(tests) if !tests.iter().any(|test| test == WHOLE) => {
            let single = tests.iter().flat_map(|test| ["-r", test]);
            [argv[0]].into_iter().chain(single).collect()
        }
        _ => argv.to_vec(),
    }
}

/// The results in KTAP; comments before a result belong to it.
fn read(text: &str) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let mut comments = String::new();
    for line in text.lines() {
        let Some((verdict, name, reason)) = result(line.trim()) else {
            comments.push_str(line);
            comments.push('\n');
            continue;
        };
        let said = if reason.is_empty() { &comments } else { reason };
        outcomes.add(name, verdict, said);
        comments.clear();
    }
    outcomes
}

/// `ok 1 name`, `ok 1 name # SKIP reason`, `not ok 1 name`.
fn result(line: &str) -> Option<(Verdict, &str, &str)> {
    let (good, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, name) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let name = name.trim_start_matches("- ");
    let (name, directive) = name.split_once(" # ").unwrap_or((name, ""));
    let reason = directive.strip_prefix("SKIP").unwrap_or("").trim();
    let verdict = match (directive.starts_with("SKIP"), good) {
        (true, _) => Verdict::Skip,
        (false, true) => Verdict::Pass,
        (false, false) => Verdict::Fail,
    };
    Some((verdict, name.trim(), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ktap_of_the_harness() {
        let text = "TAP version 13\n1..3\n#  RUN  tls.12_gcm.sendfile ...\n#  OK\nok 1 tls.12_gcm.sendfile\n\
            # tls.c:5:peek:Expected 1\nnot ok 2 tls.12_gcm.peek\n\
            ok 3 tls_err.bad_auth # SKIP no TLS\n# PASSED: 2 / 3 tests passed.\n";
        let outcomes = read(text);
        assert_eq!(outcomes.len(), 3);
        assert_eq!(outcomes.verdict("tls.12_gcm.sendfile"), Verdict::Pass);
        assert_eq!(outcomes.verdict("tls.12_gcm.peek"), Verdict::Fail);
        assert_eq!(
            outcomes.said("tls.12_gcm.peek"),
            "# tls.c:5:peek:Expected 1"
        );
        assert_eq!(outcomes.verdict("tls_err.bad_auth"), Verdict::Skip);
        assert_eq!(outcomes.said("tls_err.bad_auth"), "no TLS");
    }

    #[test]
    fn single_tests_are_run_again() {
        let names = |name: &str| [name.to_owned()];
        let argv = ["tls", "-V", "13_chacha"];
        assert_eq!(chosen(&argv, None), argv);
        assert_eq!(
            chosen(&argv, Some(&names("tls.12_aes_gcm.peek"))),
            ["tls", "-r", "tls.12_aes_gcm.peek"]
        );
        assert_eq!(chosen(&argv, Some(&names(WHOLE))), argv);
    }

    #[test]
    fn prose_is_no_result() {
        assert!(result("ok then").is_none());
        assert!(result("1..3").is_none());
    }
}
