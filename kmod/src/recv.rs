// SPDX-License-Identifier: GPL-2.0-only
//! recv(): TCP's bytes and the ring's, merged in the order in which they were sent.
//!
//! # Budget of a small recv() of bytes that are there
//!
//! Two atomics for the receive lock, one to give the bytes back. Shared cache lines: `prod` and the bytes are read, `cons` is
//! written; the sender's lines are touched only when it asked for space. TCP's state is not looked at while the ring is in use and
//! has bytes.

use crate::ffi::{self, EAGAIN, EFAULT, EPIPE, ESTALE, Msg, RxView, Sock, Wait};
use crate::pair::{Guard, Lane, Link, PIECE, Rx};
use crate::ring::{Copied, Ring};
use core::ffi::{c_int, c_long, c_ulong};
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::Ordering;
use tcp_splice_core::cursors;
use tcp_splice_core::handoff::{Next, Seen, Snapshot, Source, TcpView};

/// Looks at `prod` between two looks at the clock while spinning.
const SPINS: u32 = 32;

/// How long to count on the other end being about to finish its piece, in units of 1.024 µs: it may be in a page fault.
pub(crate) const OWNER_SPIN_US: u64 = 30;

/// Everything a reader decides from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) tcp: RxView,
    pub(crate) seen: Seen,
}

/// A socket and the lane it reads from.
struct Eyes<'a> {
    sk: *const Sock,
    lane: &'a Lane,
    tcp: RxView,
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
        self.lane.cursors.prod().bytes
    }

    fn lane(&mut self) -> Snapshot {
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
        };
        let seen = Seen::of(&mut eyes);
        Look {
            tcp: eyes.tcp,
            seen,
        }
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

/// One call of recv().
struct Recv<'a> {
    link: Link<'a>,
    lane: &'a Lane,
    sk: *mut Sock,
    msg: *mut Msg,
    len: usize,
    flags: c_int,
    /// `sk_disconnects` of the link's connection.
    disconnects: u32,
    copied: usize,
    /// Of `copied`, those from the ring.
    from_ring: usize,
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
extern "C" fn tcp_splice_recvmsg(
    link: c_ulong,
    sk: *mut Sock,
    msg: *mut Msg,
    len: usize,
    flags: c_int,
    disconnects: u32,
) -> c_int {
    // SAFETY: a call of this socket is running.
    let link = unsafe { Link::from_word(link) };
    let (Some(link), 0) = (link, flags & (ffi::MSG_OOB | ffi::MSG_ERRQUEUE)) else {
        // SAFETY: as the kernel would have called it.
        return unsafe { ffi::ts_base_recvmsg(sk, msg, len, flags) };
    };
    Recv {
        link,
        lane: link.inbound(),
        sk,
        msg,
        len,
        flags,
        disconnects,
        copied: 0,
        from_ring: 0,
    }
    .run()
}

