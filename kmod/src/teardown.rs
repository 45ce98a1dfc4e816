// SPDX-License-Identifier: GPL-2.0-only
//! The end of a pair: shutdown, close, disconnect, destroy.
//!
//! | event | context | what is done here |
//! |---|---|---|
//! | shutdown(SHUT_WR) | socket lock | the ring is closed to publishing before the FIN is sent |
//! | unhash (RST, abort, TIME_WAIT) | socket lock, any context | both lanes closed to publishing |
//! | close() | process, no lock, no other call of this socket runs | both lanes closed; unread ring bytes make it a reset |
//! | connect(AF_UNSPEC) | socket lock, process; other calls may be asleep | both lanes closed, the link removed, all of ours taken off (`ts_take_off`) |
//! | close() with SO_LINGER 0 or unread ring bytes | socket lock, process; no other call | both lanes closed, the link removed |
//! | an option that needs TCP alone (`options.c`) | process, no lock | unread ring bytes go into TCP's queue; then as disconnect |
//! | drain (`drain.c`) | process, no lock; other calls may be asleep | the same |
//! | destroy (`tcp_cleanup_ulp`) | socket lock or none left to take, any context | as disconnect; then freed, after a grace period if it was ever paired |
//!
//! None of this frees a ring: the other end may still drain what was published before (TCP keeps a receive queue across FIN and RST
//! as well). The pair goes with the second endpoint.

use crate::delay::Point;
use crate::ffi::{self, EAGAIN, EBUSY, ENOMEM, Queue, Sock};
use crate::life::{Ep, Linux};
use crate::pair::{Link, Side};
use crate::recv::Look;
use crate::ring::Ring;
use core::ffi::{c_int, c_uint, c_ulong, c_void};
use core::ptr;
use core::sync::atomic::{Ordering, fence};
use tcp_splice_core::handoff;
use tcp_splice_core::life::{self, Kernel};
use tcp_splice_core::reason::Reason;

/// The sending direction is over: nothing may be published after the FIN. Socket lock held.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_shutdown(link: c_ulong) {
    // SAFETY: a call of this socket is running.
    if let Some(link) = unsafe { Link::from_word(link) } {
        link.outbound().cursors.close_tx();
    }
}

/// TCP is over: a reset, an abort, or the last FIN. Publishing ends in both directions, reading does not. Idempotent, any context.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_unhash(link: c_ulong) {
    // SAFETY: the socket's lock is held, or the caller owns its last reference.
    if let Some(link) = unsafe { Link::from_word(link) } {
        close_lanes(link);
    }
}

/// Closes both lanes from this end; returns the bytes it never read. Idempotent, any context.
pub(crate) fn close_lanes(link: Link<'_>) -> u64 {
    link.outbound().cursors.close_tx();
    Point::HalfClosed.pass();
    let unread = link.inbound().cursors.close_rx();
    // A sender of the other end that sleeps for space: its bytes belong to TCP now.
    // SAFETY: a slot of the pair.
    unsafe { ffi::ts_notify_writeable(link.peer_slot()) };
    unread
}

/// close(), before base's: no descriptor of this socket is left.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_offered")]
extern "C" fn tcp_splice_close(sk: *mut Sock, ep: *mut c_void) {
    // SAFETY: the caller's endpoint is alive.
    if life::close(&Linux::new(), unsafe { Ep::at(ep) }) > 0 {
        // RFC 2525 section 2.17: unread data at close is answered with a reset.
        // SAFETY: process context, no lock held.
        unsafe { ffi::ts_linger_reset(sk) };
    }
}

/// disconnect(), before base's. Threads asleep in our calls wake up by base's error report and find the connection gone.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_disconnect(_sk: *mut Sock, ep: *mut c_void) {
    // SAFETY: the caller's endpoint is alive.
    life::leave(&Linux::new(), unsafe { Ep::at(ep) });
}

/// The socket goes back to TCP for good, both ways, and may then be read by somebody who passes us by: what it has not read of the ring
/// is put into TCP's queue.
///
/// 0, also if it is not paired and never will be; -ESTALE if the connection that `disconnects` is of has ended; else a negative errno:
/// nothing has moved then, and the lanes have gone back to TCP in order. Process context, no locks held.
///
/// Nothing here waits for the other end, which may be stuck in a page fault with its send lock held. A drain does not wait for this end's
/// own calls either: -EAGAIN.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_hand_back(
    sk: *mut Sock,
    ep: *mut c_void,
    disconnects: u32,
    how: c_uint,
) -> c_int {
    // SAFETY: the caller's endpoint is alive.
    let ep = unsafe { Ep::at(ep) };
    let Some(link) = life::settle(&Linux::new(), ep) else {
        return 0;
    };
    let (tx, reason) = if how == ffi::BACK_FOR_GOOD {
        (Some(link.lock_tx()), Reason::HandedBack)
    } else {
        (link.try_lock_tx(true), Reason::Drained)
    };
    let Some(mut tx) = tx else { return -EAGAIN };
    tx.tcp_for_good = true;
    link.leave(&mut tx, reason);
    drop(tx);
    // Those who sleep here for space, and pollers: TCP has room.
    // SAFETY: a slot of the pair.
    unsafe { ffi::ts_notify_writeable(link.own_slot()) };
    let result = return_unread(link, sk, ep, disconnects, how, reason);
    if result.is_err() {
        // The lane is closed to its sender from here on: whoever waits for more than it has, or for space, looks again.
        fence(Ordering::SeqCst);
        // SAFETY: slots of the pair.
        unsafe {
            ffi::ts_notify_readable(link.own_slot());
            ffi::ts_notify_writeable(link.peer_slot());
        }
    }
    result.err().unwrap_or(0)
}

