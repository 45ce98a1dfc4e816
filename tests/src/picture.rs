// SPDX-License-Identifier: GPL-2.0-only
//! A picture of a process that hangs.

use std::fs;

use crate::counters::Counters;

/// Where each thread of the process is, and the counters.
pub fn picture(process: u32) -> String {
    let mut text = String::new();
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let (call, stack) = (read("syscall"), read("stack"));
        text += &format!("thread {:?}: syscall {call}{stack}", thread.file_name());
    }
    if let Ok(counters) = Counters::read() {
        text += &format!("counters: {:?}\n", counters.moved());
    }
    text
}
