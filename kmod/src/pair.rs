// SPDX-License-Identifier: GPL-2.0-only
//! A pair, its two lanes, their locks, and the link by which a socket knows its pair.
//!
//! # Lifetime
//!
//! A pair is made by the kfunc at the accepting end and has one reference for each endpoint, which drops it when it is freed: see
//! `core::life`, whose steps are the only ones that take and drop references. So whoever got a [`Link`] from a socket may use
//! the pair as long as a call of that socket runs (the socket is not destroyed before its descriptor is closed), or within the RCU
//! read-side section in which the link was read.
//!
//! The slots hold the two sockets, each with a reference taken when the pair was made. A slot is cleared when its socket is
//! destroyed or leaves, the reference is dropped a grace period later: inside an RCU read-side section a socket read from a slot is alive.

use crate::delay::Point;
use crate::ffi::{self, Carried, Sock};
use crate::life;
use crate::ring::{Lent, Ring};
use crate::stats::{self, Counter};
use core::cell::UnsafeCell;
use core::ffi::{c_uint, c_ulong, c_void};
use core::mem::{align_of, size_of};
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use tcp_splice_core::abi::BUSY_POLL_US_MAX;
use tcp_splice_core::ahead;
use tcp_splice_core::cursors::Cursors;
use tcp_splice_core::handoff::{Handoff, Use};
use tcp_splice_core::lag::Lag;
pub(crate) use tcp_splice_core::life::Side;
use tcp_splice_core::life::{Ends, Wishes};
use tcp_splice_core::park::{Turn, Watch};
use tcp_splice_core::reason::Reason;
use tcp_splice_core::span::Supply;
use tcp_splice_core::spin::Spin;

/// A ring grows up to this many bytes; beyond it stands the largest `ring_kbytes`.
const GROWN_MAX: u64 = 16 << 20;

/// No processor.
const NOWHERE: u32 = u32::MAX;

/// No count of bytes.
const NEVER: u64 = u64::MAX;

/// The lines that are the sender's own.
#[repr(align(64))]
struct Sending {
    tx: UnsafeCell<Tx>,
    /// As `/proc/net/tcp_splice` shows them; written under the send lock, read without.
    wakes: AtomicU32,
    stalls: AtomicU32,
    /// Bytes published when `Pair::is_idle` looked last (one writer: the worker of `pairs.c`), and when the ring was given its last rest
    /// (under the send lock).
    seen: AtomicU64,
    rested: AtomicU64,
}

/// The lines that are the receiver's own.
#[repr(align(64))]
struct Receiving {
    rx: UnsafeCell<Rx>,
    /// What follows is changed outside the lock: threads that share the socket may lose a change, which costs a guess.
    ///
    /// A [`Spin`].
    spin: AtomicU32,
    /// A thread spins by it. Others sleep: one of them at most would get the answer.
    is_spun: AtomicBool,
    /// Microseconds spun without a budget, as `/proc/net/tcp_splice` shows them.
    spun_us: AtomicU64,
}

/// Only one writer at a time.
fn one_more(counter: &AtomicU32) {
    let next = counter.load(Ordering::Relaxed).wrapping_add(1);
    counter.store(next, Ordering::Relaxed);
}

/// What the sender knows; behind the lane's send lock.
pub(crate) struct Tx {
    /// Equals the `prod` word's byte count.
    pub(crate) prod: u64,
    /// `cons` when last looked at; the true one is not smaller.
    pub(crate) cons: u64,
    /// `write_seq` at the border, while the ring is in use.
    pub(crate) border: u32,
    /// Which of the ring's chunks have memory.
    pub(crate) supply: Supply,
    /// Chunks that pipes have.
    pub(crate) lent: Lent,
    /// Urgent data was sent: the lane stays with TCP, whose mark has a place in TCP's stream only.
    pub(crate) tcp_for_good: bool,
    /// Messages that could not begin to use the ring because TCP was not through with earlier ones.
    pub(crate) lag: Lag,
}

/// What the receiver knows; behind the lane's receive lock.
pub(crate) struct Rx {
    /// Equals the `cons` word's byte count.
    pub(crate) cons: u64,
    /// The use of the ring whose TCP bytes have all been read.
    pub(crate) settled: Use,
}

