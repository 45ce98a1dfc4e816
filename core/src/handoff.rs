// SPDX-License-Identifier: GPL-2.0-only
//! Which bytes come next in one direction: those of TCP or those of the ring.
//!
//! The byte stream of a lane is a list of segments, TCP, ring, TCP, ring … While the ring is in use the sender's `write_seq`
//! rests, so that one TCP sequence number, the *border*, tells where a ring segment begins; one ring position, *last*, tells
//! where it ended. The sender begins a new ring segment only when the receiver has consumed the one before, so the receiver
//! never needs to know more than one of them:
//!
//! ```text
//! Tcp                    everything is TCP
//! Ring { border }        TCP below border, then the ring
//! Leaving { border, last }  TCP below border, then the ring up to last, then TCP
//! ```
//!
//! The word is written under the lane's send lock and read by anyone.

use crate::primitive::{AtomicU64, Ordering};

const MODE_MASK: u64 = 0b11;
const MODE_TCP: u64 = 0;
const MODE_RING: u64 = 1;
const MODE_LEAVING: u64 = 2;
const GEN_SHIFT: u32 = 2;
const GEN_MASK: u64 = (1 << 30) - 1;
const BORDER_SHIFT: u32 = 32;

/// What the sender is doing with its bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// No ring segment exists, or the receiver is through with the last one and the sender has not begun another.
    Tcp,
    /// The ring is in use.
    Ring {
        /// `write_seq` when the ring took over: TCP bytes below it come first.
        border: u32,
    },
    /// The ring is not written any more.
    Leaving {
        /// As in [`Snapshot::Ring`].
        border: u32,
        /// `prod` when the lane went back to TCP: the ring's bytes end here.
        last: u64,
    },
}

/// One use of the ring, from a [`Handoff::start`] to the following [`Handoff::leave`].
///
/// A receiver that has read all TCP bytes below the border of a use remembers it: as long as the use is the same, the ring's bytes
/// are next and TCP need not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use(u64);

impl Use {
    /// None: no hand-off word is this one.
    pub const NONE: Use = Use(u64::MAX);
}

/// The hand-off word as it was at one moment. Equal values mean that nothing changed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

/// The hand-off word of a lane. All zeroes is [`Snapshot::Tcp`].
pub struct Handoff {
    word: AtomicU64,
    last: AtomicU64,
}

impl Default for Handoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Handoff {
    /// A lane that is all TCP.
    pub fn new() -> Self {
        Handoff {
            word: AtomicU64::new(MODE_TCP),
            last: AtomicU64::new(0),
        }
    }

    fn next_gen(&self) -> u64 {
        let gen_now = (self.word.load(Ordering::Relaxed) >> GEN_SHIFT) & GEN_MASK;
        (gen_now.wrapping_add(1) & GEN_MASK) << GEN_SHIFT
    }

    /// Sender: from here on the stream goes through the ring; TCP carries the bytes below `border`.
    ///
    /// The caller holds the send lock and the socket lock, no base sender is in flight, and [`may_start`] said yes.
    pub fn start(&self, border: u32) {
        let word = (u64::from(border) << BORDER_SHIFT) | self.next_gen() | MODE_RING;
        self.word.store(word, Ordering::Release);
    }

    /// Sender: the ring's bytes end at `last`; whatever follows goes through TCP. No-op unless the ring is in use.
    ///
    /// The caller holds the send lock. The release on `last` orders the word of an earlier [`Handoff::start`] before it, so that
    /// a reader who sees this `last` cannot take it for that of an earlier leave: pairs with the acquires in
    /// [`Handoff::snapshot`].
    pub fn leave(&self, last: u64) {
        let word = self.word.load(Ordering::Relaxed);
        if word & MODE_MASK != MODE_RING {
            return;
        }
        let border = word & !((1 << BORDER_SHIFT) - 1);
        self.last.store(last, Ordering::Release);
        self.word
            .store(border | self.next_gen() | MODE_LEAVING, Ordering::Release);
    }

    /// Anyone: one consistent view.
    pub fn snapshot(&self) -> Snapshot {
        loop {
            let word = self.word.load(Ordering::Acquire);
            let border = (word >> BORDER_SHIFT) as u32;
            match word & MODE_MASK {
                MODE_TCP => return Snapshot::Tcp,
                MODE_RING => return Snapshot::Ring { border },
                _ => {}
            }
            let last = self.last.load(Ordering::Acquire);
            if self.word.load(Ordering::Relaxed) == word {
                return Snapshot::Leaving { border, last };
            }
        }
    }

    /// Anyone: is the ring in use by the sender now?
    pub fn in_ring(&self) -> bool {
        self.use_of_ring().is_some()
    }

    /// Anyone: to be compared with a later one.
    pub fn mark(&self) -> Mark {
        Mark(self.word.load(Ordering::Acquire))
    }

    /// Receiver: what `prod` says, if the use of the ring that is `settled` still lasted after that. Then all of it belongs to this
    /// use, and TCP need not be looked at.
    pub fn settled_prod(&self, settled: Use, prod: impl FnOnce() -> u64) -> Option<u64> {
        let prod = prod();
        (self.word.load(Ordering::Acquire) == settled.0).then_some(prod)
    }

