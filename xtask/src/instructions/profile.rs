// SPDX-License-Identifier: GPL-2.0-only
//! In which functions the instructions of an operation are, and where it takes more of them than the first case of the same operation.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};

use super::windows::{Listed, Windows};

/// Instructions of one operation by function.
type Functions = BTreeMap<String, f64>;

/// Functions that take fewer instructions, and differ by less, are left out.
const LEAST: f64 = 5.0;

/// Addresses below are programs.
const KERNEL: u64 = 1 << 63;

/// A list for each figure: `windows` is the guest's list of windows, `places` the plugin's profile, `symbols` the guest's /proc/kallsyms.
///
/// # Errors
/// When they cannot be understood or do not fit together.
pub fn of(windows: &str, places: &str, symbols: &str) -> Result<String> {
    let symbols = Symbols::parse(symbols);
    let mut each = places.split("window\n").skip(1);
    let mut text = String::new();
    let mut first = (String::new(), Functions::new());
    for Listed {
        cell,
        way,
        windows,
        operations,
    } in Windows::parse(windows)?.figures
    {
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
        writeln!(
            text,
            "{cell}, {way}: instructions, more than in the first case, function"
        )?;
        text += &list(&functions, &first.1);
    }
    Ok(text)
}

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

    fn name(&self, address: u64) -> &'a str {
        if address < KERNEL {
            return "(programs)";
        }
        let found = self.0.range(..=address).next_back();
        found.map_or("(unknown)", |(_, name)| name)
    }
}

fn functions(window: &str, operations: u64, symbols: &Symbols) -> Result<Functions> {
    let mut functions = Functions::new();
    for line in window.lines() {
        let parse = || {
            let (address, count) = line.split_once(' ')?;
            Some((
                u64::from_str_radix(address, 16).ok()?,
                count.parse::<u64>().ok()?,
            ))
        };
        let (address, count) = parse().with_context(|| format!("failed to parse {line:?}"))?;
        let name = symbols.name(address).to_owned();
        *functions.entry(name).or_default() += count as f64 / operations as f64;
    }
    Ok(functions)
}

/// Of each function.
fn median(windows: &[Functions]) -> Option<Functions> {
    let names = windows.iter().flat_map(|window| window.keys());
    let median = |name: &String| {
        let of = |window: &Functions| window.get(name).copied().unwrap_or_default();
        let mut values: Vec<f64> = windows.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    (!windows.is_empty()).then(|| names.map(|name| (name.clone(), median(name))).collect())
}

/// Where it differs most comes first.
fn list(functions: &Functions, first: &Functions) -> String {
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
        .filter(|(more, count, _)| *count >= LEAST || more.abs() >= LEAST)
        .collect();
    rows.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then(b.1.total_cmp(&a.1))
            .then(a.2.cmp(b.2))
    });
    rows.dedup();
    let lines = rows.iter();
    lines
        .map(|(more, count, name)| format!("{count:10.0} {more:+8.0}  {name}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: &str = r#"{"machine": {"kernel": "k", "ring_kbytes": "64"}, "figures": [
        {"cell": "c", "way": "a", "windows": 1, "operations": 2},
        {"cell": "c", "way": "b", "windows": 1, "operations": 2}]}"#;
    const SYMBOLS: &str =
        "ffffffff81000000 T one\nffffffff81000100 t two\nffffffff81000180 d data\n";

    #[test]
    fn functions_are_compared_with_the_first_case() -> Result<()> {
        let places = "window\nffffffff81000010 40\n401000 20\nwindow\nffffffff81000020 40\nffffffff810001ff 60\n401000 20\n";
        let text = of(WINDOWS, places, SYMBOLS)?;
        let second = text.split("c, b").nth(1).unwrap_or_default();
        let lines: Vec<Vec<&str>> = second
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        let want = [
            ["30", "+30", "two"],
            ["20", "+0", "one"],
            ["10", "+0", "(programs)"],
        ];
        assert_eq!(lines, want);
        Ok(())
    }

    #[test]
    fn a_profile_that_is_too_short_is_refused() {
        assert!(of(WINDOWS, "window\n1 1\n", SYMBOLS).is_err());
        assert!(of(WINDOWS, "window\nx 1\nwindow\n", SYMBOLS).is_err());
    }
}