/// One direction.
///
/// The first two cache lines are written by one side each; the third is read by both and written when something changes; the last
/// two are private to a side.
#[repr(C, align(64))]
pub(crate) struct Lane {
    pub(crate) cursors: Cursors,
    pub(crate) handoff: Handoff,
    ring: AtomicPtr<Ring>,
    /// Size wanted for the ring, in KiB; 0: the module's default. Set before the pair is linked.
    ring_kbytes: AtomicU32,
    /// The receiver's budget; 0: the socket's. Set before the pair is linked.
    busy_poll_us: AtomicU32,
    /// A poller was told that there is room, because the ring may grow.
    pub(crate) promised: AtomicBool,
    /// The receiver may lend pages to pipes: not too many are out.
    pub(crate) lends: AtomicBool,
    /// Why the receiver has closed the lane to read through TCP alone, so that there is no end to wait for; `Reason::None` if it has not.
    /// Set before `cursors` are closed.
    handed_back: AtomicU8,
    /// A sender sleeps with its message half written: others wait until it is through.
    pub(crate) turn: Turn,
    /// A reader of this lane sleeps in a call, or is about to. A hint.
    pub(crate) parked: AtomicBool,
    /// Whether a poller of this lane is on watch.
    watch: Watch,
    /// State of the guess whether to wake it early (`core::ahead`). A hint.
    ahead: AtomicU32,
    /// The processor on which the sender published last; `NOWHERE` before. A hint.
    cpu: AtomicU32,
    /// The receiver spins without having been told to, or did so and the answer came. A hint.
    pub(crate) spins: AtomicBool,
    /// Why the ring was left last; written by the sender, under its lock.
    reason: AtomicU8,
    sending: Sending,
    receiving: Receiving,
}

/// The two ends of one connection.
#[repr(C, align(64))]
pub(crate) struct Pair {
    /// From the connecting end to the accepted one.
    forward: Lane,
    /// The other way.
    reverse: Lane,
    ends: Ends<Sock>,
    /// Somebody's cgroup pays for it, if any charges for such memory, or is being asked.
    paid: AtomicBool,
}

const _: () = assert!(size_of::<Pair>() <= ffi::PAIR_BYTES && align_of::<Pair>() <= 64);

impl Lane {
    fn new(ring_kbytes: u32, busy_poll_us: u32) -> Self {
        Lane {
            cursors: Cursors::new(),
            handoff: Handoff::new(),
            ring: AtomicPtr::new(ptr::null_mut()),
            ring_kbytes: AtomicU32::new(ring_kbytes),
            busy_poll_us: AtomicU32::new(busy_poll_us),
            promised: AtomicBool::new(false),
            lends: AtomicBool::new(true),
            handed_back: AtomicU8::new(Reason::None as u8),
            turn: Turn::new(),
            parked: AtomicBool::new(false),
            watch: Watch::new(),
            ahead: AtomicU32::new(0),
            cpu: AtomicU32::new(NOWHERE),
            spins: AtomicBool::new(false),
            reason: AtomicU8::new(Reason::None as u8),
            sending: Sending {
                tx: UnsafeCell::new(Tx {
                    prod: 0,
                    cons: 0,
                    border: 0,
                    supply: Supply::new(),
                    lent: Lent::NONE,
                    tcp_for_good: false,
                    lag: Lag::NONE,
                }),
                wakes: AtomicU32::new(0),
                stalls: AtomicU32::new(0),
                seen: AtomicU64::new(0),
                rested: AtomicU64::new(0),
            },
            receiving: Receiving {
                rx: UnsafeCell::new(Rx {
                    cons: 0,
                    settled: Use::NONE,
                }),
                spin: AtomicU32::new(Spin::NEW.to_word()),
                is_spun: AtomicBool::new(false),
                spun_us: AtomicU64::new(0),
            },
        }
    }

