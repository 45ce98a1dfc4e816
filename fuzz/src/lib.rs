// SPDX-License-Identifier: GPL-2.0-only
//! The tool's parsers as they ship: its files, without the parts that need a kernel.
#![allow(dead_code)]

#[path = "../../ctl/src/args.rs"]
pub mod args;
#[path = "../../ctl/src/connections.rs"]
pub mod connections;
#[path = "../../ctl/src/counters.rs"]
pub mod counters;
#[path = "../../ctl/src/policy.rs"]
pub mod policy;
#[path = "../../ctl/src/ports.rs"]
pub mod ports;
#[path = "../../ctl/src/release.rs"]
pub mod release;
