// SPDX-License-Identifier: GPL-2.0-only
//! Threads that are meant to block in a system call.

use std::fs;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys;
use crate::waiting::wait_until;

/// A thread whose work blocks.
#[derive(Debug)]
pub struct Asleep<T> {
    thread: JoinHandle<T>,
    id: i32,
}

impl<T: Send + 'static> Asleep<T> {
    /// Starts `work` and waits until its thread sleeps (or has ended, which `join` then shows).
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let _ = tell.send(sys::thread_id());
            work()
        });
        let id = told.recv().context("failed to learn the thread's id")?;
        let asleep = Self { thread, id };
        asleep.settle()?;
        Ok(asleep)
    }

    /// Waits until the thread was seen asleep several times in a row, or has ended.
    pub fn settle(&self) -> Result<()> {
        let mut seen = 0;
        wait_until("thread asleep", || {
            seen = if self.sleeps() { seen + 1 } else { 0 };
            thread::sleep(Duration::from_millis(3));
            Ok(seen >= 5 || self.thread.is_finished())
        })
    }

    /// Also where no signal reaches it: in a page fault, behind a mutex.
    fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", self.id));
        stat.is_ok_and(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" S") || rest.starts_with(" D"))
        })
    }

    /// The thread's id, to send it a signal.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// True when the work has ended.
    pub fn finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the work's result.
    pub fn join(self) -> T {
        self.thread.join().expect("blocked thread panicked")
    }
}
