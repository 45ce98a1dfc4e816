// SPDX-License-Identifier: GPL-2.0-only
//! recv(): TCP's bytes and the ring's, merged in the order in which they were sent.
//!
//! # Budget of a small recv() of bytes that are there
//!
//! Two atomics for the receive lock, one to give the bytes back. Shared cache lines: `prod` and the bytes are read, `cons` is
//! written; the sender's lines are touched only when it asked for space. TCP's state is not looked at while the ring is in use and
//! has bytes.

use crate::ffi::{self, EAGAIN, EFAULT, EPIPE, Msg, RxView, Sock, Wait};
use crate::pair::{Guard, Lane, Link, PIECE, Rx};
use crate::ring::{Copied, Ring};
use core::ffi::{c_int, c_long, c_ulong};
use core::hint::spin_loop;
use core::mem::MaybeUninit;
use core::ptr;
use tcp_splice_core::cursors;
use tcp_splice_core::handoff::{self, Next, Snapshot, TcpView};

/// Looks at `prod` between two looks at the clock while spinning.
const SPINS: u32 = 32;

/// Everything a reader decides from, taken in the order that [`handoff::next`] asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) tcp: RxView,
    pub(crate) lane: Snapshot,
    pub(crate) prod: u64,
}

impl Look {
    /// Takes the snapshots. Any context.
    pub(crate) fn at(sk: *const Sock, lane: &Lane) -> Self {
        let mut tcp = MaybeUninit::uninit();
        // SAFETY: the caller's own socket; the callee fills everything in and ends with a read barrier.
        let tcp = unsafe {
            ffi::ts_rx_view(sk, tcp.as_mut_ptr());
            tcp.assume_init()
        };
        let snapshot = lane.handoff.snapshot();
        Look { tcp, lane: snapshot, prod: lane.cursors.prod().bytes }
    }

    pub(crate) fn view(&self) -> TcpView {
        TcpView { copied: self.tcp.copied, received: self.tcp.received }
    }

    fn next(&self, cons: u64) -> Next {
        handoff::next(self.view(), self.lane, self.prod, cons)
    }

    /// TCP has come to an end of some kind.
    fn ended(&self) -> bool {
        self.tcp.flags != 0
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

/// How waiting ended.
enum Waited {
    /// Something came while spinning.
    Bytes,
    /// Perhaps something came; this many jiffies of the timeout are left.
    Slept(c_long),
    /// connect(AF_UNSPEC) by another thread.
    Disconnected,
}

/// recvmsg() of a paired socket. Process context, no locks held.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_recvmsg(link: c_ulong, sk: *mut Sock, msg: *mut Msg, len: usize, flags: c_int) -> c_int {
    // SAFETY: a call of this socket is running.
    let link = unsafe { Link::from_word(link) };
    let (Some(link), 0) = (link, flags & (ffi::MSG_OOB | ffi::MSG_ERRQUEUE)) else {
        // SAFETY: as the kernel would have called it.
        return unsafe { ffi::ts_base_recvmsg(sk, msg, len, flags) };
    };
    Recv { link, lane: link.inbound(), sk, msg, len, flags, copied: 0, from_ring: 0 }.run()
}

impl<'a> Recv<'a> {
    fn run(mut self) -> c_int {
        let mut rx = self.link.lock_rx();
        let mut timeout = None;
        let result = loop {
            let look = match self.take(&mut rx) {
                Ok(look) => look,
                Err(Stop::Done) => break 0,
                Err(Stop::Result(result)) => break result,
            };
            let left = *timeout.get_or_insert_with(|| self.timeout());
            if let Some(error) = Self::must_not_wait(left) {
                break error;
            }
            drop(rx);
            let waited = self.wait(&look, left);
            rx = self.link.lock_rx();
            match waited {
                Waited::Bytes => {}
                Waited::Slept(left) => timeout = Some(left),
                Waited::Disconnected => break -EPIPE,
            }
        };
        let extras = if result >= 0 || self.copied > 0 { self.extras(&rx) } else { 0 };
        drop(rx);
        if extras & ffi::EXTRA_INQ != 0 {
            self.report_inq();
        }
        if self.copied > 0 { self.copied as c_int } else { result }
    }

