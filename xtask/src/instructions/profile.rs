// SPDX-License-Identifier: GPL-2.0-only
//! In which functions the instructions of an operation are, and where it takes more of them than the first case of the same operation. And which
//! functions are the first to touch how many pages after a change of the address space.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};

use super::windows::{Listed, Windows};

/// Something of one operation by function.
type Functions = BTreeMap<String, f64>;

/// What of an operation is listed: the plugin's word and ours for it, the least of a function, and of a difference, that is listed, and how many
/// digits it has behind the point.
struct Subject {
    word: &'static str,
    name: &'static str,
    least: f64,
    digits: usize,
}

const SUBJECTS: [Subject; 3] = [
    Subject {
        word: "instructions",
        name: "instructions",
        least: 5.0,
        digits: 0,
    },
    Subject {
        word: "code",
        name: "pages of code after a change of the address space",
        least: 0.2,
        digits: 1,
    },
    Subject {
        word: "data",
        name: "pages of data after a change of the address space",
        least: 0.2,
        digits: 1,
    },
];

/// One for each subject.
type Each = [Functions; SUBJECTS.len()];

/// Addresses below are programs.
const KERNEL: u64 = 1 << 63;

/// A list for each figure: `windows` is the guest's list of windows, `places` the plugin's profile, `symbols` the guest's /proc/kallsyms.
///
/// # Errors
/// When they cannot be understood or do not fit together.
pub fn of(windows: &str, places: &str, symbols: &str) -> Result<String> {
    let symbols = Symbols::parse(symbols);
    let windows = Windows::parse(windows)?;
    let kept = windows.text.as_deref().map(address).transpose()?;
    let mut each = places.split("window\n").skip(1);
    let mut text = String::new();
    let mut first = (String::new(), Each::default());
    for Listed {
        cell,
        way,
        windows,
        operations,
        text: loaded,
    } in windows.figures
    {
        let loaded = loaded.as_deref().map(address).transpose()?;
        let symbols = symbols.when_loaded_at(loaded, kept);
        let of_window = |window| functions(window, operations, &symbols);
        let all: Vec<_> = each
            .by_ref()
            .take(windows)
            .map(of_window)
            .collect::<Result<_>>()?;
        let functions = median(&all).context("failed to find all windows in the profile")?;
        if first.0 != cell {
            first = (cell.clone(), functions.clone());
        }
        for ((subject, of), first) in SUBJECTS.iter().zip(&functions).zip(&first.1) {
            writeln!(
                text,
                "{cell}, {way}: {}, more than in the first case, function",
                subject.name
            )?;
            text += &list(subject, of, first);
        }
    }
    Ok(text)
}

/// As sysfs writes it.
fn address(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .with_context(|| format!("failed to parse the address {text:?}"))
}

/// What follows the name of the module's functions.
const MODULE: &str = "[tcp_splice]";

/// Where functions begin.
struct Symbols<'a>(BTreeMap<u64, &'a str>);

impl<'a> Symbols<'a> {
    fn parse(text: &'a str) -> Self {
        let parse = |line: &'a str| {
            let (address, rest) = line.split_once(' ')?;
            let (kind, name) = rest.split_once(' ')?;
            let is_code = matches!(kind, "t" | "T" | "w" | "W");
            is_code.then_some((u64::from_str_radix(address, 16).ok()?, name))
        };
        Self(text.lines().filter_map(parse).collect())
    }

    /// The same with the module's code at `loaded` instead of `kept`; without it, if it was not loaded.
    fn when_loaded_at(&self, loaded: Option<u64>, kept: Option<u64>) -> Self {
        let moved = loaded
            .zip(kept)
            .map(|(loaded, kept)| loaded.wrapping_sub(kept));
        let place = |(address, name): (&u64, &&'a str)| {
            let moved = if name.ends_with(MODULE) { moved? } else { 0 };
            Some((address.wrapping_add(moved), *name))
        };
        Self(self.0.iter().filter_map(place).collect())
    }

    fn name(&self, address: u64) -> &'a str {
        if address < KERNEL {
            return "(programs)";
        }
        let found = self.0.range(..=address).next_back();
        found.map_or("(unknown)", |(_, name)| name)
    }
}

fn functions(window: &str, operations: u64, symbols: &Symbols) -> Result<Each> {
    let mut functions = Each::default();
    for line in window.lines() {
        let mut parse = || {
            let mut words = line.split(' ');
            let word = words.next()?;
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let count: u64 = words.next()?.parse().ok()?;
            let which = SUBJECTS.iter().position(|subject| subject.word == word)?;
            let of = functions.get_mut(which)?;
            *of.entry(symbols.name(address).to_owned()).or_default() +=
                count as f64 / operations as f64;
            Some(())
        };
        parse().with_context(|| format!("failed to parse {line:?}"))?;
    }
    Ok(functions)
}

