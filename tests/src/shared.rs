// SPDX-License-Identifier: GPL-2.0-only
//! Memory that a process shares with those it forks.

use std::io::{Error, Result};
use std::sync::atomic::AtomicU64;

/// `count` words, all 0, that this process shares with those that it forks from now on. Never given back.
pub fn words(count: usize) -> Result<&'static [AtomicU64]> {
    let (read_write, shared) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    let length = count * size_of::<AtomicU64>();
    // SAFETY: a new mapping disturbs no other.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, read_write, shared, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: as long as that, aligned to a page, all 0, which is a word; never unmapped, and only used by atomic operations.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), count) })
}
