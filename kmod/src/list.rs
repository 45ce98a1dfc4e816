// SPDX-License-Identifier: GPL-2.0-only
//! What `/proc/net/tcp_splice` says of a lane. The line's other half is in `pairs.c`.

use crate::ffi::{self, Carried, SeqFile, Sock};
use crate::life;
use crate::pair::{Lane, Pair};
use core::ffi::{c_uint, c_void};
use core::ptr::NonNull;
use core::sync::atomic::AtomicPtr;
use tcp_splice_core::handoff::Snapshot;
use tcp_splice_core::pairing::Refusal;
use tcp_splice_core::reason::Reason;

// The numbers of refusals and the one for drained sockets do not meet.
const _: () = assert!(Refusal::ALL.len() <= ffi::PLAIN_DRAINED as usize);

/// What stands before a value of each end: the name with all that is around it, so that it is written at once.
macro_rules! names {
    ($name:literal) => {
        [
            concat!(" client.", $name, "=\0"),
            concat!(" server.", $name, "=\0"),
        ]
    };
}

/// Writes ` end.name=value` fields.
struct Fields {
    seq: *mut SeqFile,
    /// 0 or 1.
    side: c_uint,
}

impl Fields {
    /// With a zero behind it.
    fn name(&self, [client, server]: [&'static str; 2]) -> &'static str {
        if self.side == 0 { client } else { server }
    }

    fn write(&self, word: &str) {
        // SAFETY: the caller's open seq_file; the word is passed with its length.
        unsafe { ffi::ts_seq_word(self.seq, word.as_ptr().cast(), word.len()) }
    }

    fn number(&self, names: [&'static str; 2], value: u64) {
        // SAFETY: the caller's open seq_file; `names!` puts a zero behind each.
        unsafe { ffi::ts_seq_number(self.seq, self.name(names).as_ptr().cast(), value) }
    }

    fn word(&self, names: [&'static str; 2], word: &str) {
        let name = self.name(names);
        self.write(name.strip_suffix('\0').unwrap_or(name));
        self.write(word);
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

/// Why a socket is in `/proc/net/tcp_splice_plain`. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_show_why(seq: *mut SeqFile, why: u8) {
    let reason = match why {
        ffi::PLAIN_DRAINED => Reason::Drained.name(),
        number => Refusal::from_number(number).map_or("none", Refusal::name),
    };
    for word in ["reason=", reason] {
        // SAFETY: the caller's open seq_file; the word is passed with its length.
        unsafe { ffi::ts_seq_word(seq, word.as_ptr().cast(), word.len()) }
    }
}

/// What a socket in `/proc/net/tcp_splice_plain` has sent through the ring that it had. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_show_carried(
    seq: *mut SeqFile,
    side: c_uint,
    carried: &Carried,
) {
    let fields = Fields { seq, side };
    fields.number(names!("ring_bytes"), carried.ring_bytes);
    fields.number(names!("wakes"), u64::from(carried.wakes));
    fields.number(names!("stalls"), u64::from(carried.stalls));
}

/// The lane that an end sends into. Nothing is locked: each number is true at some moment. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_show_lane(
    seq: *mut SeqFile,
    pair: *const c_void,
    side: c_uint,
) {
    // SAFETY: a listed pair is alive.
    let lane = unsafe { Pair::at(pair) }.lane(side);
    let fields = Fields { seq, side };
    let cons = lane.cursors.cons();
    let Carried {
        ring_bytes: sent,
        wakes,
        stalls,
    } = lane.carried();
    fields.word(names!("carrier"), carrier(lane));
    fields.word(names!("reason"), lane.reason().name());
    fields.number(names!("ring_bytes"), sent);
    fields.number(names!("unread"), sent.saturating_sub(cons));
    fields.number(names!("ring_size"), lane.ring().map_or(0, |ring| ring.capacity()));
    fields.number(names!("wakes"), u64::from(wakes));
    fields.number(names!("stalls"), u64::from(stalls));
    fields.number(names!("spun_us"), lane.spun_us());
}
