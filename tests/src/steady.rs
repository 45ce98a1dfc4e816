// SPDX-License-Identifier: GPL-2.0-only
//! Keeps the kernel from patching its own code again and again.
//!
//! Its network code has branches that are switched by writing to the code. Emulation on several processors can lose a race against that
//! (the guest dies of "Oops: int3"), so what many tests would switch on and off stays on while they run.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

/// Receive timestamps, which a socket with SO_TIMESTAMP switches on for the machine (`netstamp_needed_key`).
#[derive(Debug)]
pub struct Steady {
    _stamped: UdpSocket,
}

impl Steady {
    /// Until it is dropped.
    pub fn hold() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("failed to open a socket")?;
        setsockopt(&socket, sockopt::ReceiveTimestamp, &true)
            .context("failed to switch SO_TIMESTAMP on")?;
        Ok(Self { _stamped: socket })
    }
}
