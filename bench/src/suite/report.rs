// SPDX-License-Identifier: GPL-2.0-only
//! Tables for people.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::cell::{Cell, counted};
use super::chart;
use super::results::{Figures, Results, Times};
use super::way::Way;
use crate::place::Place;
use crate::stats::{Summary, short};

/// Writes suite.txt, suite.md and suite.svg into `directory` and prints the text.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    let text = text(results, Form::Text)?;
    let markdown = self::text(results, Form::Markdown)?;
    for (name, text) in [("suite.txt", &text), ("suite.md", &markdown)] {
        let file = directory.join(name);
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
    }
    chart::draw(results, &directory.join("suite.svg"))?;
    print!("{text}");
    Ok(())
}

/// What the report is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For a terminal.
    Text,
    /// For documents.
    Markdown,
}

impl Form {
    fn title(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::Markdown => {
                "<!-- SPDX-License-Identifier: GPL-2.0-only -->\n# What `tcp-splice-bench suite` measured\n\n\
                 *No spinning*: `spin_us=0`. *Polled*: a policy with `--busy-poll-us 50`.\n\n"
            }
        }
    }

    fn heading(self, text: &str) -> String {
        match self {
            Self::Text => format!("\n{text}\n"),
            Self::Markdown => format!("\n## {}{}\n\n", &text[..1].to_uppercase(), &text[1..]),
        }
    }

    /// A line among several.
    fn item(self, text: &str) -> String {
        match self {
            Self::Text => format!("  {text}\n"),
            Self::Markdown => format!("- {text}\n"),
        }
    }

    /// A line of the head.
    fn line(self, text: &str) -> String {
        match self {
            Self::Text => format!("{text}\n"),
            Self::Markdown => self.item(text),
        }
    }

    fn preset(self) -> &'static str {
        match self {
            Self::Text => UTF8_FULL_CONDENSED,
            Self::Markdown => ASCII_MARKDOWN,
        }
    }
}

/// Cells that stand in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    RoundTrips,
    Streams,
    Programs,
}

impl Kind {
    const ALL: [Self; 3] = [Self::RoundTrips, Self::Streams, Self::Programs];

    fn of(cell: Cell) -> Self {
        match cell {
            Cell::RoundTrip { .. } => Self::RoundTrips,
            Cell::Stream { .. } => Self::Streams,
            Cell::Program { .. } => Self::Programs,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::RoundTrips => "round trips",
            Self::Streams => "streams",
            Self::Programs => "programs (clients)",
        }
    }

    /// What a figure of processor time is of.
    fn unit(self) -> &'static str {
        match self {
            Self::RoundTrips => "µs of a round trip",
            Self::Streams => "ns of a KiB",
            Self::Programs => "µs of a request, clients and their start included",
        }
    }

    /// Processor time in that unit.
    fn cpu(self, figures: &Figures) -> Option<f64> {
        let (seconds, each) = match self {
            Self::Streams => (figures.cpu_seconds * 1e9, figures.bytes as f64 / 1024.0),
            _ => (figures.cpu_seconds * 1e6, figures.operations as f64),
        };
        (each > 0.0).then_some(seconds / each)
    }
}

fn text(results: &Results, form: Form) -> Result<String> {
    let mut text = form.title().to_owned();
    text += &form.line(&results.machine.line());
    if !results.host.is_empty() {
        text += &form.line(&results.host);
    }
    text += &form.line(&format!(
        "ring of {} KiB; {} in one boot, in each of which every way has its turn; medians. A factor is of plain TCP of its round, with the least and the most of all rounds.",
        results.machine.ring_kbytes,
        counted(results.rounds() as usize, "round")
    ));
    for line in &results.checks {
        text += &form.line(&format!("checked: {line}"));
    }
    for line in &results.left_out {
        text += &form.line(&format!("left out: {line}"));
    }
    for place in Place::ALL {
        for kind in Kind::ALL {
            text += &of_kind(results, place, kind, form)?;
        }
    }
    text += &targets(results, form);
    for against in [Way::Plain, Way::Unix, Way::Pipe] {
        text += &compared(results, against, form);
    }
    Ok(text)
}

