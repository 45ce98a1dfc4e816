// SPDX-License-Identifier: GPL-2.0-only
//! Figures beside those that are kept.

use anyhow::{Result, ensure};

use super::figures::{Cell, Figure, Figures};

/// How much more a spliced figure may be than the one kept.
const TOLERANCE: f64 = 0.03;

/// Fails when a spliced figure is worse than the one kept. Cells that were not counted are not missed.
///
/// # Errors
/// Names the figures that are worse.
pub fn judge(now: &Figures, kept: &Figures) -> Result<()> {
    let cells = both(now, kept)
        .map(|(now, kept)| (&now.operation, String::new(), &now.spliced, &kept.spliced));
    let worse: Vec<_> = cells
        .chain(cases(now, kept))
        .filter(|(.., now, kept)| is_worse(now, kept))
        .map(|(operation, case, now, kept)| format!("{operation}{case}: {now} instead of {kept}"))
        .collect();
    ensure!(
        worse.is_empty(),
        "spliced connections got more than {:.0} % worse than in the repository (--accept keeps the new figures): {}",
        TOLERANCE * 100.0,
        worse.join("; ")
    );
    Ok(())
}

/// What a reader of the comparison should know.
pub fn remarks(now: &Figures, kept: &Figures) -> Vec<String> {
    let mut remarks = Vec::new();
    if now.machine != kept.machine {
        remarks.push(format!(
            "The figures in the repository are of another machine (Linux {}, ring of {} KiB, QEMU {}), which moves them too.",
            kept.machine.kernel, kept.machine.ring_kbytes, kept.machine.qemu
        ));
    }
    let moved = |of: fn(&Cell) -> f64, far: fn(f64) -> bool| -> Vec<&str> {
        both(now, kept)
            .filter(|(now, kept)| far(change(of(now), of(kept))))
            .map(|(now, _)| now.operation.as_str())
            .collect()
    };
    let world = moved(|cell| cell.plain.median, |change| change.abs() > TOLERANCE);
    if !world.is_empty() {
        remarks.push(format!(
            "Plain TCP has moved too, so it is not only the module: {}.",
            world.join("; ")
        ));
    }
    let better = moved(|cell| cell.spliced.median, |change| change < -TOLERANCE);
    if !better.is_empty() {
        remarks.push(format!(
            "Better than in the repository (--accept keeps them): {}.",
            better.join("; ")
        ));
    }
    remarks
}

fn both<'a>(
    now: &'a Figures,
    kept: &'a Figures,
) -> impl Iterator<Item = (&'a Cell, &'a Cell)> + use<'a> {
    let cells = now.cells.iter();
    cells.filter_map(|cell| Some((cell, kept.cell(&cell.operation)?)))
}

/// The cases of all groups that the module has something to do with.
fn cases<'a>(
    now: &'a Figures,
    kept: &'a Figures,
) -> impl Iterator<Item = (&'a String, String, &'a Figure, &'a Figure)> + use<'a> {
    now.groups.iter().flat_map(move |group| {
        let cases = group.cases.iter();
        let cases = cases.filter(|case| !is_plain(&case.name));
        cases.filter_map(|case| {
            let kept = kept.case(&group.operation, &case.name)?;
            Some((
                &group.operation,
                format!(", {}", case.name),
                &case.figure,
                kept,
            ))
        })
    })
}

fn is_plain(case: &str) -> bool {
    case.starts_with("plain") || case == "module not loaded"
}

/// A turn too many is a copy or a cleared page too many.
fn is_worse(now: &Figure, kept: &Figure) -> bool {
    change(now.median, kept.median) > TOLERANCE || now.turns > kept.turns * (1.0 + TOLERANCE) + 1.0
}

fn change(now: f64, kept: f64) -> f64 {
    now / kept - 1.0
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Case, Group, Machine};
    use super::*;

    fn figures(qemu: &str, plain: f64, spliced: f64) -> Figures {
        let figure = |value: f64| Figure::of(vec![value], vec![0.0]);
        let cell = Cell {
            operation: "op".to_owned(),
            plain: figure(plain),
            spliced: figure(spliced),
            unix: figure(1.0),
            pipe: None,
        };
        let machine = Machine {
            kernel: "k".to_owned(),
            qemu: qemu.to_owned(),
            ring_kbytes: "64".to_owned(),
        };
        Figures::new(machine, vec![cell], Vec::new())
    }

    #[test]
    fn only_spliced_figures_that_got_worse_fail() {
        let kept = figures("9", 200.0, 100.0);
        assert!(judge(&figures("9", 200.0, 102.9), &kept).is_ok());
        assert!(judge(&figures("9", 300.0, 50.0), &kept).is_ok());
        let error = judge(&figures("9", 200.0, 104.0), &kept).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("op: 104 + 0 instead of 100 + 0")));
    }

    #[test]
    fn copying_more_is_worse() {
        let of = |turns: f64| Figure::of(vec![100.0], vec![turns]);
        assert!(is_worse(&of(1040.0), &of(1000.0)));
        assert!(!is_worse(&of(1020.0), &of(1000.0)));
        assert!(!is_worse(&of(0.5), &of(0.0)));
    }

    #[test]
    fn cases_without_the_module_are_not_judged() {
        let group = |value: f64| Group {
            operation: "op".to_owned(),
            cases: ["plain, 1 pair", "spliced, 1 pair"]
                .map(|name| Case {
                    name: name.to_owned(),
                    figure: Figure::of(vec![value], vec![0.0]),
                })
                .into(),
        };
        let (mut now, mut kept) = (figures("9", 1.0, 1.0), figures("9", 1.0, 1.0));
        (now.groups, kept.groups) = (vec![group(104.0)], vec![group(100.0)]);
        let error = judge(&now, &kept).map_err(|error| error.to_string());
        let text = error.err().unwrap_or_default();
        assert!(
            text.ends_with(": op, spliced, 1 pair: 104 + 0 instead of 100 + 0"),
            "{text}"
        );
    }

    #[test]
    fn a_cell_that_is_new_is_not_compared() {
        let mut kept = figures("9", 200.0, 1.0);
        kept.cells.clear();
        assert!(judge(&figures("9", 200.0, 104.0), &kept).is_ok());
    }

    #[test]
    fn remarks_tell_world_from_module() {
        let kept = figures("9", 200.0, 100.0);
        assert!(remarks(&kept, &kept).is_empty());
        assert_eq!(remarks(&figures("10", 200.0, 100.0), &kept).len(), 1);
        assert_eq!(remarks(&figures("9", 100.0, 50.0), &kept).len(), 2);
    }
}