    /// The ring, if the sender has made it. Acquire: pairs with [`Lane::ring_or_alloc`] and [`Link::grow`].
    ///
    /// Bytes that were seen published are found through a ring that is asked for afterwards.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        // SAFETY: freed with the pair, also when it was replaced.
        unsafe { self.ring.load(Ordering::Acquire).as_ref() }
    }

    /// The ring, made if need be; `link` is the sender's. Caller holds the send lock, in process context.
    pub(crate) fn ring_or_alloc(&self, _tx: &mut Tx, link: Link<'_>) -> Option<&Ring> {
        if self.ring().is_none() {
            if !link.pair.charge() {
                return None;
            }
            let wanted = self.ring_kbytes.load(Ordering::Relaxed);
            // SAFETY: no requirements.
            let kbytes = if wanted != 0 {
                wanted
            } else {
                unsafe { ffi::ts_ring_kbytes() }
            };
            self.ring
                .store(Ring::alloc(kbytes)?.as_ptr(), Ordering::Release);
        }
        self.ring()
    }

    /// Sender: a ring for at least `bytes`, if that is more.
    fn grow(&self, tx: &mut Tx, bytes: u64) -> bool {
        let Some(larger) = self.ring().and_then(|ring| ring.grown(&tx.supply, bytes)) else {
            return false;
        };
        self.ring.store(larger.as_ptr(), Ordering::Release);
        Counter::RingGrows.add(1);
        true
    }

    /// Sender: the lane goes back to TCP, in order.
    pub(crate) fn leave(&self, tx: &mut Tx, reason: Reason) -> bool {
        let in_ring = self.handoff.in_ring();
        if in_ring {
            Point::Leaving.pass();
            self.handoff.leave(tx.prod);
            self.stays_with_tcp(tx, reason);
            stats::left(reason);
        }
        in_ring
    }

    /// Sender: notes why the ring is not used.
    pub(crate) fn stays_with_tcp(&self, _tx: &mut Tx, reason: Reason) {
        if self.reason() != reason {
            self.reason.store(reason as u8, Ordering::Relaxed);
        }
    }

    /// Sender: there is no memory for a ring to begin with. Counted with those that left theirs, but not again with each message until
    /// there is.
    pub(crate) fn lacks_memory(&self, tx: &mut Tx) {
        if self.reason() != Reason::Memory {
            stats::left(Reason::Memory);
        }
        self.stays_with_tcp(tx, Reason::Memory);
    }

    /// Receiver, about to close the lane: it reads through TCP from here on.
    pub(crate) fn hand_back(&self, reason: Reason) {
        self.handed_back.store(reason as u8, Ordering::Release);
    }

    /// Why the receiver that closed the lane goes on reading, if it does. After a look at `prod` that said closed.
    pub(crate) fn handed_back(&self) -> Option<Reason> {
        let reason = Reason::from_number(self.handed_back.load(Ordering::Acquire));
        (reason != Reason::None).then_some(reason)
    }

    /// One end was handed back, for good.
    pub(crate) fn went_to_tcp(&self) -> bool {
        self.handed_back().is_some()
            || matches!(self.reason(), Reason::HandedBack | Reason::Drained)
    }

    /// Why the ring is not used. A hint.
    pub(crate) fn reason(&self) -> Reason {
        Reason::from_number(self.reason.load(Ordering::Relaxed))
    }

    /// Sender: the ring may have memory although nothing was published.
    pub(crate) fn has_memory_again(&self, _tx: &mut Tx) {
        self.sending.rested.store(NEVER, Ordering::Relaxed);
    }

    /// Sender: its bytes found somebody to wake.
    pub(crate) fn count_wake(&self, _tx: &mut Tx) {
        one_more(&self.sending.wakes);
    }

    /// Sender: the ring is full.
    pub(crate) fn count_stall(&self, _tx: &mut Tx) {
        one_more(&self.sending.stalls);
    }

    /// Publications that found somebody to wake, and times the ring was full.
    pub(crate) fn carried(&self) -> Carried {
        let Sending { wakes, stalls, .. } = &self.sending;
        Carried {
            ring_bytes: self.cursors.prod().bytes,
            wakes: wakes.load(Ordering::Relaxed),
            stalls: stalls.load(Ordering::Relaxed),
        }
    }

    /// Receiver: a poller has registered and looked, in vain if it is not edge-triggered.
    pub(crate) fn polled(&self, edges: bool) {
        if self.watch.polled(edges) {
            self.judge_wake(false);
        }
    }

    /// Sender: something was published.
    #[inline(always)]
    pub(crate) fn published(&self) {
        // SAFETY: no requirements.
        let cpu = unsafe { ffi::ts_cpu() };
        if self.cpu.load(Ordering::Relaxed) != cpu {
            self.cpu.store(cpu, Ordering::Relaxed);
        }
        if self.watch.published() {
            self.judge_wake(true);
        }
    }

    /// A reader of this lane was woken: did it find anything?
    pub(crate) fn judge_wake(&self, found: bool) {
        let state = self.ahead.load(Ordering::Relaxed);
        let next = if found {
            ahead::right(state)
        } else {
            ahead::wrong(state)
        };
        if next != state {
            self.ahead.store(next, Ordering::Relaxed);
        }
    }

    /// Has nobody used the ring since this was asked last, and is it empty, with memory?
    fn is_idle(&self) -> bool {
        let Sending { seen, rested, .. } = &self.sending;
        let prod = self.cursors.prod().bytes;
        let unchanged = seen.load(Ordering::Relaxed) == prod;
        if !unchanged {
            seen.store(prod, Ordering::Relaxed);
        }
        unchanged && rested.load(Ordering::Relaxed) != prod && self.cursors.cons() == prod
    }

    /// Receiver: did the sender publish on another processor than this one when it did so last?
    pub(crate) fn comes_from_elsewhere(&self) -> bool {
        let cpu = self.cpu.load(Ordering::Relaxed);
        // SAFETY: no requirements.
        cpu != NOWHERE && cpu != unsafe { ffi::ts_cpu() }
    }

    /// Receiver: this thread will spin; `false` if another one does.
    pub(crate) fn begin_spin(&self) -> bool {
        !self.receiving.is_spun.swap(true, Ordering::Relaxed)
    }

    /// Receiver: it does no more.
    pub(crate) fn end_spin(&self) {
        self.receiving.is_spun.store(false, Ordering::Relaxed);
    }

    /// Receiver: what it has learnt of how long to spin.
    pub(crate) fn spin(&self) -> Spin {
        Spin::from_word(self.receiving.spin.load(Ordering::Relaxed))
    }

    /// Receiver: it has learnt more, and has spun for so long.
    pub(crate) fn learn_to_spin(&self, spin: Spin, spun_us: u64) {
        let Receiving {
            spin: word,
            spun_us: sum,
            ..
        } = &self.receiving;
        word.store(spin.to_word(), Ordering::Relaxed);
        if spun_us != 0 {
            sum.store(sum.load(Ordering::Relaxed).wrapping_add(spun_us), Ordering::Relaxed);
        }
    }

    /// Microseconds that the receiver has spun without a budget.
    pub(crate) fn spun_us(&self) -> u64 {
        self.receiving.spun_us.load(Ordering::Relaxed)
    }

    /// How long the receiver spins before it sleeps, in microseconds.
    pub(crate) fn busy_poll_us(&self, sk: *const Sock) -> u32 {
        match self.busy_poll_us.load(Ordering::Relaxed) {
            // Any process may ask for more, and a spin keeps a read section of `ts_calls` open.
            // SAFETY: the caller's own socket.
            0 => unsafe { ffi::ts_busy_poll_us(sk) }.min(BUSY_POLL_US_MAX),
            budget => budget,
        }
    }
}

