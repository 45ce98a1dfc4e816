// SPDX-License-Identifier: GPL-2.0-only
//! The table entry of a case.

use anyhow::Result;
use tcp_splice_world::link::{Family, Link};

use crate::run::Run;

/// The groups whose cases run with an IPv4 client at an IPv6 listener even if not all is asked for: what they do may depend on the
/// tables of both families.
const MAPPED: [&str; 4] = ["recv", "ends", "options", "others"];

/// What a case does; it returns an error only when it could not be carried out at all.
pub type Body = fn(&Run) -> Result<()>;

/// What the counters must show after the spliced run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every connection was paired, and bytes of the case itself went through a ring.
    Ring,
    /// Every connection was paired.
    Pairs,
    /// Every connection was paired and its lanes ran; the case itself moves no bytes, or moves them over TCP.
    Lanes,
}

/// A line of the plain run's trace, and the one that stands for it in the spliced run's: a difference that the documents tell.
pub type Known = (&'static str, &'static str);

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name within its group.
    pub name: &'static str,
    /// What it does.
    pub body: Body,
    /// What proves its spliced run.
    pub need: Need,
    /// Where the runs have to differ, because README.md says so.
    pub known: &'static [Known],
    slow: bool,
}

impl Case {
    /// A case some of whose bytes go through a ring.
    pub const fn new(name: &'static str, body: Body) -> Self {
        Self {
            name,
            body,
            need: Need::Ring,
            known: &[],
            slow: false,
        }
    }

    /// Moves no bytes after the warm-up, or only over TCP.
    pub const fn lanes(mut self) -> Self {
        self.need = Need::Lanes;
        self
    }

    /// Differs in exactly these lines.
    pub const fn known(mut self, known: &'static [Known]) -> Self {
        self.known = known;
        self
    }

    /// Waits a lot, so that it runs over IPv4 on loopback only, if not all is asked for.
    pub const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// True when the case, which belongs to `group`, is to run over `link`.
    pub fn runs(&self, group: &str, link: &Link) -> bool {
        match (link.family, link.names.is_some()) {
            (Family::V4, false) => true,
            (Family::V4, true) | (Family::V6, _) => !self.slow,
            (Family::Mapped, _) => !self.slow && MAPPED.contains(&group),
        }
    }
}

/// The case of the function with that name.
macro_rules! case {
    ($function:ident) => {
        $crate::case::Case::new(stringify!($function), $function)
    };
}
pub(crate) use case;