/// The tables of one kind at one place.
fn of_kind(results: &Results, place: Place, kind: Kind, form: Form) -> Result<String> {
    let mut cells = results.cells(place);
    cells.retain(|cell| Kind::of(*cell) == kind);
    let mut text = String::new();
    let Some(first) = cells.first() else {
        return Ok(text);
    };
    // Not every program can go every way.
    let has = |way: &Way| cells.iter().any(|cell| cell.ways(place).contains(way));
    let ways: Vec<_> = Way::ALL.into_iter().filter(has).collect();
    let (unit, name) = (first.unit(), kind.name());
    let mut put = |heading: &str, table: Table| -> Result<()> {
        text += &form.heading(heading);
        writeln!(text, "{table}")?;
        Ok(())
    };
    let rate = |cell, way| rate(results, place, cell, way);
    put(
        &format!("{place}, {name}: {unit}, and factors of it"),
        table(&cells, &ways, form, rate),
    )?;
    let times = |cell, way| times(results, place, cell, way);
    if cells
        .iter()
        .any(|cell| !times(*cell, Way::Plain).is_empty())
    {
        put(
            &format!("{place}, {name}: µs, p50 / p99 / p99.9"),
            table(&cells, &ways, form, times),
        )?;
    }
    let cpu = |cell, way| {
        let summary = results.summary(place, cell, way, |figures| kind.cpu(figures));
        summary.map_or_else(String::new, |summary| short(summary.median))
    };
    put(
        &format!(
            "{place}, {name}: processor time of all ends, {}",
            kind.unit()
        ),
        table(&cells, &ways, form, cpu),
    )?;
    Ok(text)
}

