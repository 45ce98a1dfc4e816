// SPDX-License-Identifier: GPL-2.0-only
//! Counters, per CPU and never reset, and how `/proc/net/tcp_splice_stat` shows them.

use crate::ffi::{self, SeqFile};
use tcp_splice_core::pairing::Refusal;
use tcp_splice_core::reason::Reason;

/// What is counted. `*Gone` counters exist so that gauges need no shared word: alive is made less gone.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Counter {
    PairsMade,
    PairsGone,
    EndpointsMade,
    EndpointsGone,
    OffersMade,
    RingStarts,
    RingLeaves,
    RingGrows,
    RingBytes,
    TcpBytes,
    LentBytes,
    ShortMessages,
    WakesAhead,
    RingMemory,
    RingMemoryGone,
    /// The first of one counter for each [`Refusal`].
    Refused,
    /// The first of one counter for each [`Reason`].
    Left = Counter::Refused as u32 + Refusal::ALL.len() as u32,
}

const _: () = assert!(Counter::Left as usize + Reason::ALL.len() <= ffi::COUNTERS);

impl Counter {
    /// Adds `n`. Any context.
    pub(crate) fn add(self, n: u64) {
        // SAFETY: no requirements.
        unsafe { ffi::ts_stat_add(self as u32, n) }
    }

    fn sum(self) -> u64 {
        // SAFETY: no requirements.
        unsafe { ffi::ts_stat_sum(self as u32) }
    }

    fn less(self, gone: Counter) -> u64 {
        // Not one snapshot: a gauge may be read while it changes, but not below zero.
        let gone = gone.sum();
        self.sum().saturating_sub(gone)
    }
}

/// Counts a refusal.
pub(crate) fn refused(reason: Refusal) {
    let index = (Counter::Refused as u32).wrapping_add(reason as u32);
    // SAFETY: no requirements; the index was checked at compile time.
    unsafe { ffi::ts_stat_add(index, 1) }
}

/// Counts a lane that went back to TCP, or could not leave it.
pub(crate) fn left(reason: Reason) {
    let index = (Counter::Left as u32).wrapping_add(reason as u32);
    Counter::RingLeaves.add(1);
    // SAFETY: no requirements; the index was checked at compile time.
    unsafe { ffi::ts_stat_add(index, 1) }
}

fn line(seq: *mut SeqFile, name: &str, value: u64) {
    // SAFETY: `seq` is the caller's open seq_file; the name is passed with its length.
    unsafe { ffi::ts_seq_line(seq, name.as_ptr().cast(), name.len(), value) }
}

/// Prints every counter, one `name value` line each. Process context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_show(seq: *mut SeqFile) {
    line(seq, "pairs_made", Counter::PairsMade.sum());
    line(
        seq,
        "pairs_alive",
        Counter::PairsMade.less(Counter::PairsGone),
    );
    line(
        seq,
        "endpoints_alive",
        Counter::EndpointsMade.less(Counter::EndpointsGone),
    );
    // Of a fixed table, so this is a count and not made less gone.
    line(seq, "offers_held", crate::pairing::offers_held());
    // What was made must be gone in the end, to the last byte, and no more than that: gauges cannot say so.
    for (name, counter) in [
        ("pairs_gone", Counter::PairsGone),
        ("endpoints_made", Counter::EndpointsMade),
        ("endpoints_gone", Counter::EndpointsGone),
        ("ring_memory_made", Counter::RingMemory),
        ("ring_memory_gone", Counter::RingMemoryGone),
    ] {
        line(seq, name, counter.sum());
    }
    line(seq, "offers_made", Counter::OffersMade.sum());
    line(seq, "ring_starts", Counter::RingStarts.sum());
    line(seq, "ring_leaves", Counter::RingLeaves.sum());
    line(seq, "ring_grows", Counter::RingGrows.sum());
    line(seq, "ring_bytes", Counter::RingBytes.sum());
    line(seq, "tcp_bytes", Counter::TcpBytes.sum());
    line(seq, "lent_bytes", Counter::LentBytes.sum());
    line(seq, "short_messages", Counter::ShortMessages.sum());
    line(seq, "wakes_ahead", Counter::WakesAhead.sum());
    line(
        seq,
        "ring_kbytes_alive",
        Counter::RingMemory
            .less(Counter::RingMemoryGone)
            .wrapping_shr(10),
    );
    for reason in Refusal::ALL {
        let index = (Counter::Refused as u32).wrapping_add(*reason as u32);
        // SAFETY: no requirements.
        let value = unsafe { ffi::ts_stat_sum(index) };
        reason_line(seq, "refused_", reason.name(), value);
    }
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::None) {
        let index = (Counter::Left as u32).wrapping_add(*reason as u32);
        // SAFETY: no requirements.
        let value = unsafe { ffi::ts_stat_sum(index) };
        reason_line(seq, "left_", reason.name(), value);
    }
}

/// `<prefix><name> value`.
fn reason_line(seq: *mut SeqFile, prefix: &str, name: &str, value: u64) {
    // SAFETY: `seq` is the caller's open seq_file; the words are passed with their lengths.
    unsafe {
        ffi::ts_seq_word(seq, prefix.as_ptr().cast(), prefix.len());
        ffi::ts_seq_line(seq, name.as_ptr().cast(), name.len(), value);
    }
}
