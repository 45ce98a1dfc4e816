// SPDX-License-Identifier: GPL-2.0-only
//! The figures as a reader sees them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use super::figures::{Case, Cell, Figures, Group};

/// Tables, with the machine above it and beside each spliced figure how it stands to the baseline's.
pub fn of(figures: &Figures, baseline: Option<&Figures>) -> String {
    let machine = &figures.machine;
    let mut text = format!(
        "Linux {}, one CPU, ring of {} KiB, QEMU {} TCG\n\
         Both ends and the kernel; behind the +, further turns of repeated string instructions (copying, clearing)",
        machine.kernel, machine.ring_kbytes, machine.qemu
    );
    if !figures.cells.is_empty() {
        let rows = figures.cells.iter().map(|cell| {
            let kept = baseline.and_then(|kept| kept.cell(&cell.operation));
            row(cell, kept)
        });
        text += &format!("\n{}", table(&CELLS, rows));
    }
    for group in &figures.groups {
        text += &format!("\n{}", of_group(group, baseline));
    }
    text
}

const CELLS: [&str; 8] = [
    "instructions of one",
    "plain",
    "spliced",
    "AF_UNIX",
    "pipe",
    "plain / spliced",
    "kept",
    "change",
];

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn of_group(group: &Group, baseline: Option<&Figures>) -> Table {
    let header = [
        &group.operation,
        "instructions",
        "of the first",
        "kept",
        "change",
    ];
    let first = group.cases.first().map(|case| case.figure.median);
    let row = |case: &Case| {
        let kept = baseline.and_then(|kept| kept.case(&group.operation, &case.name));
        let [kept, change] = beside(case.figure.median, kept.map(|kept| kept.median));
        let factor = case.figure.median / first.unwrap_or(1.0);
        vec![
            case.name.clone(),
            case.figure.to_string(),
            format!("{factor:.3}"),
            kept,
            change,
        ]
    };
    table(&header, group.cases.iter().map(row))
}

/// The figure that is kept, and how far this one is from it.
fn beside(now: f64, kept: Option<f64>) -> [String; 2] {
    kept.map_or_else(
        || ["-".to_owned(), "-".to_owned()],
        |kept| {
            let change = (now / kept - 1.0) * 100.0;
            [format!("{kept:.0}"), format!("{change:+.1} %")]
        },
    )
}

fn row(cell: &Cell, kept: Option<&Cell>) -> Vec<String> {
    let (plain, spliced) = (cell.plain.median, cell.spliced.median);
    let [kept, change] = beside(spliced, kept.map(|kept| kept.spliced.median));
    vec![
        cell.operation.clone(),
        cell.plain.to_string(),
        cell.spliced.to_string(),
        cell.unix.to_string(),
        cell.pipe
            .as_ref()
            .map_or("-".to_owned(), ToString::to_string),
        format!("{:.2}", plain / spliced),
        kept,
        change,
    ]
}
