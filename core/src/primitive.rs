// SPDX-License-Identifier: GPL-2.0-only
//! The one place that names the atomics: the kernel's are `core`'s, loom's are loom's.
//!
//! Orderings are those of the C11 model. On x86-64 every read-modify-write is a full barrier, on arm64 the compiler emits the
//! acquire/release forms that LKMM asks of `xchg()` and friends for the uses made here: see ARCHITECTURE.md, "Memory model".

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