/// Of each function.
fn median(windows: &[Each]) -> Option<Each> {
    let of_subject = |which: usize| {
        let of: Vec<_> = windows.iter().filter_map(|of| of.get(which)).collect();
        let names = of.iter().flat_map(|of| of.keys());
        let median = |name: &String| {
            let mut values: Vec<f64> = of
                .iter()
                .map(|of| of.get(name).copied().unwrap_or_default())
                .collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        names.map(|name| (name.clone(), median(name))).collect()
    };
    (!windows.is_empty()).then(|| std::array::from_fn(of_subject))
}

/// The sum, and then functions, of which those that differ most come first.
fn list(subject: &Subject, functions: &Functions, first: &Functions) -> String {
    let (least, digits) = (subject.least, subject.digits);
    let names = functions.keys().chain(first.keys());
    let of = |functions: &Functions, name| functions.get(name).copied().unwrap_or_default();
    let mut rows: Vec<_> = names
        .map(|name| {
            (
                of(functions, name) - of(first, name),
                of(functions, name),
                name,
            )
        })
        .filter(|(more, count, _)| *count >= least || more.abs() >= least)
        .collect();
    rows.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then(b.1.total_cmp(&a.1))
            .then(a.2.cmp(b.2))
    });
    rows.dedup();
    let line = |count: f64, more: f64, name: &str| {
        format!("{count:10.digits$} {more:+8.digits$}  {name}\n")
    };
    let (all, all_first) = (sum(functions), sum(first));
    let lines = rows.iter();
    line(all, all - all_first, "(all)")
        + &lines
            .map(|(more, count, name)| line(*count, *more, name))
            .collect::<String>()
}

fn sum(functions: &Functions) -> f64 {
    functions.values().fold(0.0, |sum, of| sum + of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: &str = r#"{"machine": {"kernel": "k", "ring_kbytes": "64"}, "figures": [
        {"cell": "c", "way": "a", "windows": 1, "operations": 2},
        {"cell": "c", "way": "b", "windows": 1, "operations": 2}]}"#;
    /// The module's code was elsewhere in the first case, and the symbols are of a third time.
    const MOVED: &str = r#"{"machine": {"kernel": "k", "ring_kbytes": "64"}, "text": "0xffffffffc0004000", "figures": [
        {"cell": "c", "way": "a", "windows": 1, "operations": 1, "text": "0xffffffffc0001000"},
        {"cell": "c", "way": "b", "windows": 1, "operations": 1, "text": "0xffffffffc0002000"}]}"#;
    const SYMBOLS: &str =
        "ffffffff81000000 T one\nffffffff81000100 t two\nffffffff81000180 d data\n";

    #[test]
    fn functions_are_compared_with_the_first_case() -> Result<()> {
        let places = "\
window
instructions ffffffff81000010 40
instructions 401000 20
window
instructions ffffffff81000020 40
instructions ffffffff810001ff 60
instructions 401000 20
data ffffffff81000020 3
";
        let text = of(WINDOWS, places, SYMBOLS)?;
        let lists: Vec<_> = text.split("c, b").skip(1).collect();
        let lines = |which: usize| -> Vec<Vec<&str>> {
            let lines = lists.get(which).into_iter().flat_map(|list| list.lines());
            lines
                .skip(1)
                .map(|line| line.split_whitespace().collect())
                .collect()
        };
        let want = [
            ["60", "+30", "(all)"],
            ["30", "+30", "two"],
            ["20", "+0", "one"],
            ["10", "+0", "(programs)"],
        ];
        assert_eq!(lines(0), want);
        assert_eq!(lines(1), [["0.0", "+0.0", "(all)"]]);
        assert_eq!(lines(2), [["1.5", "+1.5", "(all)"], ["1.5", "+1.5", "one"]]);
        Ok(())
    }

    #[test]
    fn the_module_may_be_loaded_anew() -> Result<()> {
        let symbols = format!(
            "{SYMBOLS}ffffffffc0004000 t first\t[tcp_splice]\nffffffffc0004100 t second\t[tcp_splice]\n"
        );
        let window = |address: &str| format!("window\ninstructions {address} 50\n");
        let places = window("ffffffffc0001010") + &window("ffffffffc0002110");
        let text = of(MOVED, &places, &symbols)?;
        let line = |name: &str| {
            let line = text.lines().find(|line| line.contains(name))?;
            Some(line.split_whitespace().take(2).collect::<Vec<_>>())
        };
        assert_eq!(line("first\t"), Some(vec!["50", "+0"]));
        assert_eq!(line("second\t"), Some(vec!["50", "+50"]));
        Ok(())
    }

    #[test]
    fn a_profile_that_is_too_short_is_refused() {
        for profile in ["code 1 1\n", "code x 1\nwindow\n", "x 1 1\nwindow\n"] {
            assert!(of(WINDOWS, &format!("window\n{profile}"), SYMBOLS).is_err());
        }
    }
}