impl Pair {
    /// Makes a pair in memory from `ts_pair_alloc`; the parameters are those of the (active, passive) ends.
    pub(crate) fn new(wishes: (Wishes, Wishes), socks: (*mut Sock, *mut Sock)) -> Self {
        let (active, passive) = wishes;
        Pair {
            forward: Lane::new(active.ring_kbytes, passive.busy_poll_us),
            reverse: Lane::new(passive.ring_kbytes, active.busy_poll_us),
            ends: Ends::new(socks.0, socks.1),
            paid: AtomicBool::new(false),
        }
    }

    /// Whoever of both ends is the first to send pays for the pair, as for its ring; `false`: its cgroup refuses. Process context.
    ///
    /// The swap lets one thread at a time in. Should that be refused, a second one has gone on, and its cgroup does not pay.
    fn charge(&self) -> bool {
        if self.paid.swap(true, Ordering::AcqRel) {
            return true;
        }
        // SAFETY: alive, by the reference; one thread, and it was not paid.
        let paid = unsafe { ffi::ts_pair_charge(ptr::from_ref(self).cast_mut().cast()) };
        if !paid {
            self.paid.store(false, Ordering::Release);
        }
        paid
    }

    /// The pair behind the pointer that C carries.
    ///
    /// # Safety
    ///
    /// It is alive for `'a`.
    pub(crate) unsafe fn at<'a>(pair: *const c_void) -> &'a Pair {
        // SAFETY: by the caller; C carries no other pointers.
        unsafe { &*pair.cast::<Pair>() }
    }

