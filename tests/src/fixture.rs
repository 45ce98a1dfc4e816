// SPDX-License-Identifier: GPL-2.0-only
//! What exists while the tests run: module, policy, network namespaces.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tcp_splice_world::netns::{Names, World};
use tcp_splice_world::policy;
use tcp_splice_world::steady::Steady;

use crate::env::{Mode, SOON};

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// Set up before the first test, taken down after the last.
#[derive(Debug)]
pub struct Fixture {
    mode: Mode,
    _world: World,
    _steady: Steady,
}

impl Fixture {
    /// Makes the namespaces and, unless over plain TCP, loads the module and offers every connection.
    pub fn set_up(mode: Mode, world: &str) -> Result<Self> {
        if mode == Mode::Spliced {
            ensure!(
                policy::tool_found(),
                "failed to find {} in PATH",
                policy::CTL
            );
            policy::restore().context("failed to set the module up (use --plain to do without)")?;
        }
        let names = Names::new(world);
        let world = World::create(&names).context("failed to make the network namespaces")?;
        Ok(Self {
            mode,
            _world: world,
            _steady: Steady::hold()?,
        })
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if self.mode == Mode::Spliced && policy::loaded() {
            let down = policy::disable().and_then(|()| policy::unload(SOON));
            if let Err(error) = down {
                eprintln!("warning: failed to unload the module at the end: {error:#}");
            }
        }
    }
}

/// Asks kmemleak, where the kernel has it, whether anything leaked.
pub fn no_leak() -> Result<()> {
    if !Path::new(KMEMLEAK).exists() {
        return Ok(());
    }
    let mut report = String::new();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(6));
        fs::write(KMEMLEAK, "scan").context("failed to start a kmemleak scan")?;
        report = fs::read_to_string(KMEMLEAK).context("failed to read kmemleak's report")?;
        if report.is_empty() {
            return Ok(());
        }
    }
    bail!("kmemleak says:\n{report}")
}
