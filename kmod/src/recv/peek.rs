// SPDX-License-Identifier: GPL-2.0-only
//! MSG_PEEK: what a reader would get, without giving anything back.

use super::{Look, Recv, Stop, To};
use crate::ffi::{self, EAGAIN};
use crate::pair::Rx;
use core::ffi::c_int;
use tcp_splice_core::handoff::{Next, Snapshot};

impl Recv<'_> {
    /// MSG_PEEK: as `take`, but nothing is given back.
    pub(super) fn peek(&mut self, rx: &Rx) -> Result<Look, Stop> {
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
    pub(super) fn peek_what_there_is(&mut self, rx: &Rx) {
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
        let leaving = matches!(self.lane.handoff.snapshot(), Snapshot::Leaving { .. })
            || self.lane.cursors.prod().rx_closed;
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
        let To::Msg(msg) = self.to else { return 0 };
        self.reset_control(msg);
        // SAFETY: as in `take_tcp`; receive lock held, so nobody else peeks.
        let got = unsafe { ffi::ts_base_peek_nowait(self.sk, msg, want, self.flags, offset) };
        self.copied = self.copied.wrapping_add(usize::try_from(got).unwrap_or(0));
        got
    }

    fn peek_ring(&mut self, mut pos: u64, mut bytes: u64) -> Stop {
        let Some(ring) = self.lane.ring() else {
            return Stop::Done;
        };
        while bytes > 0 && self.rest() > 0 {
            let got = match self.copy(ring, pos, bytes.min(self.rest() as u64)) {
                Ok(got) => got,
                Err(stop) => return stop,
            };
            pos = pos.wrapping_add(got as u64);
            bytes = bytes.wrapping_sub(got as u64);
            self.copied = self.copied.wrapping_add(got);
            self.from_ring = self.from_ring.wrapping_add(got);
        }
        Stop::Done
    }
}