/// Ends the inbound lane's use of the ring, moves what is unread to TCP's queue, and leaves the pair.
///
/// Once the lane is closed to reading, `prod` is final: the sender's next attempt to publish fails and goes over TCP, and what it sends
/// there comes behind the border. The receive lock keeps others from reading these bytes, and from doing the same.
fn return_unread(
    link: Link<'_>,
    sk: *mut Sock,
    ep: Ep<'_>,
    disconnects: u32,
    how: c_uint,
    reason: Reason,
) -> Result<(), c_int> {
    let lane = link.inbound();
    lane.hand_back(reason);
    Point::HandingBack.pass();
    lane.cursors.close_rx();
    Point::ClosedToReading.pass();
    // A sender that sleeps for space, its message half written: it goes on over TCP, and others have waited for it.
    // SAFETY: a slot of the pair.
    unsafe { ffi::ts_notify_writeable(link.peer_slot()) };
    let rx = if how == ffi::BACK_FOR_GOOD {
        Some(link.lock_rx())
    } else {
        link.try_lock_rx()
    };
    let mut rx = rx.ok_or(-EAGAIN)?;
    let kernel = Linux::new();
    if kernel.link(ep) == 0 {
        return Ok(());
    }
    let (bytes, border) = Look::at(sk, lane).seen.unread(rx.cons).ok_or(-EBUSY)?;
    let mut queue = Unread::new();
    if let Some(ring) = lane.ring() {
        queue.fill(ring, rx.cons, u64::from(bytes))?;
    }
    Point::CopiedBack.pass();
    queue.insert(sk, disconnects, bytes, border, link.ring_bytes(), how)?;
    lane.cursors.consume(rx.cons, u64::from(bytes));
    rx.cons = rx.cons.wrapping_add(u64::from(bytes));
    life::leave(&kernel, ep);
    Ok(())
}

/// Copies of ring bytes on their way to TCP's queue.
struct Unread(Queue);

impl Unread {
    fn new() -> Self {
        Unread(Queue {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        })
    }

    /// Receive lock held; `bytes` from `pos` on are published and not given back.
    fn fill(&mut self, ring: &Ring, mut pos: u64, bytes: u64) -> Result<(), c_int> {
        let end = pos.wrapping_add(bytes);
        while pos != end {
            let (from, len) = ring
                .published(pos, end.wrapping_sub(pos))
                .ok_or(-EBUSY)?;
            // SAFETY: published bytes, which nobody writes to; process context.
            if !unsafe { ffi::ts_queue_add(&mut self.0, from.as_ptr(), len) } {
                return Err(-ENOMEM);
            }
            pos = pos.wrapping_add(len as u64);
        }
        Ok(())
    }

    fn insert(
        &mut self,
        sk: *mut Sock,
        disconnects: u32,
        bytes: u32,
        border: u32,
        (sent, received): (u64, u64),
        how: c_uint,
    ) -> Result<(), c_int> {
        let queue = &mut self.0;
        // SAFETY: the caller's own socket, whose lock comes after the lanes'.
        let result = unsafe {
            ffi::ts_queue_insert(sk, queue, disconnects, bytes, border, sent, received, how)
        };
        if result == 0 { Ok(()) } else { Err(result) }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // SAFETY: ours; empty if they were inserted.
        unsafe { ffi::ts_queue_free(&mut self.0) };
    }
}

/// Somebody lets go of the socket's lock. If it is a thread that entered base recv() before the pair existed and is about to sleep
/// there, ring bytes would never wake it: it is made to come back through us.
///
/// Pairs with the barrier in `ts_base_reader_asleep`: either the sender, having published its hand-off, sees the sleeper on the
/// wait queue, or the sleeper, being on the queue, sees the hand-off here.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_release_cb(link: c_ulong, sk: *mut Sock) {
    // SAFETY: the socket's lock is held.
    let Some(link) = (unsafe { Link::from_word(link) }) else {
        return;
    };
    if link.side == Side::Passive {
        return;
    }
    fence(Ordering::SeqCst);
    let lane = link.inbound();
    // Also with ring bytes left to read while the lane goes back to TCP.
    if lane.handoff.in_ring() || !handoff::may_start(lane.handoff.snapshot(), lane.cursors.cons()) {
        // SAFETY: the socket's lock is held by the current context.
        unsafe { ffi::ts_kick_base_reader(sk) };
    }
}
