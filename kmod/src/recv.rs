// SPDX-License-Identifier: GPL-2.0-only
//! recv(): TCP's bytes and the ring's, merged in the order in which they were sent.
//!
//! # Budget of a small recv() of bytes that are there
//!
//! Two atomics for the receive lock, one to give the bytes back. Shared cache lines: `prod` and, of a message that is not in its line
//! (`core::short`), the bytes are read, `cons` is written; the sender's lines are touched only when it asked for space. TCP's state is not looked at while the ring is in use and
//! has bytes.

use crate::delay::Point;
use crate::ffi::{self, Call, Control, EAGAIN, EFAULT, EPIPE, ESTALE, Msg, Pipe, RxView, Sock, Wait};
use crate::pair::{Guard, Kept, Lane, Link, Rx};
use crate::ring::{self, Copied, Ring};
use crate::stats::Counter;
use core::ffi::{c_int, c_long, c_ulong};
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::Ordering;
use tcp_splice_core::handoff::{Mark, Next, Seen, Snapshot, Source, TcpView, Use};
use tcp_splice_core::span::{PIECE, piece};

mod peek;
mod pipe;

/// Looks at `prod` between two looks at the clock while spinning.
const SPINS: u32 = 32;

/// How long to count on the other end being about to finish its piece, in units of 1.024 µs: it may be in a page fault.
pub(crate) const OWNER_SPIN_US: u64 = 30;

/// Everything a reader decides from.
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) tcp: RxView,
    pub(crate) seen: Seen,
    /// No later than `seen`.
    mark: Mark,
}

/// A socket and the lane it reads from.
struct Eyes<'a> {
    sk: *const Sock,
    lane: &'a Lane,
    tcp: RxView,
    mark: Mark,
}

impl Source for Eyes<'_> {
    fn tcp(&mut self) -> TcpView {
        // SAFETY: the caller's own socket; the callee ends with a read barrier.
        unsafe { ffi::ts_rx_view(self.sk, &mut self.tcp) };
        TcpView {
            copied: self.tcp.copied,
            received: self.tcp.received,
        }
    }

    fn prod(&mut self) -> u64 {
        Point::SeenTcp.pass();
        self.lane.cursors.prod().bytes
    }

    fn lane(&mut self) -> Snapshot {
        Point::SeenProd.pass();
        self.mark = self.lane.handoff.mark();
        self.lane.handoff.snapshot()
    }
}

impl Look {
    /// Looks. Any context.
    pub(crate) fn at(sk: *const Sock, lane: &Lane) -> Self {
        let mut eyes = Eyes {
            sk,
            lane,
            tcp: RxView::default(),
            mark: lane.handoff.mark(),
        };
        let seen = Seen::of(&mut eyes);
        Look {
            tcp: eyes.tcp,
            seen,
            mark: eyes.mark,
        }
    }

    /// Would another look see anything else? Any context.
    fn is_over(&self, sk: *const Sock, lane: &Lane) -> bool {
        let mut tcp = RxView::default();
        // SAFETY: the caller's own socket.
        unsafe { ffi::ts_rx_view(sk, &mut tcp) };
        lane.cursors.prod().bytes != self.seen.prod()
            || lane.handoff.mark() != self.mark
            || tcp != self.tcp
    }

    /// Bytes in TCP's queue, a FIN counting as one.
    fn queued(&self) -> u32 {
        self.seen.tcp().queued()
    }

    /// TCP has come to an end of some kind.
    pub(crate) fn ended(&self) -> bool {
        self.tcp.flags & !ffi::RX_URGENT != 0
    }

    /// The next TCP byte is urgent: a call that has bytes stops before it (tcp_recvmsg_locked()).
    fn at_mark(&self) -> bool {
        self.tcp.flags & ffi::RX_URGENT != 0
    }
}

/// Where the bytes go.
#[derive(Clone, Copy)]
enum To {
    /// To the caller's buffers.
    Msg(*mut Msg),
    /// Into a pipe, whose lock is held: splice(2).
    Pipe(*mut Pipe),
}

