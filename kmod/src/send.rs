// SPDX-License-Identifier: GPL-2.0-only
//! send(): into the ring where the lane uses it, else over TCP.
//!
//! # Budget of a small send() into a ring that nobody sleeps on
//!
//! Two atomics for the send lock, one to publish. Shared cache lines: `prod` is written, and a short message beside it; the lane's third line and the other end's
//! slot, socket and wait queue are read and seldom change; `cons` is read only when the remembered one leaves no room. No call
//! through a pointer of ours. Nothing is allocated once the chunk exists.

use crate::delay::Point;
use crate::ffi::{self, Call, EAGAIN, EFAULT, EPIPE, Msg, Sock, Wait};
use crate::pair::{Guard, Kept, Lane, Link, Side, Tx};
use crate::recv::OWNER_SPIN_US;
use crate::ring::{Copied, Filled, Ring};
use crate::stats::Counter;
use core::ffi::{c_int, c_long, c_uint, c_ulong};
use core::hint::spin_loop;
use core::sync::atomic::Ordering;
use tcp_splice_core::cursors::{self, Closed};
use tcp_splice_core::handoff;
use tcp_splice_core::lag::Lag;
use tcp_splice_core::reason::Reason;
use tcp_splice_core::span::{PIECE, piece};

/// What the sender's own socket looks like.
struct View {
    flags: u32,
    write_seq: u32,
}

impl View {
    fn of(sk: *const Sock, link: Link<'_>) -> Self {
        // SAFETY: the caller's own socket, and a slot of its pair.
        let word = unsafe { ffi::ts_tx_view(sk, link.peer_slot()) };
        View {
            flags: word.wrapping_shr(32) as u32,
            write_seq: word as u32,
        }
    }

    fn any(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// States in which base has the answer, an error mostly.
const ENDED: u32 = ffi::TX_ERR | ffi::TX_SHUT | ffi::TX_STATE;

/// A receiver that has read nothing for so long is not reading. In units of 1.024 µs.
const STALL_US: u64 = 10_000;

/// How long to wait for TCP to deliver earlier messages, in units of 1.024 µs; less where none of it is acknowledged for [`STALL_US`].
const LAG_US: u64 = 100_000;

/// One call of send().
struct Send<'a> {
    link: Link<'a>,
    lane: &'a Lane,
    sk: *mut Sock,
    msg: *mut Msg,
    size: usize,
    flags: c_int,
    call: *mut Call,
    /// `sk_disconnects` when the call began: the message belongs to that connection.
    disconnects: u32,
    kept: Kept,
    copied: usize,
    /// Jiffies left, 0: do not wait; none before the first wait.
    timeout: Option<c_long>,
    /// This call made others wait until its message is through.
    has_turn: bool,
    /// Jiffies left for TCP to say that the receiver is gone, once it is.
    end: Option<c_long>,
    /// Where the receiver stood, and when, at the first of the waits during which it read nothing.
    waiting: Option<(u64, u64)>,
    /// This call has been waiting for TCP to deliver earlier messages.
    lagging: Option<Lagging>,
}

/// A wait for TCP to deliver what it has.
struct Lagging {
    /// When it began.
    since: u64,
    /// `write_seq` then. Whoever goes on beside this call would have it wait for ever.
    write_seq: u32,
    /// How far acknowledgements have come, and since when.
    acknowledged: u32,
    moved: u64,
}

/// What one step did.
enum Step {
    /// Some bytes went into the ring.
    Progress,
    /// No room, or somebody's message is half written.
    Full,
    /// The rest of the message belongs to TCP.
    Tcp,
    /// The ring could be used, were TCP through with what it has; and there was much of that lately.
    Lagging,
    /// Base has an error to report, unless bytes were sent already.
    Ended,
    /// The user's memory is not accessible.
    Fault,
}

/// What became of beginning a ring segment.
enum Start {
    /// The ring is in use.
    Done,
    /// It could be, had TCP delivered what it was sent before. Of two threads that stream, one mostly sleeps in base sendmsg, which is
    /// [`Start::No`].
    Undelivered,
    /// The message is TCP's.
    No,
}

/// sendmsg() of a paired socket. Process context, no locks held.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_sendmsg(
    link: c_ulong,
    sk: *mut Sock,
    msg: *mut Msg,
    size: usize,
    flags: c_int,
    need: c_uint,
    call: *mut Call,
) -> c_int {
    // SAFETY: a call of this socket is running; this is its own.
    let (link, disconnects) = unsafe { (Link::from_word(link), (*call).disconnects) };
    let (Some(link), true) = (link, size > 0) else {
        return ffi::BASE;
    };
    let mut tx = link.lock_tx();
    if need == ffi::NEED_NOTHING && at_once(link, sk, msg, size, &mut tx) {
        return size as c_int;
    }
    let send = Send {
        link,
        lane: link.outbound(),
        sk,
        msg,
        size,
        flags,
        call,
        disconnects,
        kept: Kept::NOT_YET,
        copied: 0,
        timeout: None,
        has_turn: false,
        end: None,
        waiting: None,
        lagging: None,
    };
    send.run(tx, need)
}

