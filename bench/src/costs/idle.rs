// SPDX-License-Identifier: GPL-2.0-only
//! What connections cost that do nothing: memory, and the time to list them.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use super::crowd::Crowd;
use super::list;
use super::{Options, table};
use crate::stats::{Summary, short};

/// Bytes that each connection carries each way.
const SIZE: usize = 1024;
/// Seconds that rings have for giving their memory back; two were promised.
const REST: f64 = 60.0;
/// Seconds after which rings that gave nothing back have nothing to give.
const STEADY: f64 = 3.0;
/// Times that the list is made.
const LISTS: usize = 5;

/// Free pages that a processor keeps for itself do not count as available. By default that is up to an eighth of all, by this next to none.
const PAGES_KEPT: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

/// Memory of the whole machine.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    /// KiB available (`MemAvailable`).
    available: i64,
    /// KiB in slabs.
    slab: i64,
    /// KiB that the module's counter says are in rings.
    rings: i64,
}

impl Memory {
    fn now() -> Result<Self> {
        fs::write("/proc/sys/vm/drop_caches", "3").context("failed to drop caches")?;
        let text = fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
        let field = |name: &str| {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kbytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kbytes.with_context(|| format!("failed to find {name} in /proc/meminfo"))
        };
        Ok(Self {
            available: field("MemAvailable")?,
            slab: field("Slab")?,
            rings: i64::try_from(Counters::read()?.get("ring_kbytes_alive")?)?,
        })
    }

    /// Now, when what was freed before has really gone.
    fn settled() -> Result<Self> {
        let mut last = Self::now()?;
        for _ in 0..30 {
            sleep(Duration::from_secs(1));
            let now = Self::now()?;
            if (now.available - last.available).abs() < 128 {
                return Ok(now);
            }
            last = now;
        }
        bail!("the machine's memory does not come to rest: something else is running")
    }

    /// What has been taken since `before`.
    fn taken_since(self, before: Self) -> Self {
        Self {
            available: before.available - self.available,
            slab: self.slab - before.slab,
            rings: self.rings - before.rings,
        }
    }
}

/// What a crowd took, in its states.
#[derive(Clone, Copy, Debug, Serialize)]
struct Taken {
    unused: Memory,
    used: Memory,
    rested: Memory,
}

/// Idle connections, plain and spliced.
#[derive(Debug, Serialize)]
pub struct Idle {
    connections: usize,
    plain: Taken,
    spliced: Taken,
    /// Seconds that the traffic of all took, one after the other.
    traffic_took: f64,
    /// Seconds after the traffic until the last ring had given its pages back.
    rings_gone_after: f64,
    /// Seconds that `tcp-splice-ctl list --json` took for all of them, each time.
    tools_list: Vec<f64>,
    /// Seconds that reading the module's list took.
    modules_list: Vec<f64>,
}

impl Idle {
    /// Plain connections first, then as many spliced ones, whose list is made.
    pub fn measure(options: &Options) -> Result<Self> {
        let connections = options.idle;
        policy::restore()?;
        fs::write(PAGES_KEPT, "1000000")
            .with_context(|| format!("failed to write {PAGES_KEPT}"))?;
        // What the kernel makes once and keeps is made before.
        Crowd::new(connections)?.close()?;
        policy::disable()?;
        let (plain, ..) = taken(connections, 0, |_| Ok(()))?;
        policy::enable(&[])?;
        let (mut tool, mut module) = (Vec::new(), Vec::new());
        let (spliced, traffic_took, rings_gone_after) = taken(connections, connections, |_| {
            for _ in 0..LISTS {
                tool.push(seconds(|| list::tool(connections))?);
                module.push(seconds(|| list::module(connections))?);
            }
            Ok(())
        })?;
        fs::write(PAGES_KEPT, "0").with_context(|| format!("failed to write {PAGES_KEPT}"))?;
        Ok(Self {
            connections,
            plain,
            spliced,
            traffic_took,
            rings_gone_after,
            tools_list: tool,
            modules_list: module,
        })
    }

    /// Tables.
    pub fn text(&self) -> String {
        let each = |kbytes: i64| kbytes as f64 / self.connections as f64;
        let (plain, spliced) = (self.plain, self.spliced);
        let states = [
            ("before traffic", plain.unused, spliced.unused),
            ("right after 1 KiB each way", plain.used, spliced.used),
            ("when the rings had rested", plain.rested, spliced.rested),
        ];
        let rows = states.map(|(name, plain, spliced)| {
            let figures = [
                each(plain.available),
                each(spliced.available),
                each(spliced.available - plain.available),
                each(spliced.slab - plain.slab),
                each(spliced.rings),
            ];
            let figures = figures.iter().map(|figure| format!("{figure:.2}"));
            [name.to_owned()].into_iter().chain(figures).collect()
        });
        let header = [
            "KiB of each connection",
            "plain",
            "spliced",
            "beyond plain",
            "of it in slabs",
            "in rings",
        ];
        let [tool, module] = [&self.tools_list, &self.modules_list].map(|times| {
            Summary::of(times).map_or_else(String::new, |Summary { median, min, max }| {
                format!("{} s ({}..{})", short(median), short(min), short(max))
            })
        });
        format!(
            "Idle connections: {} plain ones, then as many spliced ones, both ends in one process; MemAvailable less than before\n{}\n\
             The traffic of all took {:.1} s, one after the other; the last ring had given its pages back {:.1} s later.\n\
             tcp-splice-ctl list --json of all: {tool}; of that, reading {}: {module}",
            self.connections,
            table(&header, rows.into()),
            self.traffic_took,
            self.rings_gone_after,
            list::PATH
        )
    }
}

/// What a crowd takes, how long its traffic took, and how long after it no ring held memory any more. Does `more` at the end.
fn taken(
    connections: usize,
    spliced: usize,
    more: impl FnOnce(&Crowd) -> Result<()>,
) -> Result<(Taken, f64, f64)> {
    let before = Memory::settled()?;
    let counters = Counters::read()?;
    let crowd = Crowd::new(connections)?;
    let unused = Memory::now()?.taken_since(before);
    let traffic_took = seconds(|| crowd.exchange(SIZE))?;
    let idle_since = Instant::now();
    let used = Memory::now()?.taken_since(before);
    let moved = Counters::read()?.since(&counters);
    ensure!(
        moved.get("pairs_made")? == spliced as u64
            && moved.get("ring_bytes")? == (2 * SIZE * spliced) as u64,
        "{connections} connections, {spliced} of them spliced, did this to the counters: {:?}",
        moved.moved()
    );
    let gone_after = rest(idle_since, connections)?;
    let rested = Memory::settled()?.taken_since(before);
    more(&crowd)?;
    crowd.close()?;
    let taken = Taken {
        unused,
        used,
        rested,
    };
    Ok((taken, traffic_took, gone_after))
}

/// Waits until the rings hold no pages any more, and returns when they had let go of the last one. A lane keeps the table of its ring.
fn rest(idle_since: Instant, connections: usize) -> Result<f64> {
    let (mut least, mut since) = (u64::MAX, 0.0);
    loop {
        let alive = Counters::read()?.get("ring_kbytes_alive")?;
        let now = idle_since.elapsed().as_secs_f64();
        if alive < least {
            (least, since) = (alive, now);
        }
        if alive <= connections as u64 && now > since + STEADY {
            return Ok(since);
        }
        ensure!(
            now < REST,
            "rings hold {alive} KiB {now:.0} s after the traffic: {:?}",
            Counters::read()?.moved()
        );
        sleep(Duration::from_millis(50));
    }
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}
