// SPDX-License-Identifier: GPL-2.0-only
//! What `/proc/net/tcp_splice` says of a lane. The line's other half is in `pairs.c`.

use crate::ffi::{self, SeqFile, Sock};
use crate::life;
use crate::pair::{Lane, Pair};
use core::ffi::{CStr, c_char, c_uint, c_void};
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::AtomicPtr;
use tcp_splice_core::handoff::Snapshot;
use tcp_splice_core::reason::Reason;

/// Writes ` end.name=value` fields; the names come with their `=`.
struct Fields {
    seq: *mut SeqFile,
    /// With the space before it and the dot behind.
    end: &'static [u8],
}

impl Fields {
    fn write(&self, word: &[u8]) {
        // SAFETY: the caller's open seq_file; the word is passed with its length.
        unsafe { ffi::ts_seq_word(self.seq, word.as_ptr().cast(), word.len()) }
    }

    fn number(&self, name: &'static CStr, value: u64) {
        self.write(self.end);
        // SAFETY: the caller's open seq_file, and a C string.
        unsafe { ffi::ts_seq_number(self.seq, name.as_ptr(), value) }
    }

    fn word(&self, name: &str, word: &str) {
        self.write(self.end);
        self.write(name.as_bytes());
        self.write(word.as_bytes());
    }
}

/// What carries the bytes that are sent into this lane now.
fn carrier(lane: &Lane) -> &'static str {
    let prod = lane.cursors.prod();
    let unread = lane.cursors.cons() != prod.bytes;
    match lane.handoff.snapshot() {
        // Closed to publishing, but the connection goes on.
        _ if lane.went_to_tcp() => {
            if unread {
                "leaving"
            } else {
                "tcp"
            }
        }
        _ if prod.tx_closed || prod.rx_closed => "closed",
        Snapshot::Ring { .. } => "ring",
        Snapshot::Leaving { .. } if unread => "leaving",
        _ if prod.bytes == 0 && lane.reason() == Reason::None => "new",
        _ => "tcp",
    }
}

/// Where the socket of an end stands: 0 the connecting one, 1 the accepted one.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_slot(pair: *const c_void, side: c_uint) -> *const AtomicPtr<Sock> {
    // SAFETY: a listed pair is alive.
    unsafe { Pair::at(pair) }.slot(side)
}

/// Has a ring of this pair, which is in the list, memory that nobody has used since this was asked last? If so, with a reference for
/// `tcp_splice_rest`. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_hold_if_idle(pair: *const c_void) -> bool {
    // SAFETY: a listed pair is alive.
    let pair = unsafe { Pair::at(pair) };
    pair.is_idle() && pair.hold()
}

/// Frees what `tcp_splice_hold_if_idle` has seen, and drops its reference. Process context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_rest(pair: *mut c_void) {
    if let Some(pair) = NonNull::new(pair.cast::<Pair>()) {
        // SAFETY: the caller's reference keeps it alive, and is dropped at the end.
        unsafe {
            pair.as_ref().rest();
            life::put(pair);
        }
    }
}

/// The lane that an end sends into. Nothing is locked: each number is true at some moment. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_show_lane(
    seq: *mut SeqFile,
    end: *const c_char,
    end_len: usize,
    pair: *const c_void,
    side: c_uint,
) {
    // SAFETY: a literal of pairs.c with its length; a listed pair is alive.
    let (end, lane) = unsafe {
        (
            slice::from_raw_parts(end.cast(), end_len),
            Pair::at(pair).lane(side),
        )
    };
    let fields = Fields { seq, end };
    let cons = lane.cursors.cons();
    let sent = lane.cursors.prod().bytes;
    fields.word("carrier=", carrier(lane));
    fields.word("reason=", lane.reason().name());
    fields.number(c"ring_bytes=", sent);
    fields.number(c"unread=", sent.saturating_sub(cons));
    fields.number(c"ring_size=", lane.ring().map_or(0, |ring| ring.capacity()));
    let (wakes, stalls) = lane.wakes_and_stalls();
    fields.number(c"wakes=", u64::from(wakes));
    fields.number(c"stalls=", u64::from(stalls));
    fields.number(c"spun_us=", lane.spun_us());
}
