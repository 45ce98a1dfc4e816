// SPDX-License-Identifier: GPL-2.0-only
//! The guest's list of windows, joined with the plugin's counts.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::figures::{Case, Cell, Figure, Figures, Group, Machine};

/// `windows.json` of `tcp-splice-bench instructions`.
#[derive(Debug, Deserialize)]
pub struct Windows {
    machine: Guest,
    /// the address of the module's code in the guest's symbols
    pub text: Option<String>,
    /// in the order in which their windows were made
    pub figures: Vec<Listed>,
}

impl Windows {
    /// Reads the guest's list.
    ///
    /// # Errors
    /// When it cannot be understood.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("failed to parse the list of windows")
    }
}

/// The guest that made them.
#[derive(Debug, Deserialize)]
struct Guest {
    kernel: String,
    ring_kbytes: String,
}

/// One figure in one round.
#[derive(Debug, Deserialize)]
pub struct Listed {
    /// the operation
    pub cell: String,
    /// how it was done
    pub way: String,
    /// so many windows
    pub windows: usize,
    /// so many operations in each
    pub operations: u64,
    /// the address of the module's code, which is not that of the symbols if it was loaded anew since; none: it was not loaded
    pub text: Option<String>,
}

/// A marker's sums.
#[derive(Debug, Clone, Copy)]
struct Sums {
    instructions: u64,
    turns: u64,
}

/// What the windows say. `qemu` is QEMU's version.
///
/// # Errors
/// When the list and the counts do not fit together.
pub fn join(windows: &str, counts: &str, qemu: String) -> Result<Figures> {
    let Windows {
        machine, figures, ..
    } = Windows::parse(windows)?;
    let mut counted = pairs(counts)?.into_iter();
    let mut found = Vec::<(Listed, Each)>::new();
    for listed in figures {
        let each = each(&listed, &mut counted)?;
        match found.iter_mut().find(|(known, _)| known.same(&listed)) {
            Some((_, rounds)) => rounds.extend(each),
            None => found.push((listed, each)),
        }
    }
    ensure!(
        counted.next().is_none(),
        "failed to assign all counts to windows"
    );
    let mut groups = Vec::<Group>::new();
    for (listed, each) in found {
        let (instructions, turns) = each.into_iter().unzip();
        let case = Case {
            name: listed.way,
            figure: Figure::of(instructions, turns),
        };
        match groups
            .iter_mut()
            .find(|group| group.operation == listed.cell)
        {
            Some(group) => group.cases.push(case),
            None => groups.push(Group {
                operation: listed.cell,
                cases: vec![case],
            }),
        }
    }
    let cells = groups.iter().filter_map(Cell::of).collect();
    groups.retain(|group| Cell::of(group).is_none());
    let machine = Machine {
        kernel: machine.kernel,
        qemu,
        ring_kbytes: machine.ring_kbytes,
    };
    Ok(Figures::new(machine, cells, groups))
}

impl Cell {
    /// Those whose cases are the ways; pipes may be missing.
    fn of(group: &Group) -> Option<Self> {
        let figure = |way: &str| {
            let case = group.cases.iter().find(|case| case.name == way)?;
            Some(case.figure.clone())
        };
        Some(Self {
            operation: group.operation.clone(),
            plain: figure("plain")?,
            spliced: figure("spliced")?,
            unix: figure("unix")?,
            pipe: figure("pipe"),
        })
    }
}

/// Instructions and turns of one operation, in each window.
type Each = Vec<(f64, f64)>;

impl Listed {
    /// The same figure, in another round.
    fn same(&self, other: &Self) -> bool {
        (&self.cell, &self.way) == (&other.cell, &other.way)
    }
}

fn each(listed: &Listed, counted: &mut impl Iterator<Item = (Sums, Sums)>) -> Result<Each> {
    let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / listed.operations as f64;
    let windows = counted.take(listed.windows);
    let each: Each = windows
        .map(|(begin, end)| {
            (
                each(begin.instructions, end.instructions),
                each(begin.turns, end.turns),
            )
        })
        .collect();
    ensure!(
        each.len() == listed.windows && listed.windows > 0,
        "failed to find all windows of {} in the counts",
        listed.cell
    );
    Ok(each)
}

fn pairs(counts: &str) -> Result<Vec<(Sums, Sums)>> {
    let mut pairs = Vec::new();
    let mut open = None;
    for line in counts.lines() {
        let (kind, sums) = parse(line).with_context(|| format!("failed to parse {line:?}"))?;
        match (kind, open.take()) {
            ("begin", None) => open = Some(sums),
            ("end", Some(begin)) => pairs.push((begin, sums)),
            _ => bail!("failed to pair the markers: {line:?} is out of turn"),
        }
    }
    ensure!(open.is_none(), "failed to find the end of the last window");
    Ok(pairs)
}

fn parse(line: &str) -> Option<(&str, Sums)> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let mut number = || words.next()?.parse().ok();
    let sums = Sums {
        instructions: number()?,
        turns: number()?,
    };
    Some((kind, sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: &str = r#"{"machine": {"kernel": "k", "ring_kbytes": "64"}, "figures": [
        {"cell": "c", "way": "plain", "windows": 1, "operations": 2},
        {"cell": "c", "way": "spliced", "windows": 1, "operations": 2},
        {"cell": "c", "way": "unix", "windows": 1, "operations": 2}]}"#;
    const COUNTS: &str = "begin 10 0\nend 30 4\nbegin 30 4\nend 40 4\nbegin 90 5\nend 94 5\n";

    #[test]
    fn counts_are_shared_out_in_order() -> Result<()> {
        let figures = join(WINDOWS, COUNTS, "9".to_owned())?;
        let [cell] = &figures.cells[..] else {
            bail!("{figures:?}");
        };
        let medians = [&cell.plain, &cell.spliced, &cell.unix].map(|figure| figure.median);
        assert_eq!(medians, [10.0, 5.0, 2.0]);
        assert_eq!(cell.plain.turns, 2.0);
        Ok(())
    }

    #[test]
    fn rounds_are_put_together() -> Result<()> {
        let twice = WINDOWS.replace(
            "]}",
            r#", {"cell": "c", "way": "unix", "windows": 1, "operations": 1}]}"#,
        );
        let figures = join(
            &twice,
            &format!("{COUNTS}begin 100 0\nend 108 0\n"),
            String::new(),
        )?;
        let [cell] = &figures.cells[..] else {
            bail!("{figures:?}");
        };
        assert_eq!((cell.unix.least, cell.unix.most), (2.0, 8.0));
        Ok(())
    }

    #[test]
    fn other_cases_than_the_ways_are_a_group() -> Result<()> {
        let windows = WINDOWS
            .replace("plain", "a")
            .replace("spliced", "b")
            .replace("unix", "c");
        let figures = join(&windows, COUNTS, String::new())?;
        assert!(figures.cells.is_empty());
        let [group] = &figures.groups[..] else {
            bail!("{figures:?}");
        };
        let medians: Vec<_> = group.cases.iter().map(|case| case.figure.median).collect();
        assert_eq!(medians, [10.0, 5.0, 2.0]);
        Ok(())
    }

    #[test]
    fn markers_that_do_not_fit_are_refused() {
        let more = format!("{COUNTS}begin 95 0\nend 96 0\n");
        let (head, _) = COUNTS.split_at(30);
        for counts in [&more, head, "end 1 1\n", "begin 1 1\n", "begin x 1\n"] {
            assert!(join(WINDOWS, counts, String::new()).is_err(), "{counts}");
        }
    }
}
