// SPDX-License-Identifier: GPL-2.0-only
//! The command line and lists of ports: whatever is accepted is within the limits, and says the same when it is written down.
#![no_main]

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use tcp_splice_core::abi::{BUSY_POLL_US_MAX, RING_KBYTES_MAX};
use tcp_splice_fuzz::args::{Cli, Command};
use tcp_splice_fuzz::ports::{MAX_PORTS, Ports};

fuzz_target!(|text: &str| {
    if let Ok(ports) = text.parse::<Ports>() {
        let list = ports.as_slice();
        assert!(!list.is_empty() && list.len() <= MAX_PORTS && list[0] > 0);
        assert!(list.is_sorted_by(|a, b| a < b));
        assert_eq!(ports.to_string().parse(), Ok(ports));
    }
    let words = std::iter::once("tcp-splice-ctl").chain(text.split('\0'));
    if let Ok(cli) = Cli::try_parse_from(words)
        && let Command::Enable(enable) = cli.command
    {
        let policy = enable.policy();
        assert!(policy.busy_poll_us <= BUSY_POLL_US_MAX && policy.ring_kbytes <= RING_KBYTES_MAX);
    }
});
