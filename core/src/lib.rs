// SPDX-License-Identifier: GPL-2.0-only
//! The decisions of tcp-splice, without the kernel.
//!
//! Everything here is pure or touches nothing but atomics: it decides from snapshots and returns what is to be done as a value.
//! The kernel module compiles this very source; the host runs it under loom, proptest and exhaustive tests.
//!
//! | module | answers |
//! |---|---|
//! | [`cursors`] | how many bytes may be written or read, who must be woken, is this direction closed |
//! | [`short`] | what is the short message that was published last |
//! | [`handoff`] | which bytes come next: those of TCP or those of the ring |
//! | [`span`] | where in the ring's chunks does a run of bytes lie |
//! | [`life`] | who is offered, joined and let go; who owns which reference, who may free what |
//! | [`pairing`] | are these two sockets the two ends of one connection |
//! | [`park`] | whose turn it is to write, and whether a poller may be woken |
//! | [`lag`] | should a sender wait for TCP, to use the ring after that |
//! | [`ahead`] | is it worth waking the other end early |
//! | [`reason`] | why a connection stays with TCP |
//! | [`registry`] | which offer belongs to this socket |
//! | [`abi`] | names and limits shared with the policy program, the tool and the tests |
#![cfg_attr(not(any(test, loom)), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod ahead;
pub mod cursors;
pub mod handoff;
pub mod lag;
pub mod life;
pub mod pairing;
pub mod park;
pub mod primitive;
pub mod reason;
pub mod registry;
pub mod short;
pub mod span;
pub mod spin;
