// SPDX-License-Identifier: GPL-2.0-only
//! The table entry of a scenario: where it runs, and how long it may take.

use std::time::Duration;

use crate::delays;
use crate::env::{Body, Mode};
use crate::faults;
use crate::link::{Family, Link};

/// The links a scenario runs over.
#[derive(Clone, Copy, Debug)]
enum Links {
    Each,
    Families,
    Some,
    One,
}

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name within its group.
    pub name: &'static str,
    /// What it does.
    pub body: Body,
    /// After this time it counts as hung.
    pub limit: Duration,
    /// True when it changes the policy or the module, so that both are put back after a failure.
    pub reconfigures: bool,
    links: Links,
    spliced_only: bool,
    injects_faults: bool,
    waits_between_steps: bool,
}

impl Scenario {
    const fn new(name: &'static str, body: Body, links: Links) -> Self {
        Self {
            name,
            body,
            limit: Duration::from_secs(60),
            reconfigures: false,
            links,
            spliced_only: false,
            injects_faults: false,
            waits_between_steps: false,
        }
    }

    /// Runs over each link.
    pub const fn each(name: &'static str, body: Body) -> Self {
        Self::new(name, body, Links::Each)
    }

    /// Runs for each family, in namespaces of its own making.
    pub const fn families(name: &'static str, body: Body) -> Self {
        Self::new(name, body, Links::Families)
    }

    /// Runs over IPv4 on loopback and IPv6 between namespaces, where all four would take too long.
    pub const fn some(name: &'static str, body: Body) -> Self {
        Self::new(name, body, Links::Some)
    }

    /// Runs over IPv4 on loopback only.
    pub const fn one(name: &'static str, body: Body) -> Self {
        Self::new(name, body, Links::One)
    }

    /// Makes sense with the module only.
    pub const fn spliced_only(mut self) -> Self {
        self.spliced_only = true;
        self
    }

    /// Changes the policy or the module, which implies [`Self::spliced_only`].
    pub const fn reconfigures(mut self) -> Self {
        self.reconfigures = true;
        self.spliced_only()
    }

    /// Makes the kernel's allocations fail: exists only on a kernel that can do that, as the one of `make test-debug`.
    pub const fn injects_faults(mut self) -> Self {
        self.injects_faults = true;
        self
    }

    /// Has the module wait between its steps: exists only on kernels with checkers.
    pub const fn waits_between_steps(mut self) -> Self {
        self.waits_between_steps = true;
        self.spliced_only()
    }

    /// May take `seconds`.
    pub const fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// True when the scenario is to run over `link` in `mode`.
    pub fn runs(&self, mode: Mode, link: &Link) -> bool {
        let here = match (self.links, link.family, link.names.is_some()) {
            (Links::Each, ..) | (_, Family::V4, false) => true,
            (Links::Families, _, false) | (Links::Some, Family::V6, true) => true,
            (Links::Families | Links::Some | Links::One, ..) => false,
        };
        let able = (!self.injects_faults || faults::available())
            && (!self.waits_between_steps || delays::available());
        here && able && (mode == Mode::Spliced || !self.spliced_only)
    }
}