/// One call of recv(), or of splice(2).
struct Recv<'a> {
    link: Link<'a>,
    lane: &'a Lane,
    sk: *mut Sock,
    to: To,
    len: usize,
    flags: c_int,
    call: *mut Call,
    /// `sk_disconnects` of the link's connection.
    disconnects: u32,
    kept: Kept,
    copied: usize,
    /// Of `copied`, those from the ring.
    from_ring: usize,
    /// Where control messages go, since the first base call. Each of them, and our own, begins there.
    control: Option<Control>,
}

/// Why a call ends without having filled its buffer.
enum Stop {
    /// With what it has.
    Done,
    /// With what it has, else with this result.
    Result(c_int),
}

/// recvmsg() of a paired socket. Process context, no locks held.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_spliced")]
extern "C" fn tcp_splice_recvmsg(
    link: c_ulong,
    sk: *mut Sock,
    msg: *mut Msg,
    len: usize,
    flags: c_int,
    call: *mut Call,
) -> c_int {
    // SAFETY: a call of this socket is running; this is its own.
    let (link, disconnects) = unsafe { (Link::from_word(link), (*call).disconnects) };
    let (Some(link), 0) = (link, flags & (ffi::MSG_OOB | ffi::MSG_ERRQUEUE)) else {
        return ffi::BASE;
    };
    let mut rx = link.lock_rx();
    if let Some(got) = at_once(link, sk, msg, len, flags, &mut rx) {
        let_go(link, rx, false);
        return got as c_int;
    }
    let recv = Recv {
        link,
        lane: link.inbound(),
        sk,
        to: To::Msg(msg),
        len,
        flags,
        call,
        disconnects,
        kept: Kept::NOT_YET,
        copied: 0,
        from_ring: 0,
        control: None,
    };
    recv.run(rx)
}

/// Not for [`at_once`].
const UNUSUAL: c_int = ffi::MSG_PEEK | ffi::MSG_TRUNC | ffi::MSG_WAITALL;

/// The usual case, in few instructions: the ring is in use, TCP's bytes before it are read, and a piece of what it has is all that there is or
/// that the caller has room for. `None`: not so, and nothing was done.
#[inline(always)]
fn at_once(
    link: Link<'_>,
    sk: *const Sock,
    msg: *mut Msg,
    len: usize,
    flags: c_int,
    rx: &mut Rx,
) -> Option<usize> {
    let there = settled(link.inbound(), rx)?;
    let want = there.min(len as u64);
    // SAFETY: the caller's own socket and message.
    if flags & UNUSUAL != 0
        || want.wrapping_sub(1) >= PIECE
        || unsafe { ffi::ts_recv_extras(sk, msg) } != 0
        || (want < len as u64 && want < target(sk, len, false) as u64)
    {
        return None;
    }
    let ring = link.inbound().ring()?;
    let taken = match link.inbound().cursors.short(rx.cons, there) {
        Some(words) => {
            // SAFETY: the message is the caller's.
            let taken = unsafe { ring::drain_words(&words, want as usize, msg) };
            Counter::ShortMessages.add(taken.into());
            taken
        }
        // SAFETY: receive lock held, these bytes are published and not given back, the message is the caller's.
        None => unsafe { ring.drain_at_once(rx.cons, want as usize, msg) },
    };
    if !taken {
        return None;
    }
    give_back(link, ring, rx, want, there.wrapping_sub(want));
    Some(want as usize)
}

/// While one use of the ring lasts and TCP's bytes before it are read, only the ring counts: its unread bytes.
fn settled(lane: &Lane, rx: &Rx) -> Option<u64> {
    let prod = || {
        let prod = lane.cursors.prod().bytes;
        Point::SeenProd.pass();
        prod
    };
    let prod = lane.handoff.settled_prod(rx.settled, prod)?;
    (prod > rx.cons).then(|| prod.wrapping_sub(rx.cons))
}

