// SPDX-License-Identifier: GPL-2.0-only
//! Signals that this process got, counted one by one.

use std::io::Result;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::c_int;

static CAUGHT: [AtomicUsize; 65] = [const { AtomicUsize::new(0) }; 65];

extern "C" fn count(signal: c_int) {
    if let Some(counter) = usize::try_from(signal).ok().and_then(|at| CAUGHT.get(at)) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

/// Counts `signal` from now on; calls that it interrupts fail with EINTR.
pub fn count_from_now(signal: c_int) -> Result<()> {
    // SAFETY: an all-zero sigaction is a valid start.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(c_int) as usize;
    // SAFETY: the handler only adds to an atomic, which is safe in a signal handler.
    match unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// How often `signal` came since the last time this was asked.
pub fn taken(signal: c_int) -> usize {
    let counter = usize::try_from(signal).ok().and_then(|at| CAUGHT.get(at));
    counter.map_or(0, |counter| counter.swap(0, Ordering::SeqCst))
}
