// SPDX-License-Identifier: GPL-2.0-only
//! The rates of connections in several boots, side by side: whether the next boot says what one has said, its own rounds cannot tell.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Deserialize;

/// What is read here of `costs.json`.
#[derive(Debug, Deserialize)]
struct Costs {
    connections: Option<Connections>,
}

#[derive(Debug, Deserialize)]
struct Connections {
    rates: Vec<Rates>,
}

/// Connections a second of one kind, a figure for each round. The first kind is what the others are compared with.
#[derive(Debug, Deserialize)]
struct Rates {
    kind: String,
    per_second: Vec<f64>,
}

/// What several boots have measured.
#[derive(Debug, Default)]
pub struct Boots(Vec<Vec<Rates>>);

impl Boots {
    /// One more, by its `costs.json`.
    ///
    /// # Errors
    /// When the file cannot be read, or has no rates.
    pub fn add(&mut self, file: &Path) -> Result<()> {
        let what = || format!("failed to read the rates in {}", file.display());
        let text = fs::read_to_string(file).with_context(what)?;
        let costs: Costs = serde_json::from_str(&text).with_context(what)?;
        let rates = costs.connections.map(|it| it.rates).unwrap_or_default();
        ensure!(
            !rates.is_empty(),
            "there are no rates of connections in {}",
            file.display()
        );
        self.0.push(rates);
        Ok(())
    }

    /// For each kind the median of its rounds by the first kind's, in each boot, and the median of those.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let boots = (1..=self.0.len()).map(|boot| format!("boot {boot}"));
        table.set_header(
            ["rate, of the first kind's".to_owned()]
                .into_iter()
                .chain(boots)
                .chain(["median".to_owned()]),
        );
        for rates in self.0.first().into_iter().flatten() {
            let factors: Vec<f64> = self
                .0
                .iter()
                .filter_map(|boot| of(boot, &rates.kind))
                .collect();
            let mut row = vec![rates.kind.replace('_', " ")];
            row.extend(factors.iter().map(|factor| format!("{factor:.3}")));
            row.extend(median(factors).map(|factor| format!("{factor:.3}")));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// The rate of a kind by the first one's, round by round: their median.
fn of(boot: &[Rates], kind: &str) -> Option<f64> {
    let first = &boot.first()?.per_second;
    let own = &boot.iter().find(|rates| rates.kind == kind)?.per_second;
    median(
        own.iter()
            .zip(first)
            .map(|(own, first)| own / first)
            .collect(),
    )
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values.get(middle.checked_sub(1)?)? + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(plain: [f64; 3], spliced: [f64; 3]) -> Vec<Rates> {
        [("absent", plain), ("spliced", spliced)]
            .map(|(kind, rounds)| Rates {
                kind: kind.to_owned(),
                per_second: rounds.to_vec(),
            })
            .into()
    }

    #[test]
    fn a_factor_is_made_within_each_round() {
        let boot = boot([100.0, 200.0, 400.0], [110.0, 100.0, 480.0]);
        assert_eq!(of(&boot, "spliced"), Some(1.1));
        assert_eq!(of(&boot, "absent"), Some(1.0));
        assert_eq!(of(&boot, "other"), None);
    }

    #[test]
    fn boots_stand_side_by_side() {
        let boots = Boots(vec![
            boot([100.0; 3], [90.0; 3]),
            boot([100.0; 3], [120.0; 3]),
        ]);
        let table = boots.table();
        let row = table.lines().find(|line| line.contains("spliced")).unwrap();
        for figure in ["0.900", "1.200", "1.050"] {
            assert!(row.contains(figure), "{table}");
        }
    }

    #[test]
    fn a_file_without_rates_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("costs.json");
        fs::write(&file, r#"{"connections":null}"#).unwrap();
        let error = Boots::default().add(&file).unwrap_err();
        assert!(error.to_string().contains("no rates"), "{error}");
    }
}
