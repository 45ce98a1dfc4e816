// SPDX-License-Identifier: GPL-2.0-only
//! All scenarios, by group.

pub mod absent;
mod ahead;
mod busy;
mod clients;
mod close;
mod copy;
mod delay;
mod drain;
mod edge;
mod faults;
mod full;
mod fuzz;
mod grow;
mod idle;
mod lend;
mod list;
mod memory;
mod module;
mod nat;
mod params;
mod passing;
mod policies;
mod ready;
mod receive;
mod refused;
mod reset;
mod stall;
mod start;
mod storm;
mod stream;
mod takeover;
mod tcpish;
mod threads;
mod transfer;
mod upgrade;
mod uring;
mod volume;
mod wake;

use crate::attacks;
use crate::scenario::Scenario;

/// Each group with its name, in the order they run.
const GROUPS: &[(&str, &[Scenario])] = &[
    ("stream", stream::ALL),
    ("start", start::ALL),
    ("full", full::ALL),
    ("grow", grow::ALL),
    ("threads", threads::ALL),
    ("close", close::ALL),
    ("reset", reset::ALL),
    ("ready", ready::ALL),
    ("edge", edge::ALL),
    ("receive", receive::ALL),
    ("copy", copy::ALL),
    ("transfer", transfer::ALL),
    ("lend", lend::ALL),
    ("takeover", takeover::ALL),
    ("wake", wake::ALL),
    ("ahead", ahead::ALL),
    ("passing", passing::ALL),
    ("fuzz", fuzz::ALL),
    ("tcpish", tcpish::ALL),
    ("uring", uring::ALL),
    ("busy", busy::ALL),
    ("params", params::ALL),
    ("nat", nat::redirect::ALL),
    ("nat", nat::forward::ALL),
    ("nat", nat::views::ALL),
    ("attack", attacks::tenants::ALL),
    ("attack", attacks::userns::ALL),
    ("attack", attacks::repair::ALL),
    ("attack", attacks::equal_numbers::ALL),
    ("attack", attacks::tun::ALL),
    ("attack", attacks::flood::ALL),
    ("attack", attacks::stuck::ALL),
    ("policy", policies::ALL),
    ("refused", refused::ALL),
    ("list", list::ALL),
    ("drain", drain::ALL),
    ("idle", idle::ALL),
    ("memory", memory::ALL),
    ("faults", faults::ALL),
    ("delay", delay::ALL),
    ("absent", absent::ALL),
    ("stall", stall::ALL),
    ("storm", storm::ALL),
    ("module", module::ALL),
    ("upgrade", upgrade::ALL),
    ("volume", volume::ALL),
    ("clients", clients::ALL),
];

/// Every scenario with the name of its group.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Scenario)> {
    let flat = |(group, list): &(&'static str, &'static [Scenario])| {
        let group = *group;
        list.iter().map(move |scenario| (group, scenario))
    };
    GROUPS.iter().flat_map(flat)
}
