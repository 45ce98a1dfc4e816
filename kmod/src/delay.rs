// SPDX-License-Identifier: GPL-2.0-only
//! Places where the module for a kernel with checkers stops for a moment now and then, and any other does not: see `delay.h`.

/// Between which steps. In the order of `TS_DELAY_POINTS`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Point {
    /// TCP's state was looked at, `prod` not yet.
    SeenTcp,
    /// `prod` was looked at, the hand-off word not yet.
    SeenProd,
    /// Bytes are published, their reader is not woken.
    Published,
    /// There was nothing to read; the reader is not on the wait queue yet.
    Parking,
    /// It is, and has not looked again.
    Parked,
    /// Bytes are given back, their sender is not woken.
    GivenBack,
    /// There was no room; the sender is not on the wait queue yet.
    Full,
    /// It is, and has not looked again.
    ParkedForRoom,
    /// A lane may start; its sender has not got the socket's lock.
    MayStart,
    /// It has started; nobody has looked for readers in base.
    Started,
    /// It will go back to TCP, for a reason of a moment ago.
    Leaving,
    /// It has; its reader is not woken.
    Left,
    /// Its bytes for TCP are not there yet, and no lock is held.
    ToTcp,
    /// One lane is closed, the other is not.
    HalfClosed,
    /// A reader goes back to TCP, and the lane is not closed to it.
    HandingBack,
    /// It is closed, and what is unread still in the ring.
    ClosedToReading,
    /// What is unread was copied, and is not in TCP's queue.
    CopiedBack,
    /// The registry is about to be locked.
    Registry,
    /// An offer was taken, and is not paired.
    Taken,
    /// A socket was seen to be free, and is not claimed.
    Claiming,
    /// An endpoint is on its socket, and has no link.
    Installed,
    /// One end has its link, or has lost it.
    Linked,
    /// Both have theirs, and the pair is not listed.
    Joined,
    /// A slot is cleared, its socket's calls still find the link.
    SlotCleared,
    /// The pair's reference to a socket is about to go.
    LettingGo,
    /// A pair's last reference is gone, and it is still listed.
    LastPut,
}

impl Point {
    /// Any context.
    #[cfg(ts_checked)]
    pub(crate) fn pass(self) {
        // SAFETY: any context; sleeps only where that is allowed.
        unsafe { crate::ffi::ts_delay(self as u32) }
    }

    /// Nothing.
    #[cfg(not(ts_checked))]
    pub(crate) fn pass(self) {}
}