/// Gives the next `bytes` bytes, of which nothing is needed any more, back to the sender; `unread` more are there.
#[inline(always)]
fn give_back(link: Link<'_>, ring: &Ring, rx: &mut Rx, bytes: u64, unread: u64) {
    let cursors = &link.inbound().cursors;
    let end = rx.cons.wrapping_add(bytes);
    ring.let_go(end, unread);
    let wanted = cursors.consume(rx.cons, bytes);
    rx.cons = end;
    if wanted {
        Point::GivenBack.pass();
        if cursors.is_worth_waking(ring.capacity(), end) {
            // SAFETY: a slot of the pair.
            unsafe { ffi::ts_notify_writeable(link.peer_slot()) };
        }
    }
}

/// Ends a call that has given bytes back; `waited`: it had to wait for them.
#[inline(always)]
fn let_go(link: Link<'_>, rx: Guard<'_, Rx>, waited: bool) {
    let emptied = rx.cons == link.inbound().cursors.prod().bytes;
    drop(rx);
    if emptied {
        link.wake_ahead(waited);
    }
}

/// Bytes that must be there before a call for `len` may return.
fn target(sk: *const Sock, len: usize, waitall: bool) -> usize {
    let len = c_int::try_from(len).unwrap_or(c_int::MAX);
    // SAFETY: the caller's own socket.
    usize::try_from(unsafe { ffi::ts_rcvlowat(sk, waitall, len) }).unwrap_or(1)
}

impl<'a> Recv<'a> {
    #[inline(never)]
    #[unsafe(link_section = ".text..ts_spliced")]
    fn run(mut self, mut rx: Guard<'a, Rx>) -> c_int {
        let (mut timeout, mut waited) = (None, false);
        let result = loop {
            let look = match self.take(&mut rx) {
                Ok(look) => look,
                Err(Stop::Done) => break 0,
                Err(Stop::Result(result)) => break result,
            };
            let left = *timeout.get_or_insert_with(|| self.timeout());
            if let Some(error) = Self::must_not_wait(left) {
                if self.is(ffi::MSG_PEEK) {
                    self.peek_what_there_is(&rx);
                }
                break error;
            }
            if self.is_for_tcp() {
                break ffi::BASE;
            }
            drop(rx);
            waited = true;
            timeout = Some(self.wait(&look, left));
            rx = self.link.lock_rx();
            if let (To::Msg(msg), 0) = (self.to, self.copied) {
                if let Some(got) = at_once(self.link, self.sk, msg, self.len, self.flags, &mut rx) {
                    let_go(self.link, rx, true);
                    return got as c_int;
                }
            }
        };
        // As tcp_recvmsg_locked() after it has waited; a call that has not yet is made again, by ts_recvmsg().
        let result = if result == -ESTALE && waited {
            -EPIPE
        } else {
            result
        };
        let extras = if result >= 0 || self.copied > 0 {
            self.extras(&rx)
        } else {
            0
        };
        if self.from_ring > 0 && !self.is(ffi::MSG_PEEK) {
            let_go(self.link, rx, waited);
        } else {
            drop(rx);
        }
        if extras & ffi::EXTRA_INQ != 0 {
            self.report_inq();
        }
        if self.copied > 0 {
            self.copied as c_int
        } else {
            result
        }
    }

    /// Nothing was read, and all there is and will be is TCP's: the socket was handed back.
    fn is_for_tcp(&self) -> bool {
        // Whoever disconnects counts first, and then leaves the pair.
        // SAFETY: the caller's own socket.
        self.copied == 0
            && self.link.is_unlinked()
            && unsafe { ffi::ts_disconnects(self.sk) } == self.disconnects
    }

    fn timeout(&self) -> c_long {
        // SAFETY: the caller's own socket.
        if self.is(ffi::MSG_DONTWAIT) {
            0
        } else {
            unsafe { ffi::ts_rcvtimeo(self.sk) }
        }
    }

    /// The error of a call that would have to wait but may not.
    fn must_not_wait(timeout: c_long) -> Option<c_int> {
        if timeout == 0 {
            return Some(-EAGAIN);
        }
        // SAFETY: no requirements.
        unsafe { ffi::ts_signal_pending().then(|| ffi::ts_intr_errno(timeout)) }
    }

    fn is(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }

    fn rest(&self) -> usize {
        self.len.wrapping_sub(self.copied)
    }

