// SPDX-License-Identifier: GPL-2.0-only
//! One io_uring with operations whose results can be waited for.

use std::io;

use anyhow::{Context, Result};
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, squeue};

use crate::observe::PATIENCE;
use crate::trace;

/// A completion.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// What the operation carried.
    pub user_data: u64,
    /// Its result as a number or a negative errno.
    pub result: i32,
    /// Its flags.
    pub flags: u32,
}

impl Done {
    /// The result in words.
    pub fn words(&self) -> String {
        match u32::try_from(self.result) {
            Ok(count) => count.to_string(),
            Err(_) => trace::error(&io::Error::from_raw_os_error(-self.result)),
        }
    }
}

/// An io_uring.
pub struct Ring {
    /// The ring itself, to register things.
    pub ring: IoUring,
}

impl Ring {
    /// A ring with some room.
    pub fn new() -> Result<Self> {
        let ring = IoUring::new(16).context("failed to make io_uring")?;
        Ok(Self { ring })
    }

    /// Submits an operation, whose memory has to live until its last completion was taken.
    pub fn submit(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: each caller keeps memory and descriptors until the completions were taken.
        unsafe { self.ring.submission().push(entry) }.context("submission queue is full")?;
        self.ring.submit().context("failed to submit")?;
        Ok(())
    }

    /// The next completion, or none if it does not come.
    pub fn next(&mut self) -> Result<Option<Done>> {
        if self.ring.completion().is_empty() {
            let wait = Timespec::from(PATIENCE);
            let arguments = SubmitArgs::new().timespec(&wait);
            match self.ring.submitter().submit_with_args(1, &arguments) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => {}
                Err(error) => return Err(error).context("failed to wait for io_uring"),
            }
        }
        Ok(self.taken())
    }

    /// A completion that is there already.
    pub fn taken(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        Some(Done {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        })
    }

    /// Submits an operation and waits for its completion.
    pub fn run(&mut self, entry: &squeue::Entry) -> Result<Done> {
        self.submit(entry)?;
        self.next()?.context("the operation did not complete")
    }
}