    /// Where the socket of a side stands: 0 the connecting one.
    pub(crate) fn slot(&self, side: c_uint) -> &AtomicPtr<Sock> {
        self.ends.slot(if side == 0 {
            Side::Active
        } else {
            Side::Passive
        })
    }

    /// The lane that a side sends into: 0 the connecting one.
    pub(crate) fn lane(&self, side: c_uint) -> &Lane {
        if side == 0 {
            &self.forward
        } else {
            &self.reverse
        }
    }

    /// The link of one of its sockets.
    pub(crate) fn link(pair: NonNull<Pair>, side: Side) -> c_ulong {
        let addr = pair.as_ptr().expose_provenance() as c_ulong;
        match side {
            Side::Active => addr,
            Side::Passive => addr | 1,
        }
    }

    /// Has one of its rings memory that nobody has used since this was asked last?
    pub(crate) fn is_idle(&self) -> bool {
        let idle = [&self.forward, &self.reverse].map(Lane::is_idle);
        idle.contains(&true)
    }

    /// One more reference, for whoever found the pair in the list of all pairs; not if it is about to go.
    pub(crate) fn hold(&self) -> bool {
        self.ends.hold()
    }

    /// Its two sockets, and the references to it.
    pub(crate) fn ends(&self) -> &Ends<Sock> {
        &self.ends
    }

    /// Frees the memory of rings that are empty and not in use at this moment. Process context.
    pub(crate) fn rest(&self) {
        for side in [Side::Active, Side::Passive] {
            let link = Link { pair: self, side };
            let lane = link.outbound();
            let Some(mut tx) = link.try_lock_tx(false) else {
                continue;
            };
            // With the send lock held nothing comes; whoever has read everything has given it back.
            if let Some(ring) = lane.ring().filter(|_| lane.cursors.cons() == tx.prod) {
                ring.rest(&mut tx, &lane.lends);
                // Looked at again while a pipe has something of it.
                let rested = if tx.lent.is_empty() { tx.prod } else { NEVER };
                lane.sending.rested.store(rested, Ordering::Relaxed);
            }
        }
    }

    /// Frees the rings of both lanes.
    ///
    /// # Safety
    ///
    /// The last reference is gone: nobody uses them.
    #[inline(never)]
    #[unsafe(link_section = ".text..ts_spliced")]
    pub(crate) unsafe fn free_rings(&self) {
        for lane in [&self.forward, &self.reverse] {
            if let Some(ring) = NonNull::new(lane.ring.load(Ordering::Relaxed)) {
                // SAFETY: by the caller.
                unsafe { Ring::free(ring, &mut (*lane.sending.tx.get()).lent) };
            }
        }
    }
}

/// A socket's view of its pair.
#[derive(Clone, Copy)]
pub(crate) struct Link<'a> {
    pair: &'a Pair,
    /// The socket's end.
    pub(crate) side: Side,
}

impl<'a> Link<'a> {
    /// The link behind the word that C carries; none for 0.
    ///
    /// # Safety
    ///
    /// The word was read from the endpoint of a socket, and `'a` does not outlive what the module's documentation allows.
    pub(crate) unsafe fn from_word(word: c_ulong) -> Option<Self> {
        let side = if word & 1 == 0 {
            Side::Active
        } else {
            Side::Passive
        };
        let pair = ptr::with_exposed_provenance::<Pair>((word & !1) as usize);
        // SAFETY: by the caller; only `Pair::link` makes such words.
        unsafe { pair.as_ref() }.map(|pair| Link { pair, side })
    }

    /// The pair itself, for its last owner.
    pub(crate) fn pair(self) -> NonNull<Pair> {
        NonNull::from(self.pair)
    }

