// SPDX-License-Identifier: GPL-2.0-only
//! What is measured of every ring: messages from one thread to another, neither of which sleeps.

use std::hint::spin_loop;
use std::thread;

/// One side of a ring of bytes.
pub trait Send: std::marker::Send {
    /// Returns when all bytes are in the ring, or through it.
    fn send(&mut self, message: &[u8]);
}

/// The other side.
pub trait Receive: std::marker::Send {
    /// Returns when the buffer is full.
    fn receive(&mut self, buffer: &mut [u8]);
}

/// Waiting for the other side; for long, and the processor may be what it waits for.
#[derive(Debug, Default)]
pub struct Wait(u32);

/// Looks at the ring before the processor is given away.
const LOOKS: u32 = 10_000;

impl Wait {
    /// Once more.
    pub fn more(&mut self) {
        self.0 += 1;
        if self.0 % LOOKS == 0 {
            thread::yield_now();
        } else {
            spin_loop();
        }
    }
}