    /// Bytes that must be there before the call may return.
    fn target(&self) -> usize {
        if matches!(self.to, To::Pipe(_)) {
            return 1;
        }
        target(self.sk, self.len, self.is(ffi::MSG_WAITALL))
    }

    /// Takes what there is. `Ok` with what was seen last: nothing more to take, not enough yet, and no end in sight.
    fn take(&mut self, rx: &mut Rx) -> Result<Look, Stop> {
        if self.is(ffi::MSG_PEEK) {
            return self.peek(rx);
        }
        loop {
            self.take_settled(rx)?;
            let look = self.look()?;
            match look.seen.next(rx.cons) {
                Next::Ring(bytes) => {
                    rx.settled = self
                        .lane
                        .handoff
                        .use_of_ring()
                        .filter(|_| matches!(look.seen.lane(), Snapshot::Ring { .. }))
                        .unwrap_or(Use::NONE);
                    self.take_ring(rx, bytes)?;
                    if self.rest() == 0 {
                        return Err(Stop::Done);
                    }
                    continue;
                }
                Next::Tcp(_) if self.copied > 0 && look.at_mark() => return Err(Stop::Done),
                Next::Tcp(bytes) if self.take_tcp(bytes)? => {
                    if self.rest() == 0 {
                        return Err(Stop::Done);
                    }
                    continue;
                }
                // Base would not give them: it stops at an urgent mark when a signal is pending. The caller looks at signals.
                Next::Tcp(_) if self.copied == 0 => return Ok(look),
                Next::Tcp(_) => return Err(Stop::Done),
                Next::Await => {}
            }
            if self.copied > 0 && (look.ended() || self.copied >= self.target()) {
                return Err(Stop::Done);
            }
            if !look.ended() {
                return Ok(look);
            }
            self.end()?;
        }
    }

    /// The quick way.
    fn take_settled(&mut self, rx: &mut Rx) -> Result<(), Stop> {
        let Some(bytes) = settled(self.lane, rx) else {
            return Ok(());
        };
        self.take_ring(rx, bytes)?;
        if self.rest() == 0 || self.copied >= self.target() {
            Err(Stop::Done)
        } else {
            Ok(())
        }
    }

    /// Looks, if the socket still has the connection that the link is of.
    #[unsafe(link_section = ".text..ts_spliced")]
    fn look(&self) -> Result<Look, Stop> {
        let look = Look::at(self.sk, self.lane);
        if look.tcp.disconnects == self.disconnects {
            Ok(look)
        } else {
            Err(Stop::Result(-ESTALE))
        }
    }

    /// At most `bytes` from the ring.
    #[unsafe(link_section = ".text..ts_spliced")]
    fn take_ring(&mut self, rx: &mut Rx, mut bytes: u64) -> Result<(), Stop> {
        let Some(ring) = self.lane.ring() else {
            return Err(Stop::Done);
        };
        while bytes > 0 && self.rest() > 0 {
            let got = self.copy(ring, rx.cons, bytes.min(self.rest() as u64))?;
            bytes = bytes.wrapping_sub(got as u64);
            self.copied = self.copied.wrapping_add(got);
            self.from_ring = self.from_ring.wrapping_add(got);
            give_back(self.link, ring, rx, got as u64, bytes);
        }
        Ok(())
    }

    /// Some of `want` bytes from position `pos`, to where they are wanted.
    #[unsafe(link_section = ".text..ts_spliced")]
    fn copy(&self, ring: &Ring, pos: u64, want: u64) -> Result<usize, Stop> {
        let to = match self.to {
            To::Pipe(pipe) => return self.to_pipe(pipe, ring, pos, want),
            To::Msg(_) if self.is(ffi::MSG_TRUNC) => ptr::null_mut(),
            To::Msg(msg) => msg,
        };
        // SAFETY: receive lock held, these bytes are published and not given back, the message is the caller's.
        match unsafe { ring.drain(pos, piece(want, ring.capacity()), to) } {
            Copied::Bytes(got) => Ok(got),
            _ => Err(Stop::Result(-EFAULT)),
        }
    }