    /// The lane this end sends into.
    pub(crate) fn outbound(self) -> &'a Lane {
        match self.side {
            Side::Active => &self.pair.forward,
            Side::Passive => &self.pair.reverse,
        }
    }

    /// The lane this end reads from.
    pub(crate) fn inbound(self) -> &'a Lane {
        match self.side {
            Side::Active => &self.pair.reverse,
            Side::Passive => &self.pair.forward,
        }
    }

    /// The pair's two sockets.
    pub(crate) fn ends(self) -> &'a Ends<Sock> {
        &self.pair.ends
    }

    /// Where this end's socket stands.
    pub(crate) fn own_slot(self) -> &'a AtomicPtr<Sock> {
        self.ends().slot(self.side)
    }

    /// This end has left its pair: its connection has ended, or it is TCP's for good.
    pub(crate) fn is_unlinked(self) -> bool {
        self.ends().has_left(self.side)
    }

    /// Where the other end's socket stands.
    pub(crate) fn peer_slot(self) -> &'a AtomicPtr<Sock> {
        self.ends().peer_slot(self.side)
    }

    /// Bytes that this end has put into its ring, and the other end into its own.
    pub(crate) fn ring_bytes(self) -> (u64, u64) {
        let bytes = |lane: &Lane| lane.cursors.prod().bytes;
        (bytes(self.outbound()), bytes(self.inbound()))
    }

    /// The outbound ring is full, and its receiver does not read. TCP would go on, up to its buffers' limits: so does the ring, once.
    /// False without memory. Send lock held, in process context.
    pub(crate) fn grow(self, tx: &mut Tx) -> bool {
        let lane = self.outbound();
        lane.grow(tx, self.tcp_would_hold(lane))
    }

    /// Will the ring of this lane grow when it is full?
    pub(crate) fn may_grow(self, lane: &Lane) -> bool {
        lane.ring()
            .is_some_and(|ring| !ring.is_grown() && self.tcp_would_hold(lane) > ring.capacity())
    }

    /// Bytes that this lane's sender could send to a receiver that does not read, over TCP.
    fn tcp_would_hold(self, lane: &Lane) -> u64 {
        let (from, to) = if ptr::eq(lane, self.outbound()) {
            (self.own_slot(), self.peer_slot())
        } else {
            (self.peer_slot(), self.own_slot())
        };
        // SAFETY: slots of the pair.
        unsafe { ffi::ts_tcp_would_hold(from, to) }.min(GROWN_MAX)
    }

    /// The outbound lane goes back to TCP. Base counts TCP's bytes alone when it decides whom to wake, so whoever waits for more than the
    /// ring has (SO_RCVLOWAT, a peek) looks again now.
    pub(crate) fn leave(self, tx: &mut Tx, reason: Reason) {
        if self.outbound().leave(tx, reason) {
            // The hand-off word before the look at who waits, against the reader's prepare_to_wait() and look.
            fence(Ordering::SeqCst);
            Point::Left.pass();
            // SAFETY: a slot of the pair.
            unsafe { ffi::ts_notify_readable(self.peer_slot()) };
        }
    }

    /// Is the other end inside send() right now, not asleep for space? A hint.
    pub(crate) fn peer_is_sending(self) -> bool {
        // SAFETY: the pair is alive for 'a.
        unsafe { ffi::ts_lane_is_locked(self.pair().as_ptr().cast(), (self.side as c_uint) ^ 1) }
    }

    /// The other end has read everything and sleeps in recv() for more: it will not answer before it gets some. A hint.
    pub(crate) fn peer_awaits_us(self) -> bool {
        let lane = self.outbound();
        lane.parked.load(Ordering::Relaxed) && lane.cursors.prod().bytes == lane.cursors.cons()
    }

    /// Is the other end inside recv() right now, not asleep for bytes? A hint.
    pub(crate) fn peer_is_receiving(self) -> bool {
        // SAFETY: the pair is alive for 'a.
        unsafe { ffi::ts_lane_is_locked(self.pair().as_ptr().cast(), (self.side as c_uint) ^ 3) }
    }

    /// All there was has been read, and the other end sleeps for the answer: wakes it now if that proved right before. `waited`: this
    /// call had to wait for what it read.
    #[inline(never)]
    #[unsafe(link_section = ".text..ts_spliced")]
    pub(crate) fn wake_ahead(self, waited: bool) {
        let lane = self.outbound();
        let parked = lane.parked.load(Ordering::Relaxed);
        let watched = !parked && lane.watch.is_kept();
        if !parked && !watched {
            return;
        }
        // One request of many: what this end does next will not be the answer to this one, and it is not waiting that costs.
        // SAFETY: no requirements.
        if unsafe { ffi::ts_is_in_a_batch() } && !waited {
            return;
        }
        // An answer is there already, or none can come.
        let prod = lane.cursors.prod();
        if prod.tx_closed || prod.rx_closed || prod.bytes != lane.cursors.cons() {
            return;
        }
        let state = lane.ahead.load(Ordering::Relaxed);
        let (wake, next) = ahead::guess(state);
        if next != state {
            lane.ahead.store(next, Ordering::Relaxed);
        }
        if !wake || (watched && !lane.watch.wake()) {
            return;
        }
        // SAFETY: a slot of the pair.
        if unsafe { ffi::ts_wake_ahead(self.peer_slot(), watched) } {
            Counter::WakesAhead.add(1);
        } else if watched {
            lane.watch.is_deserted();
        }
    }

    /// Takes the send lock of the outbound lane. Sleeps.
    pub(crate) fn lock_tx(self) -> Guard<'a, Tx> {
        Guard::lock(self.pair, self.side as c_uint, &self.outbound().sending.tx)
    }

    /// Takes the send lock of the outbound lane if it can be had now or, `patient`, soon. Sleeps.
    pub(crate) fn try_lock_tx(self, patient: bool) -> Option<Guard<'a, Tx>> {
        let data = &self.outbound().sending.tx;
        Guard::try_lock(self.pair, self.side as c_uint, data, patient)
    }

    /// Takes the receive lock of the inbound lane if it can be had soon. Sleeps.
    pub(crate) fn try_lock_rx(self) -> Option<Guard<'a, Rx>> {
        let which = (self.side as c_uint) | 2;
        Guard::try_lock(self.pair, which, &self.inbound().receiving.rx, true)
    }

    /// Takes the receive lock of the inbound lane. Sleeps.
    pub(crate) fn lock_rx(self) -> Guard<'a, Rx> {
        Guard::lock(self.pair, (self.side as c_uint) | 2, &self.inbound().receiving.rx)
    }
}

