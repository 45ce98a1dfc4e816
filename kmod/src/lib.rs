// SPDX-License-Identifier: GPL-2.0-only
//! tcp_splice.ko: local TCP connections exchange their bytes through an in-kernel ring.
//!
//! This is the thin shell around `tcp_splice_core`: it fetches snapshots from the kernel, asks the core what to do, and does it.
//!
//! # Locks, in the order they are taken
//!
//! 1. a lane's send lock or its receive lock (mutexes; never two at once);
//! 2. the socket's own lock (`lock_sock`): to begin using the ring, and inside base calls;
//! 3. the lock of a set of the registry, which is that of a bucket of the index of endpoints (a spinlock, interrupts off): by the kfunc and by
//!    teardown, with or without 2; one at a time;
//! 4. a bucket of the list of pairs (the same; never with 3): see `pairs.c`.
//!
//! Nobody takes the lock of the other end's socket, and nobody sleeps for data or space with a lane lock held.
//!
//! # Who keeps what alive
//!
//! - A callback of a socket keeps that socket, the socket its endpoint, the endpoint its pair, the pair its rings.
//! - The other end's socket is reached through [`pair::Pair`]'s slots only, inside an RCU read-side section: see there.
//! - While an endpoint is on a socket, the socket's ULP slot holds a reference to the module for both; an endpoint that is left when the slot is
//!   empty has one until it is freed.
//!
//! | file | holds |
//! |---|---|
//! | `ffi` | the seam to C |
//! | `pairing` | the kfunc: offers, matches, the registry |
//! | `life` | what `core::life` asks of the kernel: who owns and frees what |
//! | `pair` | pair, lanes, their locks, the link between a socket and its pair |
//! | `ring` | the ring's memory |
//! | `send`, `recv`, `poll` | the data path |
//! | `teardown` | shutdown, close, disconnect, destroy |
//! | `stats`, `list` | counters; what is shown of each pair |
//! | `delay`, `provoke` | for kernels with checkers: places where a thread can be made to wait, bugs to find |
#![no_std]
#![warn(missing_docs)]

mod delay;
mod ffi;
mod life;
mod list;
mod pair;
mod pairing;
mod poll;
#[cfg(ts_checked)]
mod provoke;
mod recv;
mod ring;
mod send;
mod stats;
mod teardown;

/// No panic is reachable; should one be after all, the kernel must not go on.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: BUG() may be called anywhere.
    unsafe { ffi::ts_bug() }
}