    fn timeout(&self) -> c_long {
        // SAFETY: the caller's own socket.
        if self.is(ffi::MSG_DONTWAIT) { 0 } else { unsafe { ffi::ts_rcvtimeo(self.sk) } }
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
            let look = Look::at(self.sk, self.lane);
            match look.next(rx.cons) {
                Next::Ring(bytes) => {
                    rx.settled = self.lane.handoff.use_of_ring().filter(|_| matches!(look.lane, Snapshot::Ring { .. }));
                    self.take_ring(rx, bytes)?;
                    if self.rest() == 0 {
                        return Err(Stop::Done);
                    }
                    continue;
                }
                Next::Tcp(bytes) if self.take_tcp(bytes)? => {
                    if self.rest() == 0 {
                        return Err(Stop::Done);
                    }
                    continue;
                }
                // Base found nothing after all (urgent data, say), or there is nothing.
                Next::Tcp(_) | Next::Await => {}
            }
            if self.copied > 0 && (look.ended() || self.copied >= self.target()) {
                return Err(Stop::Done);
            }
            if !look.ended() {
                return Ok(look);
            }
            self.end(&look)?;
        }
    }

    /// The quick way: while one use of the ring lasts and TCP's bytes before it are read, only the ring counts.
    fn take_settled(&mut self, rx: &mut Rx) -> Result<(), Stop> {
        if rx.settled.is_none() || rx.settled != self.lane.handoff.use_of_ring() {
            return Ok(());
        }
        let bytes = self.lane.cursors.prod().bytes.saturating_sub(rx.cons);
        if bytes == 0 {
            return Ok(());
        }
        self.take_ring(rx, bytes)?;
        if self.rest() == 0 || self.copied >= self.target() { Err(Stop::Done) } else { Ok(()) }
    }