fn table(cells: &[Cell], ways: &[Way], form: Form, entry: impl Fn(Cell, Way) -> String) -> Table {
    let mut table = Table::new();
    table.load_preset(form.preset());
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([""].into_iter().chain(ways.iter().map(|way| way.name())));
    for cell in cells {
        let entries = ways.iter().map(|way| entry(*cell, *way));
        table.add_row([cell.to_string()].into_iter().chain(entries));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Plain TCP's rate and how far its rounds are from it at most, and the others' factors.
fn rate(results: &Results, place: Place, cell: Cell, way: Way) -> String {
    if way == Way::Plain {
        let summary = results.summary(place, cell, way, |figures| Some(figures.rate));
        return summary.map_or_else(String::new, |Summary { median, min, max }| {
            let apart = (max - median).max(median - min) / median;
            format!("{} ±{:.0}%", short(median), 100.0 * apart)
        });
    }
    let factor = results.factor(place, cell, way, Way::Plain);
    factor.map_or_else(String::new, |Summary { median, min, max }| {
        let mark = match cell.wanted(way) {
            None => "",
            Some(wanted) if median >= wanted => " ✓",
            Some(_) => " ✗",
        };
        format!("{} ({}..{}){mark}", short(median), short(min), short(max))
    })
}

/// Which factors are what this project wants.
fn targets(results: &Results, form: Form) -> String {
    let (mut all, mut missed) = (0, String::new());
    for place in Place::ALL {
        for cell in results.cells(place) {
            for way in cell.ways(place) {
                let factor = results.factor(place, cell, way, Way::Plain);
                let (Some(wanted), Some(factor)) = (cell.wanted(way), factor) else {
                    continue;
                };
                all += 1;
                if factor.median < wanted {
                    let factor = short(factor.median);
                    let line = format!("{}: {cell}, {way}: {factor} of {wanted}", place.name());
                    missed += &form.item(&line);
                }
            }
        }
    }
    let met = all - missed.lines().count();
    form.heading(&format!("targets (✓ met, ✗ missed): {met} of {all} met")) + &missed
}

fn times(results: &Results, place: Place, cell: Cell, way: Way) -> String {
    let of = |value: fn(&Times) -> Option<f64>| {
        let value = |figures: &Figures| value(figures.times.as_ref()?);
        let summary = results.summary(place, cell, way, value);
        summary.map(|summary| short(summary.median))
    };
    let p50 = of(|times| Some(times.p50));
    let (p99, p999) = (of(|times| Some(times.p99)), of(|times| times.p999));
    let known: Vec<_> = [p50, p99, p999].into_iter().flatten().collect();
    known.join(" / ")
}

/// Where spliced connections are slower than something else.
fn compared(results: &Results, against: Way, form: Form) -> String {
    let mut text = String::new();
    for way in [Way::Spliced, Way::NoSpin] {
        let (mut all, mut slower) = (0, Vec::new());
        for place in Place::ALL {
            for cell in results.cells(place) {
                let Some(factor) = results.factor(place, cell, way, against) else {
                    continue;
                };
                all += 1;
                if factor.median < 1.0 {
                    let factor = short(factor.median);
                    slower.push(format!("{}: {cell}: {factor}", place.name()));
                }
            }
        }
        if all > 0 {
            let well = all - slower.len();
            text += &form.heading(&format!(
                "{way}: not slower than {against} in {well} of {all} cells"
            ));
        }
        text.extend(slower.iter().map(|line| form.item(line)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::results::tests::example;

    #[test]
    fn tables_have_what_was_measured() {
        let text = text(&example(), Form::Text).unwrap();
        assert!(text.contains("host: idle"), "{text}");
        assert!(text.contains("100 ±100%"), "{text}");
        assert!(text.contains("2.50 (2.00..2.60)"), "{text}");
        // Half a second for a thousand round trips, and for a MiB.
        assert!(text.contains("µs of a round trip"), "{text}");
        assert_eq!(text.matches(" 500 ").count(), 3, "{text}");
        assert!(text.contains("488,281"), "{text}");
        assert!(text.contains("10,000 / 20,000"), "{text}");
    }

    #[test]
    fn markdown_has_headings_and_tables() {
        let text = text(&example(), Form::Markdown).unwrap();
        assert!(text.contains("\n## Loopback, streams: MB/s"), "{text}");
        assert!(text.contains("| round trip 64 B, 1 pair |"), "{text}");
        assert!(text.contains("\n- host: idle\n"), "{text}");
        assert!(!text.contains('┆'), "{text}");
    }

    #[test]
    fn what_is_missed_is_named() {
        let mut results = example();
        assert!(targets(&results, Form::Text).contains("0 of 0 met"));
        for sample in &mut results.samples {
            sample.cell = Cell::RoundTrip { size: 1, pairs: 1 };
        }
        let text = text(&results, Form::Text).unwrap();
        assert!(text.contains("2.50 (2.00..2.60) ✗"), "{text}");
        let missed = "0 of 1 met\n  loopback: round trip 1 B, 1 pair, spliced: 2.50 of 8\n";
        assert!(text.contains(missed), "{text}");
    }

    #[test]
    fn who_is_slower_is_named() {
        let text = text(&example(), Form::Text).unwrap();
        assert!(text.contains("spliced: not slower than plain TCP in 2 of 2 cells"));
        assert!(text.contains("spliced: not slower than AF_UNIX in 2 of 2 cells"));
        let mut results = example();
        for sample in &mut results.samples {
            if sample.way == Way::Unix {
                sample.figures.rate *= 2.0;
            }
        }
        let text = super::text(&results, Form::Text).unwrap();
        assert!(
            text.contains("AF_UNIX in 0 of 2 cells\n  loopback: round trip 64 B, 1 pair: 0.52"),
            "{text}"
        );
    }
}