    /// Anyone: which use of the ring this is, if it is in use.
    pub fn use_of_ring(&self) -> Option<Use> {
        let word = self.word.load(Ordering::Acquire);
        (word & MODE_MASK == MODE_RING).then_some(Use(word))
    }
}

/// May the sender begin a ring segment? Only when the receiver is through with the one before.
pub fn may_start(now: Snapshot, cons: u64) -> bool {
    match now {
        Snapshot::Tcp => true,
        Snapshot::Ring { .. } => false,
        Snapshot::Leaving { last, .. } => cons >= last,
    }
}

/// What the receiver's TCP socket looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpView {
    /// Next sequence number to deliver (`copied_seq`).
    pub copied: u32,
    /// Next sequence number expected (`rcv_nxt`); a received FIN counts as one.
    pub received: u32,
}

impl TcpView {
    /// Bytes in the receive queue, a FIN counting as one.
    pub fn queued(self) -> u32 {
        if before(self.copied, self.received) {
            self.received.wrapping_sub(self.copied)
        } else {
            0
        }
    }
}

/// What a receiver can look at. [`Seen::of`] is who looks.
pub trait Source {
    /// The socket's TCP state.
    fn tcp(&mut self) -> TcpView;
    /// Bytes published in the ring.
    fn prod(&mut self) -> u64;
    /// The hand-off word.
    fn lane(&mut self) -> Snapshot;
}

/// What a receiver saw in one round of looks.
///
/// The order of the looks is what makes the answers right: first TCP, then `prod`, then the lane. TCP bytes queued by the first look
/// were sent before any later ring segment began. Were the lane looked at before `prod`, a sender that leaves, sends over TCP, and
/// begins anew in between would have its new ring bytes taken for those of the old segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    tcp: TcpView,
    prod: u64,
    lane: Snapshot,
}

/// Where the receiver's next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// In TCP's receive queue, at most this many bytes of it.
    Tcp(u32),
    /// In the ring, this many.
    Ring(u64),
    /// Nowhere yet. Ring bytes may be there already, but not those of TCP that come first. TCP's end of stream or error, if
    /// there is one, counts now.
    Await,
}

/// `a` comes before `b` in sequence space (RFC 9293 section 3.4; kernel `before()`).
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Seen {
    /// Looks, in the order that counts.
    pub fn of(source: &mut impl Source) -> Self {
        let tcp = source.tcp();
        let prod = source.prod();
        let lane = source.lane();
        Seen { tcp, prod, lane }
    }

    /// The socket's TCP state.
    pub fn tcp(&self) -> TcpView {
        self.tcp
    }

    /// Bytes published in the ring.
    pub fn prod(&self) -> u64 {
        self.prod
    }

    /// The hand-off word.
    pub fn lane(&self) -> Snapshot {
        self.lane
    }

    /// Decides what a reader gets next. Pure; exhaustively tested.
    ///
    /// `cons` belongs to the caller, who holds the receive lock (or only wants to know, as poll does).
    pub fn next(&self, cons: u64) -> Next {
        let queued = self.tcp.queued();
        let (border, end) = match self.lane {
            Snapshot::Tcp => {
                return if queued > 0 {
                    Next::Tcp(queued)
                } else {
                    Next::Await
                };
            }
            Snapshot::Ring { border } => (border, self.prod),
            Snapshot::Leaving { border, last } => (border, last),
        };
        if before(self.tcp.copied, border) {
            let first = border.wrapping_sub(self.tcp.copied);
            return match queued.min(first) {
                0 => Next::Await,
                n => Next::Tcp(n),
            };
        }
        match end.saturating_sub(cons) {
            0 if queued > 0 => Next::Tcp(queued),
            0 => Next::Await,
            n => Next::Ring(n),
        }
    }

    /// For a receiver that shall read through TCP alone from here on, and whose ring is closed to publishing: its unread ring bytes, and
    /// the sequence number before which they belong in TCP's queue. `None` if they are more than sequence numbers can tell.
    ///
    /// They get the sequence numbers before that one, and all unread bytes before them move down by as much.
    pub fn unread(&self, cons: u64) -> Option<(u32, u32)> {
        let (border, end) = match self.lane {
            Snapshot::Tcp => return Some((0, self.tcp.received)),
            Snapshot::Ring { border } => (border, self.prod),
            Snapshot::Leaving { border, last } => (border, last),
        };
        let bytes = i32::try_from(end.saturating_sub(cons)).ok()?;
        Some((bytes.unsigned_abs(), border))
    }

    /// Bytes a reader could have now without waiting: what `FIONREAD` and `SO_RCVLOWAT` count.
    ///
    /// `queued` is TCP's own answer (`tcp_inq()`, a FIN not counted).
    pub fn readable(&self, queued: u32, cons: u64) -> u64 {
        u64::from(queued).saturating_add(self.ring_readable(cons))
    }

    /// Of the bytes a reader could have now without waiting, those in the ring: all that no missing TCP byte comes before.
    pub fn ring_readable(&self, cons: u64) -> u64 {
        let (border, end) = match self.lane {
            Snapshot::Tcp => return 0,
            Snapshot::Ring { border } => (border, self.prod),
            Snapshot::Leaving { border, last } => (border, last),
        };
        if before(self.tcp.received, border) {
            0
        } else {
            end.saturating_sub(cons)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
