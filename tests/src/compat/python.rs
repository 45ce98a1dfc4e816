// SPDX-License-Identifier: GPL-2.0-only
//! CPython's own test modules, as Debian ships them.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::outcome::{Outcomes, Verdict};
use crate::process::Running;
use crate::suite::Place;

const RUNNER: &str = include_str!("runner.py");

/// Seconds for one test; the longest ones take a quarter of that in emulation.
const TEST_SECONDS: u32 = 120;

/// How often a module is begun again behind a test that hung or crashed.
const RESTARTS: usize = 8;

/// One line from the runner.
#[derive(Debug, Deserialize)]
struct Event {
    event: Kind,
    test: String,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Start,
    Pass,
    Fail,
    Skip,
}

/// Runs `module`, or of its tests only `only`.
pub fn run(module: &str, only: Option<&[String]>, place: &Place) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    for _ in 0..=RESTARTS {
        let done: Vec<String> = outcomes.names().map(str::to_owned).collect();
        let choice = match only {
            Some(tests) => ("only", left(tests, &done)),
            None => ("but", done),
        };
        if choice.0 == "only" && choice.1.is_empty() {
            break;
        }
        let (more, finished) = attempt(module, choice, place)?;
        let progress = more.len() > 0;
        outcomes.extend(more);
        if finished || !progress || Instant::now() > place.deadline {
            break;
        }
    }
    Ok(outcomes)
}

fn left(tests: &[String], done: &[String]) -> Vec<String> {
    let left = tests.iter().filter(|test| !done.contains(test));
    left.cloned().collect()
}

/// One process; true if it came to its end.
fn attempt(
    module: &str,
    (choice, names): (&str, Vec<String>),
    place: &Place,
) -> Result<(Outcomes, bool)> {
    let file = |name: &str| -> PathBuf { place.directory.join(name) };
    let (runner, events, list) = (
        file("runner.py"),
        place.log.with_extension("events"),
        file("names"),
    );
    let write = |path: &PathBuf, text: &str| {
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    };
    write(&runner, RUNNER)?;
    write(&events, "")?;
    write(&list, &names.join("\n"))?;
    let seconds = TEST_SECONDS.to_string();
    let words = [&runner, &events, &list].map(|path| path.to_string_lossy());
    let [runner, events_path, list] = &words;
    // The options that python3 -m test gives to itself.
    let mut argv = vec!["python3", "-u", "-W", "default", "-bb", "-E", runner];
    argv.extend([module, events_path, &seconds, choice, list]);
    let ended =
        Running::start(&argv, &place.directory, &place.log)?.wait(place.deadline, module)?;
    let text = fs::read_to_string(&events).context("failed to read the runner's events")?;
    let finished = ended.status.is_some_and(|status| status.success());
    let timed_out = ended.status.is_none() || ended.output.contains("Timeout (");
    let broken = match (finished, timed_out) {
        (true, _) => None,
        (false, true) => Some(Verdict::Hang),
        (false, false) => Some(Verdict::Crash),
    };
    Ok((read(&text, broken, &ended.output)?, finished))
}

/// The outcomes in the runner's events. The test during which it ended, if it did, gets the verdict `broken`.
fn read(events: &str, broken: Option<Verdict>, output: &str) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    let mut running = None;
    for line in events.lines() {
        let event: Event = serde_json::from_str(line)
            .with_context(|| format!("failed to parse the runner's event {line:?}"))?;
        let verdict = match event.event {
            Kind::Start => {
                running = Some(event.test);
                continue;
            }
            Kind::Pass => Verdict::Pass,
            Kind::Fail => Verdict::Fail,
            Kind::Skip => Verdict::Skip,
        };
        outcomes.add(&event.test, verdict, &event.detail);
        if running.as_ref() == Some(&event.test) {
            running = None;
        }
    }
    if let Some(verdict) = broken {
        let begin = output.rfind("Timeout (").unwrap_or_else(|| {
            let start = output.len().saturating_sub(4000);
            (start..output.len())
                .find(|&at| output.is_char_boundary(at))
                .unwrap_or(output.len())
        });
        let test = running.unwrap_or_else(|| "(outside of any test)".to_owned());
        outcomes.add(&test, verdict, &output[begin..]);
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = r#"{"event": "start", "test": "a", "detail": ""}
{"event": "pass", "test": "a", "detail": ""}
{"event": "skip", "test": "setUpClass (B)", "detail": "no"}
{"event": "start", "test": "c", "detail": ""}
"#;

    #[test]
    fn the_test_that_did_not_end_hung() {
        let outcomes = read(EVENTS, Some(Verdict::Hang), "noise\nTimeout (0:02:00)!\n").unwrap();
        assert_eq!(outcomes.verdict("a"), Verdict::Pass);
        assert_eq!(outcomes.verdict("setUpClass (B)"), Verdict::Skip);
        assert_eq!(outcomes.verdict("c"), Verdict::Hang);
        assert_eq!(outcomes.said("c"), "Timeout (0:02:00)!");
    }

    #[test]
    fn tests_that_are_done_are_not_run_again() {
        let names = |list: &[&str]| list.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        assert_eq!(left(&names(&["a", "b"]), &names(&["a"])), ["b"]);
    }
}