/// The usual case, in few instructions: the ring is in use, TCP has nothing to say, and the message fits, in whole words, what is free of a
/// chunk that is there. `false`: not so, and nothing was done.
#[inline(always)]
fn at_once(link: Link<'_>, sk: *const Sock, msg: *mut Msg, size: usize, tx: &mut Tx) -> bool {
    let lane = link.outbound();
    if size as u64 > PIECE || !lane.handoff.in_ring() || lane.turn.is_taken() {
        return false;
    }
    let Some(ring) = lane.ring() else {
        return false;
    };
    // SAFETY: the caller's own socket, and a slot of its pair.
    if !unsafe { ffi::ts_tx_is_quiet(sk, link.peer_slot(), tx.border) }
        || free(lane, tx, ring, size as u64) < size as u64
    {
        return false;
    }
    // SAFETY: send lock held, so many bytes from `prod` on are free, the message is the caller's.
    let Some(filled) = (unsafe { ring.fill_at_once(tx, size, msg) }) else {
        return false;
    };
    if publish(link, tx, size, Some(filled)).is_ok() {
        return true;
    }
    // SAFETY: these bytes were just taken from it.
    unsafe { ffi::ts_iov_iter_revert(msg, size) };
    false
}

/// Free bytes of the ring; as last known, if those are enough for `want`.
fn free(lane: &Lane, tx: &mut Tx, ring: &Ring, want: u64) -> u64 {
    let capacity = ring.capacity();
    let free = |tx: &Tx| capacity.saturating_sub(tx.prod.wrapping_sub(tx.cons));
    if free(tx) < want {
        tx.cons = lane.cursors.cons();
    }
    free(tx)
}

/// Makes bytes readable that were written to position `tx.prod`, and wakes who waits for them. `filled`: they are all of a message, and there.
#[inline(always)]
fn publish(
    link: Link<'_>,
    tx: &mut Tx,
    bytes: usize,
    filled: Option<Filled>,
) -> Result<(), Closed> {
    let lane = link.outbound();
    // Counted before it can be read, so that whoever has read a byte finds it counted.
    Counter::RingBytes.add(bytes as u64);
    let published = match filled {
        // SAFETY: the send lock is held; `word` is asked for words of a short message.
        Some(filled) if filled.is_short() => lane
            .cursors
            .publish_short(tx.prod, bytes, |index| unsafe { filled.word(index) }),
        _ => lane.cursors.publish(tx.prod, bytes as u64),
    };
    if let Err(closed) = published {
        Counter::RingBytes.add((bytes as u64).wrapping_neg());
        return Err(closed);
    }
    tx.prod = tx.prod.wrapping_add(bytes as u64);
    lane.published();
    Point::Published.pass();
    // SAFETY: a slot of the pair, after a publication.
    if unsafe { ffi::ts_notify_readable(link.peer_slot()) } {
        lane.count_wake(tx);
    }
    Ok(())
}