    /// At most `bytes` by base recvmsg; `true` if it had some.
    #[unsafe(link_section = ".text..ts_spliced")]
    fn take_tcp(&mut self, bytes: u32) -> Result<bool, Stop> {
        let want = self.rest().min(bytes as usize);
        let got = match self.to {
            To::Pipe(pipe) => self.tcp_to_pipe(pipe, want)?,
            To::Msg(msg) => {
                self.reset_control(msg);
                // SAFETY: as the kernel would have called it, with a shorter length. It takes no lane lock and does not wait for data.
                unsafe { ffi::ts_base_recvmsg_nowait(self.sk, msg, want, self.flags) }
            }
        };
        match got {
            got if got > 0 => {
                self.copied = self.copied.wrapping_add(got as usize);
                Ok(true)
            }
            0 => Err(Stop::Done),
            error if error == -EAGAIN => Ok(false),
            error => Err(Stop::Result(error)),
        }
    }

    /// Forgets the control messages of an earlier base call.
    fn reset_control(&mut self, msg: *mut Msg) {
        let control = self.control(msg);
        // SAFETY: the caller's message.
        unsafe { ffi::ts_control_reset(msg, control) };
    }

    fn control(&mut self, msg: *mut Msg) -> Control {
        // SAFETY: the caller's message.
        *self.control.get_or_insert_with(|| unsafe { ffi::ts_control_of(msg) })
    }

    /// Nothing is left and TCP has ended: what does it say? `Ok` if it changed its mind (another thread fetched the error).
    fn end(&mut self) -> Result<(), Stop> {
        // SAFETY: the caller's own socket; no lock that comes after the socket's is held.
        match unsafe { ffi::ts_rx_end(self.sk) } {
            error if error == -EAGAIN => Ok(()),
            result => Err(Stop::Result(result)),
        }
    }

