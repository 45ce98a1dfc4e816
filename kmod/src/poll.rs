// SPDX-License-Identifier: GPL-2.0-only
//! What poll, epoll and FIONREAD are told. No locks; any context.

use crate::ffi::{self, Sock};
use crate::pair::{Lane, Link};
use crate::recv::Look;
use core::ffi::{c_int, c_uint, c_ulong};
use core::sync::atomic::Ordering;
use tcp_splice_core::cursors;
use tcp_splice_core::handoff::{Seen, Snapshot, Source, TcpView};

/// EPOLLIN beyond what base sees (`sk_is_readable()`): are there enough bytes, counting the ring's?
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_readable(link: c_ulong, sk: *mut Sock) -> bool {
    // SAFETY: a callback of this socket is running.
    let Some(link) = (unsafe { Link::from_word(link) }) else {
        return false;
    };
    let lane = link.inbound();
    // Most often asked of an empty ring, whatever segment it is in.
    let cons = lane.cursors.cons();
    if lane.cursors.prod().bytes <= cons {
        return false;
    }
    let look = Look::at(sk, lane);
    let ring = look.seen.ring_readable(lane.cursors.cons());
    if ring == 0 {
        return false;
    }
    // SAFETY: the callback's own socket.
    let target = u64::try_from(unsafe { ffi::ts_rcvlowat(sk, false, c_int::MAX) }).unwrap_or(1);
    ring >= target || enough_in_all(link, sk, &look, ring, target)
}

/// The ring alone does not reach the low-water mark: with TCP's bytes, or because no more can come?
fn enough_in_all(link: Link<'_>, sk: *mut Sock, look: &Look, ring: u64, target: u64) -> bool {
    let lane = link.inbound();
    // SAFETY: the callback's own socket.
    let queued = u64::try_from(unsafe { ffi::ts_tcp_inq(sk) }).unwrap_or(0);
    // A mark that the ring cannot reach would never be reached: then a ring that is not writeable any more is enough.
    ring.saturating_add(queued) >= target
        || look.ended()
        // Base does not count the ring's bytes when more come, so it would not wake for them.
        || matches!(look.seen.lane(), Snapshot::Leaving { .. })
        || lane.cursors.prod().rx_closed
        || (!link.may_grow(lane)
            && lane
                .ring()
                .is_some_and(|r| !cursors::writeable(r.capacity(), ring)))
}

/// A receiver whose TCP is known to be quiet: nothing queued, everything up to `received` delivered.
struct Quiet<'a> {
    lane: &'a Lane,
    received: u32,
}

impl Source for Quiet<'_> {
    fn tcp(&mut self) -> TcpView {
        TcpView {
            copied: self.received,
            received: self.received,
        }
    }

    fn prod(&mut self) -> u64 {
        self.lane.cursors.prod().bytes
    }

    fn lane(&mut self) -> Snapshot {
        self.lane.handoff.snapshot()
    }
}

/// Both halves of poll in one call, for a socket on which TCP is quiet and no low-water mark is set. `received` was read before.
///
/// A quick look only: without `POLL_WRITEABLE` the caller asks again through base, which also leaves the wish for space.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_poll(link: c_ulong, received: u32) -> c_uint {
    // SAFETY: a callback of this socket is running.
    let Some(link) = (unsafe { Link::from_word(link) }) else {
        return 0;
    };
    let lane = link.inbound();
    let readable = lane.cursors.prod().bytes > lane.cursors.cons()
        && Seen::of(&mut Quiet { lane, received }).ring_readable(lane.cursors.cons()) > 0;
    (if readable { ffi::POLL_READABLE } else { 0 })
        | (if has_room(link.outbound()) {
            ffi::POLL_WRITEABLE
        } else {
            0
        })
}

/// The outbound ring is in use, and a send() would find room.
fn has_room(lane: &Lane) -> bool {
    let prod = lane.cursors.prod();
    lane.handoff.in_ring()
        && lane.ring().is_some_and(|ring| {
            let used = prod.bytes.saturating_sub(lane.cursors.cons());
            cursors::writeable(ring.capacity(), used)
        })
        && !lane.turn.is_taken()
}

/// A poller has registered itself on this socket and looked; in vain if it is not edge-triggered.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_polled(link: c_ulong, edges: bool) {
    // SAFETY: a callback of this socket is running.
    if let Some(link) = unsafe { Link::from_word(link) } {
        link.inbound().polled(edges);
    }
}

/// EPOLLOUT (`__sk_stream_is_writeable(sk, 1)`).
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_writeable(link: c_ulong, sk: *const Sock, wake: c_int) -> bool {
    // SAFETY: a callback of this socket is running, or the other end wakes it inside an RCU read-side section.
    let link = unsafe { Link::from_word(link) }.filter(|link| link.outbound().handoff.in_ring());
    let Some((link, ring)) = link.and_then(|link| Some((link, link.outbound().ring()?))) else {
        // SAFETY: the callback's own socket.
        return unsafe { ffi::ts_base_stream_memory_free(sk, wake) };
    };
    let lane = link.outbound();
    let prod = lane.cursors.prod();
    if prod.tx_closed || prod.rx_closed {
        return true;
    }
    let used = |cons: u64| prod.bytes.saturating_sub(cons);
    // A message is half written: whoever gives its turn back wakes us.
    if lane.turn.is_taken() {
        return false;
    }
    // If the answer is no, the receiver must know that somebody waits.
    cursors::writeable(ring.capacity(), used(lane.cursors.cons()))
        || promise_to_grow(link, lane)
        || cursors::writeable(ring.capacity(), used(lane.cursors.want_space()))
}

/// The ring is full, but a send() will find room.
fn promise_to_grow(link: Link<'_>, lane: &Lane) -> bool {
    let promise = link.may_grow(lane);
    if promise {
        lane.promised.store(true, Ordering::Relaxed);
    }
    promise
}

/// FIONREAD: what could be read now without waiting.
pub(crate) fn inq(link: Link<'_>, sk: *mut Sock) -> c_int {
    let lane = link.inbound();
    let look = Look::at(sk, lane);
    // SAFETY: the caller's own socket.
    let queued = u32::try_from(unsafe { ffi::ts_tcp_inq(sk) }).unwrap_or(0);
    let there = look.seen.readable(queued, lane.cursors.cons());
    c_int::try_from(there).unwrap_or(c_int::MAX)
}

/// Unread ring bytes that no missing TCP byte comes before.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_ring_readable(link: c_ulong, sk: *mut Sock) -> u32 {
    // SAFETY: a call of this socket is running.
    let Some(link) = (unsafe { Link::from_word(link) }) else {
        return 0;
    };
    let lane = link.inbound();
    let look = Look::at(sk, lane);
    let bytes = look.seen.ring_readable(lane.cursors.cons());
    bytes.min(c_int::MAX as u64) as u32
}

/// TCP_INFO: bytes that went through the rings, out and in.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_ring_bytes(link: c_ulong, sent: *mut u64, received: *mut u64) {
    // SAFETY: a call of this socket is running.
    let (out, inn) = match unsafe { Link::from_word(link) } {
        Some(link) => link.ring_bytes(),
        None => (0, 0),
    };
    // SAFETY: the caller's variables.
    unsafe { (*sent, *received) = (out, inn) };
}

/// FIONREAD behind its C face.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_inq(link: c_ulong, sk: *mut Sock) -> c_int {
    // SAFETY: a call of this socket is running.
    unsafe { Link::from_word(link) }.map_or(0, |link| inq(link, sk))
}