impl<'a> Send<'a> {
    #[inline(never)]
    #[unsafe(link_section = ".text..ts_spliced")]
    fn run(mut self, mut tx: Guard<'a, Tx>, need: c_uint) -> c_int {
        if need != ffi::NEED_NOTHING {
            let for_good = need == ffi::NEED_TCP_FOR_GOOD;
            tx.tcp_for_good |= for_good;
            let reason = if for_good { Reason::Urgent } else { Reason::Message };
            self.link.leave(&mut tx, reason);
            drop(tx);
            return self.over_tcp();
        }
        loop {
            match self.step(&mut tx) {
                Step::Progress if self.copied == self.size => return self.finish(tx, 0),
                Step::Progress => self.waiting = None,
                Step::Full => match self.full(tx) {
                    Ok(again) => tx = again,
                    Err(result) => return result,
                },
                Step::Tcp => {
                    self.give_turn_back();
                    drop(tx);
                    return self.over_tcp();
                }
                Step::Lagging => tx = self.await_delivery(tx),
                Step::Ended if self.copied == 0 => {
                    self.give_turn_back();
                    drop(tx);
                    return self.over_tcp();
                }
                Step::Ended => return self.finish(tx, 0),
                Step::Fault => return self.finish(tx, -EFAULT),
            }
        }
    }

    /// Ends the call: what was sent, else `error`.
    fn finish(&mut self, tx: Guard<'a, Tx>, error: c_int) -> c_int {
        self.give_turn_back();
        drop(tx);
        self.result(error)
    }

    fn result(&self, error: c_int) -> c_int {
        if self.copied > 0 {
            self.copied as c_int
        } else {
            error
        }
    }

    /// Under the send lock.
    fn give_turn_back(&mut self) {
        if self.has_turn {
            self.has_turn = false;
            self.lane.turn.give_back();
            // SAFETY: the caller's own socket; takes the wait queue's lock, which orders the store before it.
            unsafe { ffi::ts_wake_writers(self.sk) };
        }
    }

    /// The rest of the message by base sendmsg, with no lane lock held.
    fn over_tcp(&mut self) -> c_int {
        Point::ToTcp.pass();
        // SAFETY: the caller's own socket.
        if unsafe { ffi::ts_disconnects(self.sk) } != self.disconnects {
            // SAFETY: as above.
            let error = unsafe { ffi::ts_stream_error(self.sk, self.flags, -EPIPE) };
            return self.result(error);
        }
        if self.copied > 0 {
            return self.rest_over_tcp();
        }
        if self.flags & ffi::MSG_DONTWAIT != 0 {
            // SAFETY: as the kernel would have called it.
            let sent = unsafe { ffi::ts_base_sendmsg(self.sk, self.msg, self.size) };
            self.count_tcp(sent);
            return sent;
        }
        if View::of(self.sk, self.link).any(ENDED) {
            return ffi::BASE;
        }
        // SO_SNDTIMEO is over; an error would have come first (sk_stream_wait_memory()).
        if self.timeout == Some(0) {
            return -EAGAIN;
        }
        // It may wait for long. What it will say is not known: it is counted as what it was asked to send.
        Counter::TcpBytes.add(self.size as u64);
        ffi::BASE
    }

    fn rest(&self) -> usize {
        self.size.wrapping_sub(self.copied)
    }

    /// Base's answer.
    fn count_tcp(&mut self, sent: c_int) {
        if sent > 0 {
            Counter::TcpBytes.add(sent as u64);
            self.copied = self.copied.wrapping_add(sent as usize);
        }
    }

