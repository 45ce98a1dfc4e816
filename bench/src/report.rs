// SPDX-License-Identifier: GPL-2.0-only
//! Tables for people.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use crate::cell::{Cell, Mode};
use crate::chart;
use crate::place::Place;
use crate::results::Results;
use crate::stats::{Summary, short};

/// Writes report.txt and chart.svg into `directory` and prints the report.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    let text = text(results)?;
    let file = directory.join("report.txt");
    fs::write(&file, &text).with_context(|| format!("failed to write {}", file.display()))?;
    chart::draw(results, &directory.join("chart.svg"))?;
    print!("{text}");
    Ok(())
}

fn text(results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}", results.machine.line())?;
    writeln!(
        text,
        "ring of {} KiB; {} rounds of plain, spliced, polled (50 µs) in one boot; medians with their spread",
        results.machine.ring_kbytes,
        results.rounds()
    )?;
    for line in &results.checks {
        writeln!(text, "checked: {line}")?;
    }
    for place in Place::ALL {
        if !results.cells(place).is_empty() {
            writeln!(text, "\n{place}\n{}", table(results, place))?;
        }
    }
    writeln!(text, "\n{}", targets(results)?)?;
    Ok(text)
}

fn table(results: &Results, place: Place) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "",
        "unit",
        "plain TCP",
        "spliced",
        "factor",
        "polled",
        "factor",
    ]);
    for cell in results.cells(place) {
        let rate = |mode| {
            results
                .summary(place, cell, mode)
                .map(rate)
                .unwrap_or_default()
        };
        let factor = |mode| factor(results, place, cell, mode);
        table.add_row([
            cell.to_string(),
            cell.short_unit().to_owned(),
            rate(Mode::Plain),
            rate(Mode::Spliced),
            factor(Mode::Spliced),
            rate(Mode::Polled),
            factor(Mode::Polled),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The median, and how far the rounds lie from it at most.
fn rate(summary: Summary) -> String {
    let Summary { median, min, max } = summary;
    let apart = (max - median).max(median - min) / median;
    format!("{} ±{:.0}%", short(median), 100.0 * apart)
}

/// The factor with its spread, and whether it is what this project wants.
fn factor(results: &Results, place: Place, cell: Cell, mode: Mode) -> String {
    let Some(Summary { median, min, max }) = results.factor(place, cell, mode) else {
        return String::new();
    };
    let mark = match cell.target(mode) {
        None => "",
        Some(target) if median >= target => " ✓",
        Some(_) => " ✗",
    };
    format!("{} ({}..{}){mark}", short(median), short(min), short(max))
}

/// Which targets are met.
fn targets(results: &Results) -> Result<String> {
    let (mut met, mut missed) = (0, Vec::new());
    for place in Place::ALL {
        for cell in results.cells(place) {
            for mode in [Mode::Spliced, Mode::Polled] {
                let factor = results
                    .factor(place, cell, mode)
                    .map(|factor| factor.median);
                match (cell.target(mode), factor) {
                    (Some(target), Some(factor)) if factor < target => {
                        let name = place.name();
                        missed.push(format!(
                            "  {name}, {cell}, {mode}: {} of {target}",
                            short(factor)
                        ));
                    }
                    (Some(_), Some(_)) => met += 1,
                    _ => {}
                }
            }
        }
    }
    let all = met + missed.len();
    let mut text = format!("targets (✓ met, ✗ missed): {met} of {all} met\n");
    for line in missed {
        writeln!(text, "{line}")?;
    }
    write!(text, "{}", places_compared(results))?;
    Ok(text)
}

/// Between namespaces the factors are to be at least those of loopback.
fn places_compared(results: &Results) -> String {
    let (mut better, mut all) = (0, 0);
    for cell in results.cells(Place::Netns) {
        for mode in [Mode::Spliced, Mode::Polled] {
            let of = |place| results.factor(place, cell, mode);
            if let (Some(netns), Some(loopback)) = (of(Place::Netns), of(Place::Loopback)) {
                all += 1;
                better += usize::from(netns.median >= loopback.median);
            }
        }
    }
    format!("between namespaces the factor is at least that of loopback in {better} of {all} cells")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::example;

    #[test]
    fn says_what_is_met() {
        let text = text(&example()).unwrap();
        assert!(text.contains("2.60 (2.00..2.60) ✓"), "{text}");
        assert!(text.contains("1 of 1 met"), "{text}");
    }

    #[test]
    fn says_what_is_missed() {
        let mut results = example();
        let spliced = results
            .samples
            .iter_mut()
            .filter(|s| s.mode == Mode::Spliced);
        spliced.for_each(|sample| sample.rate /= 2.0);
        let text = text(&results).unwrap();
        assert!(
            text.contains("0 of 1 met\n  loopback, TCP_RR 1 B, spliced: 1.30 of 2.1"),
            "{text}"
        );
    }
}