    /// Spins, then sleeps, until something differs from `look`. No lane lock held. Returns the jiffies left.
    #[unsafe(link_section = ".text..ts_spliced")]
    fn wait(&mut self, look: &Look, timeout: c_long) -> c_long {
        if self.spin_while_sending(look) || self.spin(look) {
            return timeout;
        }
        self.lane.parked.store(true, Ordering::Relaxed);
        self.kept.keep(self.link);
        Point::Parking.pass();
        let mut wait = Wait::new();
        let mut left = timeout;
        // SAFETY: the caller's own socket; `wait` stays on this frame until it is ended.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            Point::Parked.pass();
            // On the queue and ready to sleep: what changed before is seen here, what changes from now on wakes us.
            if !look.is_over(self.sk, self.lane) && !self.is_for_tcp() {
                left = ffi::ts_sleep(self.call, left);
                let came = self.has_more_than(look) || look.is_over(self.sk, self.lane);
                self.lane.judge_wake(came);
            }
            ffi::ts_wait_end(self.sk, &mut wait);
        }
        self.lane.parked.store(false, Ordering::Relaxed);
        left
    }

    /// The other end is copying into the ring at this moment: sleeping would cost more than the rest of its piece takes. As a
    /// mutex spins while its owner runs; ends when the other end leaves send() or sleeps there. `true` if something came.
    fn spin_while_sending(&self, look: &Look) -> bool {
        let left = || (!self.link.peer_is_sending()).then_some(false);
        left().is_none() && self.spin_for(OWNER_SPIN_US, look, left)
    }

    /// Busy polls within the connection's budget, or without one for as long as has proved right; `true` if something came.
    fn spin(&self, look: &Look) -> bool {
        match self.lane.busy_poll_us(self.sk) {
            0 => self.spin_as_learnt(look),
            budget => self.spin_for(u64::from(budget), look, || self.has_news(look)),
        }
    }

    /// Something differs from `look`, or the lane was handed back: then there is nothing to wait for here.
    fn has_news(&self, look: &Look) -> Option<bool> {
        (look.is_over(self.sk, self.lane) || self.is_for_tcp()).then_some(true)
    }

    /// Spins for as long as answers have taken lately, on a processor that nobody else wants, while the other end may answer on another one;
    /// `true` if something came.
    fn spin_as_learnt(&self, look: &Look) -> bool {
        let lane = self.lane;
        // SAFETY: no requirements.
        let max = unsafe { ffi::ts_spin_us() };
        if max == 0 || !lane.comes_from_elsewhere() {
            return false;
        }
        // SAFETY: no requirements.
        if !unsafe { ffi::ts_is_alone_here() } || !lane.begin_spin() {
            return false;
        }
        let came = self.spin_within(look, max);
        lane.end_spin();
        came
    }

    /// The same, when this is the one thread that may spin.
    fn spin_within(&self, look: &Look, max: u32) -> bool {
        let lane = self.lane;
        let both = self.link.outbound().spins.load(Ordering::Relaxed);
        let (budget, spin) = lane.spin().plan(both, max);
        if budget == 0 {
            lane.learn_to_spin(spin, 0);
            return false;
        }
        let was_spinning = lane.spins.load(Ordering::Relaxed);
        if !was_spinning {
            lane.spins.store(true, Ordering::Relaxed);
        }
        // SAFETY: no requirements.
        let start = unsafe { ffi::ts_clock_us() };
        let end = || {
            // SAFETY: no requirements.
            if self.link.peer_awaits_us() || !unsafe { ffi::ts_is_alone_here() } {
                return Some(false);
            }
            self.has_news(look)
        };
        let came = self.spin_for(u64::from(budget), look, end);
        // SAFETY: no requirements.
        let spun = unsafe { ffi::ts_clock_us() }.wrapping_sub(start);
        let us = u32::try_from(spun).unwrap_or(u32::MAX);
        let learnt = match came {
            true => spin.hit(us),
            false if us >= budget => spin.miss(),
            // Nothing was learnt of how long an answer takes.
            false => spin,
        };
        lane.learn_to_spin(learnt, spun);
        if !came {
            lane.spins.store(false, Ordering::Relaxed);
        }
        came
    }

    /// Spins until bytes come (`true`), the time is over, the task is wanted elsewhere, or `end`, asked now and then, has an answer.
    fn spin_for(&self, budget_us: u64, look: &Look, end: impl Fn() -> Option<bool>) -> bool {
        // SAFETY: no requirements.
        let start = unsafe { ffi::ts_clock_us() };
        loop {
            for _ in 0..SPINS {
                if self.has_more_than(look) {
                    return true;
                }
                spin_loop();
            }
            // SAFETY: no requirements.
            let (stop, now) = unsafe { (ffi::ts_must_stop_spinning(), ffi::ts_clock_us()) };
            if stop || now.wrapping_sub(start) >= budget_us {
                return false;
            }
            if let Some(answer) = end() {
                return answer;
            }
        }
    }

    /// Ring bytes came since `look`: most often the news, and quickly seen.
    fn has_more_than(&self, look: &Look) -> bool {
        self.lane.cursors.prod().bytes != look.seen.prod()
    }

    /// After the copying, lock still held: moves SO_PEEK_OFF; says what else is wanted.
    fn extras(&self, _rx: &Guard<'a, Rx>) -> u32 {
        let To::Msg(msg) = self.to else { return 0 };
        // SAFETY: the caller's own socket and message.
        let extras = unsafe { ffi::ts_recv_extras(self.sk, msg) };
        if extras & ffi::EXTRA_PEEK_OFF != 0 && self.from_ring > 0 {
            // SAFETY: as above.
            unsafe {
                ffi::ts_peek_off_move(self.sk, self.from_ring as c_int, self.is(ffi::MSG_PEEK))
            };
        }
        extras
    }

    /// TCP_INQ and msg_get_inq: what is left, a FIN counting as one, 1 at the end of the stream (tcp_inq_hint()).
    fn report_inq(&mut self) {
        let look = Look::at(self.sk, self.lane);
        let ring = look.seen.ring_readable(self.lane.cursors.cons());
        let left =
            c_int::try_from(ring.saturating_add(u64::from(look.queued()))).unwrap_or(c_int::MAX);
        let inq = if left == 0 && look.tcp.flags & ffi::RX_DONE != 0 {
            1
        } else {
            left
        };
        if let To::Msg(msg) = self.to {
            let control = self.control(msg);
            // SAFETY: the caller's own socket and message.
            unsafe { ffi::ts_put_inq(self.sk, msg, inq, control) };
        }
    }
}
