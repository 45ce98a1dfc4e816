// SPDX-License-Identifier: GPL-2.0-only
//! Rust's part of `provoke.c`: only in the module for a kernel with checkers.

use core::ffi::c_void;
use core::hint::black_box;

/// A plain write that is wrong.
///
/// # Safety
///
/// There is none: that this is found is what it is for. The memory is there, but freed, or somebody writes to it at the same time.
#[unsafe(no_mangle)]
unsafe extern "C" fn tcp_splice_provoke_write(word: *mut c_void) {
    let word = black_box(word.cast::<u64>());
    // SAFETY: see above.
    unsafe { *word = (*word).wrapping_add(1) };
}