impl<'a> Recv<'a> {
    fn run(mut self) -> c_int {
        let mut rx = self.link.lock_rx();
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
            drop(rx);
            waited = true;
            timeout = Some(self.wait(&look, left));
            rx = self.link.lock_rx();
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
        let emptied = self.from_ring > 0
            && !self.is(ffi::MSG_PEEK)
            && rx.cons == self.lane.cursors.prod().bytes;
        drop(rx);
        if emptied {
            self.link.wake_ahead(waited);
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
        let len = c_int::try_from(self.len).unwrap_or(c_int::MAX);
        // SAFETY: the caller's own socket.
        let target = unsafe { ffi::ts_rcvlowat(self.sk, self.is(ffi::MSG_WAITALL), len) };
        usize::try_from(target).unwrap_or(1)
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
                        .filter(|_| matches!(look.seen.lane(), Snapshot::Ring { .. }));
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

    /// The quick way: while one use of the ring lasts and TCP's bytes before it are read, only the ring counts.
    fn take_settled(&mut self, rx: &mut Rx) -> Result<(), Stop> {
        let prod = || self.lane.cursors.prod().bytes;
        let bytes = match self.lane.handoff.settled_prod(rx.settled, prod) {
            Some(prod) if prod > rx.cons => prod.wrapping_sub(rx.cons),
            _ => return Ok(()),
        };
        self.take_ring(rx, bytes)?;
        if self.rest() == 0 || self.copied >= self.target() {
            Err(Stop::Done)
        } else {
            Ok(())
        }
    }

    /// Looks, if the socket still has the connection that the link is of.
    fn look(&self) -> Result<Look, Stop> {
        let look = Look::at(self.sk, self.lane);
        if look.tcp.disconnects == self.disconnects {
            Ok(look)
        } else {
            Err(Stop::Result(-ESTALE))
        }
    }

    /// At most `bytes` from the ring.
    fn take_ring(&mut self, rx: &mut Rx, mut bytes: u64) -> Result<(), Stop> {
        let Some(ring) = self.lane.ring() else {
            return Err(Stop::Done);
        };
        let to = if self.is(ffi::MSG_TRUNC) {
            ptr::null_mut()
        } else {
            self.msg
        };
        while bytes > 0 && self.rest() > 0 {
            let want = bytes.min(self.rest() as u64).min(PIECE);
            // SAFETY: receive lock held, these bytes are published and not given back, the message is the caller's.
            let Copied::Bytes(got) = (unsafe { ring.drain(rx.cons, want, to) }) else {
                return Err(Stop::Result(-EFAULT));
            };
            bytes = bytes.wrapping_sub(got as u64);
            ring.let_go(rx.cons.wrapping_add(got as u64), bytes);
            let wanted = self.lane.cursors.consume(rx.cons, got as u64);
            rx.cons = rx.cons.wrapping_add(got as u64);
            self.copied = self.copied.wrapping_add(got);
            self.from_ring = self.from_ring.wrapping_add(got);
            if wanted {
                self.space_freed(rx, ring);
            }
        }
        Ok(())
    }

    /// Somebody waits for space: enough of it now? If not, the wish is kept for the next time; the ring is not empty, so there
    /// will be one.
    fn space_freed(&self, rx: &Rx, ring: &Ring) {
        let used = self.lane.cursors.prod().bytes.wrapping_sub(rx.cons);
        if cursors::writeable(ring.capacity(), used) {
            // SAFETY: a slot of the pair.
            unsafe { ffi::ts_notify_writeable(self.link.peer_slot()) };
        } else {
            self.lane.cursors.want_space();
        }
    }

    /// At most `bytes` by base recvmsg; `true` if it had some.
    fn take_tcp(&mut self, bytes: u32) -> Result<bool, Stop> {
        let want = self.rest().min(bytes as usize);
        // SAFETY: as the kernel would have called it, with a shorter length. It takes no lane lock and does not wait for data.
        match unsafe { ffi::ts_base_recvmsg_nowait(self.sk, self.msg, want, self.flags) } {
            got if got > 0 => {
                self.copied = self.copied.wrapping_add(got as usize);
                Ok(true)
            }
            0 => Err(Stop::Done),
            error if error == -EAGAIN => Ok(false),
            error => Err(Stop::Result(error)),
        }
    }

    /// Nothing is left and TCP has ended: what does it say? `Ok` if it changed its mind (another thread fetched the error).
    fn end(&mut self) -> Result<(), Stop> {
        // SAFETY: the caller's own socket; no lock that comes after the socket's is held.
        match unsafe { ffi::ts_rx_end(self.sk) } {
            error if error == -EAGAIN => Ok(()),
            result => Err(Stop::Result(result)),
        }
    }

    /// MSG_PEEK: as `take`, but nothing is given back.
    fn peek(&mut self, rx: &Rx) -> Result<Look, Stop> {
        loop {
            let look = self.look()?;
            let there = self.peekable(&look, rx);
            if there > 0 && (there >= self.peek_target(there) || look.ended()) {
                return match self.peek_at(&look, rx) {
                    // As in `take`: base would not give them.
                    Stop::Done if self.copied == 0 && self.rest() > 0 => Ok(look),
                    stop => Err(stop),
                };
            }
            if there > 0 || !look.ended() {
                return Ok(look);
            }
            // A FIN in TCP's queue is base's to find, and counts as an end.
            self.end()?;
        }
    }

    /// The call may not wait for more: it takes what there is.
    fn peek_what_there_is(&mut self, rx: &Rx) {
        let Ok(look) = self.look() else { return };
        if self.peekable(&look, rx) > 0 {
            // A fault leaves nothing copied, and then the caller's error stands.
            self.peek_at(&look, rx);
        }
    }

    /// SO_PEEK_OFF, 0 when it is off.
    fn peek_skip(&self) -> u64 {
        // SAFETY: the caller's own socket.
        u64::try_from(unsafe { ffi::ts_peek_off(self.sk) }).unwrap_or(0)
    }

    /// Bytes that a peek could show: TCP's first, the ring's after them, and behind a ring segment that has ended TCP's again.
    fn peekable(&self, look: &Look, rx: &Rx) -> u64 {
        let fin = u64::from(look.tcp.flags & ffi::RX_DONE != 0);
        let ring = look.seen.ring_readable(rx.cons);
        let queued = u64::from(look.queued()).saturating_sub(fin);
        queued.saturating_add(ring).saturating_sub(self.peek_skip())
    }

    /// As `target`, but no more than the ring can hold beyond what is there already.
    fn peek_target(&self, there: u64) -> u64 {
        let leaving = matches!(self.lane.handoff.snapshot(), Snapshot::Leaving { .. });
        let full = !self.link.may_grow(self.lane)
            && self.lane.ring().is_some_and(|r| there >= r.capacity());
        if full || leaving {
            there
        } else {
            self.target() as u64
        }
    }

    /// Copies what `look` shows, segment by segment.
    fn peek_at(&mut self, look: &Look, rx: &Rx) -> Stop {
        let ring = look.seen.ring_readable(rx.cons);
        let first = match look.seen.next(rx.cons) {
            Next::Tcp(bytes) => bytes,
            _ => 0,
        };
        let skip = self.peek_skip();
        if skip < u64::from(first) {
            let left = u64::from(first).wrapping_sub(skip) as u32;
            match self.take_tcp(left) {
                Ok(_) if self.copied < left as usize => return Stop::Done,
                Ok(_) => {}
                Err(stop) => return stop,
            }
        }
        let skip = skip.saturating_sub(u64::from(first));
        if skip < ring {
            if let Stop::Result(error) =
                self.peek_ring(rx.cons.wrapping_add(skip), ring.wrapping_sub(skip))
            {
                return Stop::Result(error);
            }
        }
        let skip = skip.saturating_sub(ring);
        match self.peek_behind(u64::from(first).saturating_add(skip), look.queued()) {
            error if error < 0 && error != -EAGAIN => Stop::Result(error),
            _ => Stop::Done,
        }
    }

    /// TCP's bytes behind the ring's: those of its `queued` from `offset` on.
    fn peek_behind(&mut self, offset: u64, queued: u32) -> c_int {
        let behind = u64::from(queued).saturating_sub(offset);
        let want = behind.min(self.rest() as u64) as usize;
        let Ok(offset) = c_int::try_from(offset) else {
            return 0;
        };
        if want == 0 {
            return 0;
        }
        // SAFETY: as in `take_tcp`; receive lock held, so nobody else peeks.
        let got = unsafe { ffi::ts_base_peek_nowait(self.sk, self.msg, want, self.flags, offset) };
        self.copied = self.copied.wrapping_add(usize::try_from(got).unwrap_or(0));
        got
    }

    fn peek_ring(&mut self, mut pos: u64, mut bytes: u64) -> Stop {
        let Some(ring) = self.lane.ring() else {
            return Stop::Done;
        };
        let to = if self.is(ffi::MSG_TRUNC) {
            ptr::null_mut()
        } else {
            self.msg
        };
        while bytes > 0 && self.rest() > 0 {
            // SAFETY: as in `take_ring`.
            let Copied::Bytes(got) =
                (unsafe { ring.drain(pos, bytes.min(self.rest() as u64), to) })
            else {
                return Stop::Result(-EFAULT);
            };
            pos = pos.wrapping_add(got as u64);
            bytes = bytes.wrapping_sub(got as u64);
            self.copied = self.copied.wrapping_add(got);
            self.from_ring = self.from_ring.wrapping_add(got);
        }
        Stop::Done
    }

    /// Spins, then sleeps, until something differs from `look`. No lane lock held. Returns the jiffies left.
    fn wait(&self, look: &Look, timeout: c_long) -> c_long {
        if self.spin_while_sending(look) || self.spin(look) {
            return timeout;
        }
        self.lane.parked.store(true, Ordering::Relaxed);
        let mut wait = Wait([0; 8]);
        let mut left = timeout;
        // SAFETY: the caller's own socket; `wait` stays on this frame until it is ended.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            // On the queue and ready to sleep: what changed before is seen here, what changes from now on wakes us.
            if Look::at(self.sk, self.lane) == *look {
                left = ffi::ts_schedule_timeout(left);
                self.lane.judge_wake(Look::at(self.sk, self.lane) != *look);
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

    /// Busy polls within the connection's budget; `true` if something came.
    fn spin(&self, look: &Look) -> bool {
        let budget = u64::from(self.lane.busy_poll_us(self.sk));
        let changed = || (Look::at(self.sk, self.lane) != *look).then_some(true);
        budget > 0 && self.spin_for(budget, look, changed)
    }

    /// Spins until bytes come (`true`), the time is over, the task is wanted elsewhere, or `end`, asked now and then, has an answer.
    fn spin_for(&self, budget_us: u64, look: &Look, end: impl Fn() -> Option<bool>) -> bool {
        // SAFETY: no requirements.
        let start = unsafe { ffi::ts_clock_us() };
        loop {
            for _ in 0..SPINS {
                if self.lane.cursors.prod().bytes != look.seen.prod() {
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

    /// After the copying, lock still held: moves SO_PEEK_OFF; says what else is wanted.
    fn extras(&self, _rx: &Guard<'a, Rx>) -> u32 {
        // SAFETY: the caller's own socket and message.
        let extras = unsafe { ffi::ts_recv_extras(self.sk, self.msg) };
        if extras & ffi::EXTRA_PEEK_OFF != 0 && self.from_ring > 0 {
            // SAFETY: as above.
            unsafe {
                ffi::ts_peek_off_move(self.sk, self.from_ring as c_int, self.is(ffi::MSG_PEEK))
            };
        }
        extras
    }

    /// TCP_INQ and msg_get_inq: what is left, a FIN counting as one, 1 at the end of the stream (tcp_inq_hint()).
    fn report_inq(&self) {
        let look = Look::at(self.sk, self.lane);
        let ring = look.seen.ring_readable(self.lane.cursors.cons());
        let left =
            c_int::try_from(ring.saturating_add(u64::from(look.queued()))).unwrap_or(c_int::MAX);
        let inq = if left == 0 && look.tcp.flags & ffi::RX_DONE != 0 {
            1
        } else {
            left
        };
        // SAFETY: the caller's own socket and message.
        unsafe { ffi::ts_put_inq(self.sk, self.msg, inq) };
    }
}
