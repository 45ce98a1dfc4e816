// SPDX-License-Identifier: GPL-2.0-only
//! The figures as a reader sees them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use super::figures::{Cell, Figures};

/// A table, with the machine above it and beside each spliced figure how it stands to the baseline's.
pub fn of(figures: &Figures, baseline: Option<&Figures>) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "instructions of one",
        "plain",
        "spliced",
        "AF_UNIX",
        "plain / spliced",
        "kept",
        "change",
    ]);
    for cell in &figures.cells {
        let kept = baseline.and_then(|kept| kept.cell(&cell.operation));
        table.add_row(row(cell, kept));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let machine = &figures.machine;
    format!(
        "Linux {}, one CPU, ring of {} KiB, QEMU {} TCG\n\
         Both ends and the kernel; behind the +, further turns of repeated string instructions (copying, clearing)\n{table}",
        machine.kernel, machine.ring_kbytes, machine.qemu
    )
}

fn row(cell: &Cell, kept: Option<&Cell>) -> Vec<String> {
    let count = |value: f64| format!("{value:.0}");
    let (plain, spliced) = (cell.plain.median, cell.spliced.median);
    let kept = kept.map(|kept| kept.spliced.median);
    vec![
        cell.operation.clone(),
        cell.plain.to_string(),
        cell.spliced.to_string(),
        cell.unix.to_string(),
        format!("{:.2}", plain / spliced),
        kept.map_or_else(|| "-".to_owned(), count),
        kept.map_or_else(
            || "-".to_owned(),
            |kept| format!("{:+.1} %", (spliced / kept - 1.0) * 100.0),
        ),
    ]
}