    /// Waits for TCP's room here and not in base, so that the module can let go of the socket: then what is left goes into TCP's buffer,
    /// whatever its limit, and the call ends as if there had been room.
    fn rest_over_tcp(&mut self) -> c_int {
        loop {
            if View::of(self.sk, self.link).any(ENDED) {
                return self.copied as c_int;
            }
            let forced = self.is_drained();
            let mut starved = false;
            // SAFETY: as the kernel would have called it; the iterator stands at the rest.
            let sent = unsafe {
                let (rest, disconnects) = (self.rest(), self.disconnects);
                ffi::ts_base_sendmsg_rest(
                    self.sk,
                    self.msg,
                    rest,
                    disconnects,
                    forced,
                    &mut starved,
                )
            };
            self.count_tcp(sent);
            let full = sent > 0 || sent == -EAGAIN;
            // SAFETY: no requirements.
            if self.rest() == 0 || !full || self.timeout() == 0 || unsafe { ffi::ts_signal_pending() }
            {
                return self.copied as c_int;
            }
            self.wait_for_tcp(forced, starved);
        }
    }

    /// The module has let go of this socket.
    fn is_drained(&self) -> bool {
        let reason = self.link.inbound().handed_back();
        self.link.is_unlinked() && reason == Some(Reason::Drained)
    }

