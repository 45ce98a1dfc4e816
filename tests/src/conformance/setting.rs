// SPDX-License-Identifier: GPL-2.0-only
//! What exists while the cases run: module, policy, network namespaces.

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::{self, Counters};
use tcp_splice_world::netns::{Names, World};
use tcp_splice_world::policy;
use tcp_splice_world::steady::Steady;
use tcp_splice_world::waiting::SOON;

use crate::ktap::Report;
use crate::run::PORTS;

/// What is checked after the last case.
const LEFT_OVER: &str = "machine/nothing_is_left_over";

/// Made before the first case, taken down after the last.
#[derive(Debug)]
pub struct Setting {
    before: Option<Counters>,
    _world: Option<World>,
    _steady: Steady,
}

impl Setting {
    /// Loads the module and offers the connections on [`PORTS`], if `spliced`; makes the namespaces whose names begin with `world`.
    pub fn make(spliced: bool, world: Option<&str>) -> Result<Self> {
        let before = if spliced { Some(set_up()?) } else { None };
        let world = world.map(|prefix| World::create(&Names::new(prefix)));
        let world = world
            .transpose()
            .context("failed to make the network namespaces")?;
        Ok(Self {
            before,
            _world: world,
            _steady: Steady::hold()?,
        })
    }

    /// True when the module is there.
    pub fn spliced(&self) -> bool {
        self.before.is_some()
    }

    /// Adds the result about what is left over, if the module was there.
    pub fn end(self, report: &mut Report) {
        if self.spliced() {
            let left = self.take_down();
            let lines = left.as_ref().err().map(|error| format!("# {error:#}"));
            report.result(LEFT_OVER, left.is_ok(), lines.as_slice());
        }
    }

    /// Sees that all that the cases made goes away, and then the module.
    fn take_down(self) -> Result<()> {
        if let Some(before) = &self.before {
            counters::settle(before, SOON)?;
            policy::disable()?;
            policy::unload(SOON)?;
        }
        Ok(())
    }
}

fn set_up() -> Result<Counters> {
    ensure!(
        policy::tool_found(),
        "failed to find {} in PATH (--self-check does without)",
        policy::CTL
    );
    policy::load().context("failed to load the module (--self-check does without)")?;
    std::fs::write(policy::RING_KBYTES, "64").context("failed to set the size of rings")?;
    let ports: Vec<String> = PORTS.map(|port| port.to_string()).collect();
    policy::enable(&["--ports", &ports.join(",")])?;
    Counters::read()
}