/// A call's own reference to its pair, taken before it sleeps for the first time.
pub(crate) struct Kept(Option<NonNull<Pair>>);

impl Kept {
    pub(crate) const NOT_YET: Kept = Kept(None);

    /// Before it sleeps, inside the read section that keeps the socket's endpoint, which keeps the pair until now.
    pub(crate) fn keep(&mut self, link: Link<'_>) {
        if self.0.is_none() && link.pair.hold() {
            self.0 = Some(link.pair());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(pair) = self.0 {
            // SAFETY: the reference taken in `keep`. The call ends: it uses the pair no more.
            unsafe { life::put(pair) };
        }
    }
}

/// One side's lane lock, held.
pub(crate) struct Guard<'a, T> {
    pair: &'a Pair,
    which: c_uint,
    data: &'a UnsafeCell<T>,
}

impl<'a, T> Guard<'a, T> {
    fn lock(pair: &'a Pair, which: c_uint, data: &'a UnsafeCell<T>) -> Self {
        // SAFETY: process context, no lane lock held; the pair is alive for 'a.
        unsafe { ffi::ts_lane_lock(ptr::from_ref(pair).cast_mut().cast::<c_void>(), which) };
        Guard { pair, which, data }
    }

    fn try_lock(
        pair: &'a Pair,
        which: c_uint,
        data: &'a UnsafeCell<T>,
        patient: bool,
    ) -> Option<Self> {
        let lock = ptr::from_ref(pair).cast_mut().cast::<c_void>();
        // SAFETY: as above.
        unsafe { ffi::ts_lane_trylock(lock, which, patient) }.then(|| Guard { pair, which, data })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only the holder of this lock reaches this cell: `lock_tx` and `lock_rx` pair each cell with its own lock.
        unsafe { &*self.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: taken in `lock`.
        unsafe {
            ffi::ts_lane_unlock(
                ptr::from_ref(self.pair).cast_mut().cast::<c_void>(),
                self.which,
            )
        };
    }
}