    /// Until TCP has room, or at least should be asked again. No lane lock held.
    fn wait_for_tcp(&mut self, forced: bool, starved: bool) {
        let left = self.timeout();
        self.kept.keep(self.link);
        let mut wait = Wait::new();
        // SAFETY: as in `sleep`.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            ffi::ts_set_nospace(self.sk);
            let news = View::of(self.sk, self.link).any(ENDED)
                || ffi::ts_disconnects(self.sk) != self.disconnects
                || (!forced && self.is_drained())
                || (!forced && !starved && ffi::ts_tcp_has_room(self.sk));
            if !news {
                // Where it is memory that TCP lacks, sk_stream_wait_memory() waits a moment, too.
                let limit = if forced || starved {
                    ffi::ts_stall_jiffies()
                } else {
                    left
                };
                let unused = ffi::ts_sleep(self.call, left.min(limit));
                if left != c_long::MAX {
                    self.timeout = Some(left.wrapping_sub(left.min(limit)).wrapping_add(unused));
                }
            }
            ffi::ts_wait_end(self.sk, &mut wait);
        }
    }

    /// One piece into the ring, if the ring is what carries it.
    fn step(&mut self, tx: &mut Tx) -> Step {
        if !self.lane.handoff.in_ring() {
            let start = self.start(tx);
            if matches!(start, Start::Undelivered) && self.must_wait_for_delivery(tx) {
                return Step::Lagging;
            }
            if self.lagging.take().is_some() {
                tx.lag.has_waited();
            }
            if !matches!(start, Start::Done) {
                return Step::Tcp;
            }
        }
        let view = View::of(self.sk, self.link);
        if view.any(ENDED) {
            return Step::Ended;
        }
        // A stray base sender moved write_seq (it was on its way since before the hand-off): its bytes end this ring segment.
        // Of a receiver who is gone, TCP has the last word: see `full_for_nobody`.
        let packets = view.any(ffi::TX_TCP_ONLY) && !self.receiver_is_gone();
        if packets || view.write_seq != tx.border {
            let reason = if packets { Reason::Packets } else { Reason::Stray };
            self.link.leave(tx, reason);
            return Step::Tcp;
        }
        if self.others_turn() {
            return Step::Full;
        }
        let Some(ring) = self.lane.ring() else {
            self.link.leave(tx, Reason::Memory);
            return Step::Tcp;
        };
        match self.room(tx, ring) {
            0 => match self.handed_back() {
                Some(reason) => {
                    self.leave_to_tcp(tx, reason);
                    Step::Tcp
                }
                None => Step::Full,
            },
            room => self.write(tx, ring, room),
        }
    }

    /// The lane was closed by a receiver who will not read any more.
    fn receiver_is_gone(&self) -> bool {
        self.lane.cursors.prod().rx_closed && self.handed_back().is_none()
    }

    /// The lane was closed by a receiver who goes on reading: why.
    fn handed_back(&self) -> Option<Reason> {
        let closed = self.lane.cursors.prod().rx_closed;
        closed.then(|| self.lane.handed_back()).flatten()
    }

    /// The receiver reads through TCP from here on. Once it has taken what the ring had, nobody needs the memory.
    fn leave_to_tcp(&self, tx: &mut Tx, reason: Reason) {
        self.link.leave(tx, reason);
        if let Some(ring) = self.lane.ring() {
            if self.lane.cursors.cons() == tx.prod {
                ring.clear(tx);
            }
        }
    }

    /// Another sender's message is half written.
    fn others_turn(&self) -> bool {
        !self.has_turn && self.lane.turn.is_taken()
    }

    /// Free bytes that this step may fill.
    fn room(&self, tx: &mut Tx, ring: &Ring) -> u64 {
        let want = piece(self.rest() as u64, ring.capacity());
        free(self.lane, tx, ring, want).min(want)
    }

    fn write(&mut self, tx: &mut Tx, ring: &Ring, room: u64) -> Step {
        // SAFETY: send lock held, `room` bytes from `prod` on are free, the message is the caller's.
        let bytes = match unsafe { ring.fill(tx, &self.lane.cursors, &self.lane.lends, room, self.msg) } {
            Copied::Bytes(bytes) => bytes,
            Copied::Fault => {
                self.lane.has_memory_again(tx);
                return Step::Fault;
            }
            Copied::NoMemory => {
                self.link.leave(tx, Reason::Memory);
                return Step::Tcp;
            }
        };
        if let Err(closed) = publish(self.link, tx, bytes, None) {
            // SAFETY: these bytes were just taken from it.
            unsafe { ffi::ts_iov_iter_revert(self.msg, bytes) };
            return match closed {
                Closed::Tx => Step::Ended,
                // Base's bytes will be answered with a reset, unless their reader reads through TCP now. A call that has sent something
                // reports that before the reset.
                Closed::Rx => {
                    if let Some(reason) = self.handed_back() {
                        self.leave_to_tcp(tx, reason);
                        return Step::Tcp;
                    }
                    self.link.leave(tx, Reason::Closed);
                    if self.copied > 0 {
                        Step::Ended
                    } else {
                        Step::Tcp
                    }
                }
            };
        }
        tx.lag = Lag::NONE;
        self.copied = self.copied.wrapping_add(bytes);
        Step::Progress
    }

    /// Begins a ring segment if nothing speaks against it. Send lock held.
    fn start(&self, tx: &mut Tx) -> Start {
        let lane = self.lane;
        let prod = lane.cursors.prod();
        if let Some(reason) = self.handed_back() {
            self.leave_to_tcp(tx, reason);
        }
        if prod.tx_closed
            || prod.rx_closed
            || self.link.peer_slot().load(Ordering::Relaxed).is_null()
        {
            return Start::No;
        }
        let flags = View::of(self.sk, self.link).flags;
        if flags & ffi::TX_TCP_ONLY != 0 {
            lane.stays_with_tcp(tx, Reason::Packets);
        }
        if tx.tcp_for_good
            || flags & !ffi::TX_UNACKED != 0
            || !handoff::may_start(lane.handoff.snapshot(), lane.cursors.cons())
        {
            return Start::No;
        }
        if flags != 0 {
            return Start::Undelivered;
        }
        if lane.ring_or_alloc(tx, self.link).is_none() {
            lane.lacks_memory(tx);
            return Start::No;
        }
        Point::MayStart.pass();
        // SAFETY: process context; lane lock before socket lock.
        unsafe { ffi::ts_lock_sock(self.sk) };
        let view = View::of(self.sk, self.link);
        // With the lock held and no base sender asleep inside, nobody is halfway through a message: write_seq is a border.
        let quiet = view.flags == 0;
        if quiet {
            tx.border = view.write_seq;
            lane.handoff.start(view.write_seq);
        }
        // SAFETY: taken above.
        unsafe { ffi::ts_release_sock(self.sk) };
        Point::Started.pass();
        // A thread of the connecting end may have slept in base recv() since before the pair existed: ring bytes would not wake
        // it. Those that go to sleep later are caught by `release_cb`. The accepted end had no descriptor before the pair.
        // SAFETY: a slot of the pair.
        if quiet
            && self.link.side == Side::Passive
            && unsafe { ffi::ts_base_reader_asleep(self.link.peer_slot()) }
        {
            lane.handoff.leave(tx.prod);
            lane.stays_with_tcp(tx, Reason::Reader);
            return Start::No;
        }
        if !quiet {
            return Start::No;
        }
        lane.stays_with_tcp(tx, Reason::None);
        Counter::RingStarts.add(1);
        Start::Done
    }

    /// The ring cannot be begun because TCP has not delivered everything yet. Is this so for long, and should the call wait for a moment before it
    /// gives TCP still more?
    fn must_wait_for_delivery(&mut self, tx: &mut Tx) -> bool {
        // SAFETY: the caller's own socket.
        let (now, acknowledged) =
            unsafe { (ffi::ts_clock_us(), ffi::ts_acknowledged(self.sk)) };
        let write_seq = View::of(self.sk, self.link).write_seq;
        let Some(lagging) = &mut self.lagging else {
            // SAFETY: as above.
            let patient = self.flags & ffi::MSG_DONTWAIT == 0 && unsafe { ffi::ts_is_patient(self.sk) };
            if self.copied > 0 || !patient || !tx.lag.is_over(self.size as u64) {
                return false;
            }
            self.lagging = Some(Lagging {
                since: now,
                write_seq,
                acknowledged,
                moved: now,
            });
            return true;
        };
        if lagging.acknowledged != acknowledged {
            lagging.acknowledged = acknowledged;
            lagging.moved = now;
        }
        lagging.write_seq == write_seq
            && now.wrapping_sub(lagging.moved) < STALL_US
            && now.wrapping_sub(lagging.since) < LAG_US
            // SAFETY: no requirements.
            && !unsafe { ffi::ts_signal_pending() }
    }

    /// Until more of TCP's bytes are acknowledged, something else wakes the socket, or for a while. Returns with the lock taken again.
    fn await_delivery(&mut self, tx: Guard<'a, Tx>) -> Guard<'a, Tx> {
        drop(tx);
        self.kept.keep(self.link);
        let before = self.lagging.as_ref().map(|lagging| lagging.acknowledged);
        let mut wait = Wait::new();
        // SAFETY: as in `sleep`.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            ffi::ts_wake_at_acknowledgements(self.sk);
            if View::of(self.sk, self.link).flags == ffi::TX_UNACKED
                && before == Some(ffi::ts_acknowledged(self.sk))
            {
                ffi::ts_sleep(self.call, ffi::ts_stall_jiffies());
            }
            ffi::ts_wait_end(self.sk, &mut wait);
        }
        self.link.lock_tx()
    }

    /// The ring is full: is this the time to grow? At once for who cannot wait, or was told by a poller that there is room. Else not
    /// while the receiver keeps up, since a small ring stays in the cache.
    fn must_grow(&self, timeout: c_long) -> bool {
        let promised = self.lane.promised.load(Ordering::Relaxed);
        (timeout == 0 || promised || self.is_stalled()) && !self.others_turn()
    }

    /// Has this call waited long enough for a receiver that reads nothing?
    fn is_stalled(&self) -> bool {
        self.waiting.is_some_and(|(cons, since)| {
            // SAFETY: no requirements.
            let now = unsafe { ffi::ts_clock_us() };
            self.lane.cursors.cons() == cons && now.wrapping_sub(since) >= STALL_US
        })
    }

    fn timeout(&mut self) -> c_long {
        let (sk, flags) = (self.sk, self.flags);
        *self.timeout.get_or_insert_with(|| {
            if flags & ffi::MSG_DONTWAIT != 0 {
                0
            } else {
                // SAFETY: the caller's own socket.
                unsafe { ffi::ts_sndtimeo(sk) }
            }
        })
    }

    /// No room: waits for it, or says so. Returns with the lock taken again, or with the call's result.
    fn full(&mut self, mut tx: Guard<'a, Tx>) -> Result<Guard<'a, Tx>, c_int> {
        let others_turn = self.others_turn();
        if self.receiver_is_gone() && !others_turn {
            return self.full_for_nobody(tx);
        }
        if self.timeout.is_none() && !others_turn {
            self.lane.count_stall(&mut tx);
        }
        let left = self.timeout();
        if self.must_grow(left) && self.link.may_grow(self.lane) {
            if !self.link.grow(&mut tx) {
                // TCP finds memory, or says why not.
                self.link.leave(&mut tx, Reason::Memory);
                self.give_turn_back();
                drop(tx);
                return Err(self.over_tcp());
            }
            // Others sleep for space on this socket, and nobody reads: see `pause`.
            // SAFETY: the caller's own socket.
            unsafe { ffi::ts_wake_writers(self.sk) };
            return Ok(tx);
        }
        if left == 0 {
            return if self.ask_for_space() {
                Ok(tx)
            } else {
                Err(self.finish(tx, -EAGAIN))
            };
        }
        // SAFETY: process context.
        if unsafe { ffi::ts_signal_pending() } {
            // SAFETY: no requirements.
            let errno = unsafe { ffi::ts_intr_errno(left) };
            return Err(self.finish(tx, errno));
        }
        // A message that fits the ring is not torn: while it waits half written, others wait too.
        let fits = self
            .lane
            .ring()
            .is_some_and(|ring| self.size as u64 <= ring.capacity());
        if fits && self.copied > 0 && !self.lane.turn.is_taken() {
            self.lane.turn.take();
            self.has_turn = true;
        }
        drop(tx);
        if !self.spin_while_receiving() {
            self.sleep();
        }
        Ok(self.link.lock_tx())
    }

    /// The ring is full, and its receiver gone: TCP is about to say how, most often by a reset. Waits for that, since a call that waits for
    /// space is to end with it; but not for ever, and then lets TCP find out.
    fn full_for_nobody(&mut self, mut tx: Guard<'a, Tx>) -> Result<Guard<'a, Tx>, c_int> {
        let left = self.timeout();
        // SAFETY: no requirements.
        let patience = *self.end.get_or_insert_with(|| unsafe { ffi::ts_end_jiffies() });
        // SAFETY: no requirements.
        if left == 0 || patience == 0 || unsafe { ffi::ts_signal_pending() } {
            self.link.leave(&mut tx, Reason::Closed);
            if self.copied > 0 {
                return Err(self.finish(tx, 0));
            }
            self.give_turn_back();
            drop(tx);
            return Err(self.over_tcp());
        }
        drop(tx);
        self.kept.keep(self.link);
        let mut wait = Wait::new();
        // SAFETY: as in `sleep`.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            if !self.has_news() {
                // The receiver's close() wakes more than once before its reset is sent.
                let limit = left.min(patience);
                let used = limit.wrapping_sub(ffi::ts_sleep(self.call, limit));
                self.end = Some(patience.wrapping_sub(used));
                if left != c_long::MAX {
                    self.timeout = Some(left.wrapping_sub(used));
                }
            }
            ffi::ts_wait_end(self.sk, &mut wait);
        }
        Ok(self.link.lock_tx())
    }

    /// For a call that does not wait: asks for EPOLLOUT and looks again; `true` if there is room after all.
    fn ask_for_space(&self) -> bool {
        // SAFETY: the caller's own socket; full barrier.
        unsafe { ffi::ts_set_nospace(self.sk) };
        let cons = self.lane.cursors.want_space();
        let used = self.lane.cursors.prod().bytes.wrapping_sub(cons);
        let turn = self.others_turn();
        !turn && self.lane.ring().is_none_or(|ring| used < ring.capacity())
    }

    /// The other end is copying out of the ring at this moment: see `spin_while_sending` in recv.rs. `true` if there is room for a
    /// small piece.
    fn spin_while_receiving(&self) -> bool {
        let Some(ring) = self.lane.ring() else {
            return false;
        };
        if self.others_turn() {
            return false;
        }
        let enough = PIECE.min(ring.capacity().wrapping_shr(1));
        // SAFETY: no requirements.
        let start = unsafe { ffi::ts_clock_us() };
        while self.link.peer_is_receiving() {
            let prod = self.lane.cursors.prod();
            if prod.tx_closed || prod.rx_closed {
                return true;
            }
            if prod
                .bytes
                .wrapping_sub(self.lane.cursors.cons())
                .wrapping_add(enough)
                <= ring.capacity()
            {
                return true;
            }
            spin_loop();
            // SAFETY: no requirements.
            let (stop, now) = unsafe { (ffi::ts_must_stop_spinning(), ffi::ts_clock_us()) };
            if stop || now.wrapping_sub(start) >= OWNER_SPIN_US {
                return false;
            }
        }
        false
    }

    /// Sleeps until there may be room, unless there is already. No lane lock held.
    fn sleep(&mut self) {
        self.kept.keep(self.link);
        Point::Full.pass();
        let mut wait = Wait::new();
        // SAFETY: the caller's own socket; `wait` stays on this frame until it is ended.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            ffi::ts_set_nospace(self.sk);
            Point::ParkedForRoom.pass();
            if !self.may_go_on() {
                self.pause();
            }
            ffi::ts_wait_end(self.sk, &mut wait);
        }
    }

    /// Sleeps; while the ring could still grow, no longer than it takes to know a receiver that does not read.
    ///
    /// Should another sender grow it right after `may_go_on` looked, it wakes this one, which is on the queue already.
    fn pause(&mut self) {
        let left = self.timeout();
        // SAFETY: no requirements; ready to sleep.
        let stall = unsafe { ffi::ts_stall_jiffies() };
        if left <= stall || self.others_turn() || !self.link.may_grow(self.lane) {
            // SAFETY: as above.
            self.timeout = Some(unsafe { ffi::ts_sleep(self.call, left) });
            return;
        }
        let cons = self.lane.cursors.cons();
        if self.waiting.is_none_or(|(before, _)| before != cons) {
            // SAFETY: no requirements.
            self.waiting = Some((cons, unsafe { ffi::ts_clock_us() }));
        }
        // SAFETY: as above.
        let unused = unsafe { ffi::ts_sleep(self.call, stall) };
        // MAX_SCHEDULE_TIMEOUT stays what it is: it stands for "no timeout" (sock_intr_errno()).
        if left != c_long::MAX {
            self.timeout = Some(left.wrapping_sub(stall.wrapping_sub(unused)));
        }
    }

    /// Has TCP ended, the socket disconnected, or the lane gone back to TCP?
    fn has_news(&self) -> bool {
        // SAFETY: the caller's own socket.
        let gone = unsafe { ffi::ts_disconnects(self.sk) } != self.disconnects;
        gone || View::of(self.sk, self.link).any(ENDED) || !self.lane.handoff.in_ring()
    }

    /// Is there a reason not to sleep? Leaves a wish for space behind if not.
    fn may_go_on(&self) -> bool {
        if self.has_news() {
            return true;
        }
        if self.others_turn() {
            return false;
        }
        let cons = self.lane.cursors.want_space();
        let prod = self.lane.cursors.prod();
        let used = prod.bytes.wrapping_sub(cons);
        prod.tx_closed
            || prod.rx_closed
            || self
                .lane
                .ring()
                .is_none_or(|ring| cursors::writeable(ring.capacity(), used))
    }
}
