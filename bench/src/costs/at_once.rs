// SPDX-License-Identifier: GPL-2.0-only
//! Several pairs at work at the same time.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use super::team::{Team, Work};
use super::{Options, table};
use crate::stats::{Summary, short};

/// How many pairs.
const PAIRS: [usize; 4] = [1, 2, 4, 8];

/// Rates of all pairs together.
#[derive(Debug, Serialize)]
pub struct AtOnce {
    figures: Vec<Figure>,
}

#[derive(Debug, Serialize)]
struct Figure {
    work: Work,
    pairs: usize,
    /// Round trips, or MiB, in a second, in each round.
    plain: Vec<f64>,
    spliced: Vec<f64>,
}

impl AtOnce {
    /// In each round plain and spliced take turns.
    pub fn measure(options: &Options) -> Result<Self> {
        policy::restore()?;
        let trips = options.round_trips;
        let mut figures = Vec::new();
        for work in [Work::RoundTrips(64, trips), Work::Stream(64 << 10, trips)] {
            for pairs in PAIRS {
                let (mut plain, mut spliced) = (Vec::new(), Vec::new());
                // The same work altogether, however many share it.
                let work = match work {
                    Work::RoundTrips(size, times) => Work::RoundTrips(size, times / pairs),
                    Work::Stream(size, times) => Work::Stream(size, times / pairs),
                };
                for _ in 0..options.rounds {
                    policy::disable()?;
                    plain.push(rate(work, pairs, false)?);
                    policy::enable(&[])?;
                    spliced.push(rate(work, pairs, true)?);
                }
                figures.push(Figure {
                    work,
                    pairs,
                    plain,
                    spliced,
                });
            }
        }
        Ok(Self { figures })
    }

    /// A table.
    pub fn text(&self) -> String {
        let rows = self.figures.iter().filter_map(|figure| {
            let (plain, spliced) = (Summary::of(&figure.plain)?, Summary::of(&figure.spliced)?);
            let spread = |Summary { median, min, max }: Summary| {
                format!("{} ({}..{})", short(median), short(min), short(max))
            };
            let name = match figure.work {
                Work::RoundTrips(size, _) => format!("round trips a second, {size} B"),
                Work::Stream(size, _) => format!("MiB a second, {} KiB writes", size >> 10),
            };
            Some(vec![
                name,
                figure.pairs.to_string(),
                spread(plain),
                spread(spliced),
                format!("{:.2}", spliced.median / plain.median),
            ])
        });
        let header = [
            "all pairs together",
            "pairs",
            "plain (spread)",
            "spliced (spread)",
            "factor",
        ];
        format!(
            "Several pairs at once, each of two processes; {} rounds\n{}",
            self.figures[0].plain.len(),
            table(&header, rows.collect())
        )
    }
}

/// Of all pairs together, in a second.
fn rate(work: Work, pairs: usize, is_spliced: bool) -> Result<f64> {
    let before = Counters::read()?;
    let mut team = Team::new(pairs, work)?;
    let bytes = team.bytes() as u64;
    // The first turn looks at all data, and TCP settles on its sizes.
    team.turn()?;
    let begun = Instant::now();
    team.turn()?;
    let seconds = begun.elapsed().as_secs_f64();
    team.end()?;
    let ring = Counters::read()?.since(&before).get("ring_bytes")?;
    ensure!(
        if is_spliced {
            ring >= 2 * bytes * 95 / 100
        } else {
            ring == 0
        },
        "{ring} of {} bytes went through rings",
        2 * bytes
    );
    Ok(match work {
        Work::RoundTrips(_, times) => (times * pairs) as f64 / seconds,
        Work::Stream(..) => bytes as f64 / f64::from(1 << 20) / seconds,
    })
}