    /// At most `bytes` from the ring.
    fn take_ring(&mut self, rx: &mut Rx, mut bytes: u64) -> Result<(), Stop> {
        let Some(ring) = self.lane.ring() else { return Err(Stop::Done) };
        let to = if self.is(ffi::MSG_TRUNC) { ptr::null_mut() } else { self.msg };
        while bytes > 0 && self.rest() > 0 {
            let want = bytes.min(self.rest() as u64).min(PIECE);
            // SAFETY: receive lock held, these bytes are published and not given back, the message is the caller's.
            let Copied::Bytes(got) = (unsafe { ring.drain(rx.cons, want, to) }) else {
                return Err(Stop::Result(-EFAULT));
            };
            let wanted = self.lane.cursors.consume(rx.cons, got as u64);
            rx.cons = rx.cons.wrapping_add(got as u64);
            bytes = bytes.wrapping_sub(got as u64);
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
    fn end(&mut self, look: &Look) -> Result<(), Stop> {
        if look.tcp.flags == ffi::RX_SHUT {
            // Our own shutdown(SHUT_RD): the end for now, though more may come (tcp_recvmsg_locked()).
            return Err(Stop::Done);
        }
        // The end was seen before TCP's queue, and nothing is queued after an end: base can only report it.
        // SAFETY: as in `take_tcp`.
        match unsafe { ffi::ts_base_recvmsg_nowait(self.sk, self.msg, self.rest(), self.flags) } {
            error if error == -EAGAIN => Ok(()),
            got if got > 0 => {
                self.copied = self.copied.wrapping_add(got as usize);
                Err(Stop::Done)
            }
            result => Err(Stop::Result(result)),
        }
    }

    /// MSG_PEEK: as `take`, but nothing is given back. Bytes below a border are base's to peek at; a peek does not cross it.
    fn peek(&mut self, rx: &mut Rx) -> Result<Look, Stop> {
        loop {
            let look = Look::at(self.sk, self.lane);
            // SAFETY: the caller's own socket.
            let skip = u64::try_from(unsafe { ffi::ts_peek_off(self.sk) }).unwrap_or(0);
            let first = match look.next(rx.cons) {
                Next::Tcp(bytes) => u64::from(bytes),
                _ => 0,
            };
            if skip < first {
                let left = first.wrapping_sub(skip).min(u64::from(u32::MAX)) as u32;
                return if self.take_tcp(left)? { Err(Stop::Done) } else { Ok(look) };
            }
            let skip = skip.wrapping_sub(first);
            let there = handoff::ring_readable(look.view(), look.lane, look.prod, rx.cons).saturating_sub(skip);
            if there > 0 && (there >= self.peek_target(skip) || look.ended() || self.is(ffi::MSG_DONTWAIT)) {
                return Err(self.peek_ring(rx.cons.wrapping_add(skip), there));
            }
            if there == 0 && look.ended() {
                self.end(&look)?;
                continue;
            }
            return Ok(look);
        }
    }

    /// As `target`, but no more than the ring can hold.
    fn peek_target(&self, skip: u64) -> u64 {
        let capacity = self.lane.ring().map_or(0, Ring::capacity);
        (self.target() as u64).min(capacity.saturating_sub(skip)).max(1)
    }

    fn peek_ring(&mut self, mut pos: u64, mut bytes: u64) -> Stop {
        let Some(ring) = self.lane.ring() else { return Stop::Done };
        let to = if self.is(ffi::MSG_TRUNC) { ptr::null_mut() } else { self.msg };
        while bytes > 0 && self.rest() > 0 {
            // SAFETY: as in `take_ring`.
            let Copied::Bytes(got) = (unsafe { ring.drain(pos, bytes.min(self.rest() as u64), to) }) else {
                return Stop::Result(-EFAULT);
            };
            pos = pos.wrapping_add(got as u64);
            bytes = bytes.wrapping_sub(got as u64);
            self.copied = self.copied.wrapping_add(got);
            self.from_ring = self.from_ring.wrapping_add(got);
        }
        Stop::Done
    }

    /// Spins, then sleeps, until something differs from `look`. No lane lock held.
    fn wait(&self, look: &Look, timeout: c_long) -> Waited {
        if self.spin(look) {
            return Waited::Bytes;
        }
        let mut wait = Wait([0; 8]);
        let mut left = timeout;
        // SAFETY: the caller's own socket; `wait` stays on this frame until it is ended.
        unsafe {
            ffi::ts_wait_begin(self.sk, &mut wait);
            // On the queue and ready to sleep: what changed before is seen here, what changes from now on wakes us.
            if Look::at(self.sk, self.lane) == *look {
                left = ffi::ts_schedule_timeout(left);
            }
            ffi::ts_wait_end(self.sk, &mut wait);
        }
        if Look::at(self.sk, self.lane).tcp.disconnects == look.tcp.disconnects {
            Waited::Slept(left)
        } else {
            Waited::Disconnected
        }
    }

    /// Busy polls within the connection's budget; `true` if something came.
    fn spin(&self, look: &Look) -> bool {
        let budget = u64::from(self.lane.busy_poll_us(self.sk));
        if budget == 0 {
            return false;
        }
        // SAFETY: no requirements.
        let start = unsafe { ffi::ts_clock_us() };
        loop {
            for _ in 0..SPINS {
                if self.lane.cursors.prod().bytes != look.prod {
                    return true;
                }
                spin_loop();
            }
            // SAFETY: no requirements.
            let (stop, now) = unsafe { (ffi::ts_must_stop_spinning(), ffi::ts_clock_us()) };
            if stop || now.wrapping_sub(start) >= budget {
                return false;
            }
            if Look::at(self.sk, self.lane) != *look {
                return true;
            }
        }
    }

    /// After the copying, lock still held: moves SO_PEEK_OFF; says what else is wanted.
    fn extras(&self, _rx: &Guard<'a, Rx>) -> u32 {
        // SAFETY: the caller's own socket and message.
        let extras = unsafe { ffi::ts_recv_extras(self.sk, self.msg) };
        if extras & ffi::EXTRA_PEEK_OFF != 0 && self.from_ring > 0 {
            // SAFETY: as above.
            unsafe { ffi::ts_peek_off_move(self.sk, self.from_ring as c_int, self.is(ffi::MSG_PEEK)) };
        }
        extras
    }

    /// TCP_INQ and msg_get_inq: what is left, 1 at the end of the stream (tcp_inq_hint()).
    fn report_inq(&self) {
        let inq = match crate::poll::inq(self.link, self.sk) {
            0 if Look::at(self.sk, self.lane).tcp.flags & ffi::RX_DONE != 0 => 1,
            inq => inq,
        };
        // SAFETY: the caller's own socket and message.
        unsafe { ffi::ts_put_inq(self.sk, self.msg, inq) };
    }
}
