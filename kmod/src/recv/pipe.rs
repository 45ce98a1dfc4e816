// SPDX-License-Identifier: GPL-2.0-only
//! splice(2) from a spliced socket: a recv() whose bytes go into a pipe, lent where there are enough of them (`pipe.c`).
//!
//! The pipe's lock is held throughout, also while waiting, as in tcp_splice_read().

use super::{Recv, Stop, To};
use crate::ffi::{self, Call, EAGAIN, ENOBUFS, Pipe, Sock};
use crate::pair::{Kept, Link};
use crate::ring::Ring;
use crate::stats::Counter;
use core::ffi::{c_int, c_ulong};
use core::sync::atomic::Ordering;

/// splice_read() of a paired socket. Process context, the pipe's lock held.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_pipe(
    link: c_ulong,
    sk: *mut Sock,
    pipe: *mut Pipe,
    len: usize,
    flags: c_int,
    call: *mut Call,
) -> c_int {
    // SAFETY: a call of this socket is running; this is its own.
    let (link, disconnects) = unsafe { (Link::from_word(link), (*call).disconnects) };
    let (Some(link), true) = (link, len > 0) else {
        return 0;
    };
    let recv = Recv {
        link,
        lane: link.inbound(),
        sk,
        to: To::Pipe(pipe),
        len,
        flags,
        call,
        disconnects,
        kept: Kept::NOT_YET,
        copied: 0,
        from_ring: 0,
        control: None,
    };
    recv.run(link.lock_rx())
}

impl Recv<'_> {
    /// Some of `want` ring bytes from position `pos` into the pipe.
    pub(super) fn to_pipe(
        &self,
        pipe: *mut Pipe,
        ring: &Ring,
        pos: u64,
        want: u64,
    ) -> Result<usize, Stop> {
        let (from, len) = ring.published(pos, want).ok_or(Stop::Done)?;
        let lend = ring.is_lendable(pos)
            && self.lane.lends.load(Ordering::Relaxed)
            // SAFETY: no requirements.
            && unsafe { ffi::ts_pipe_lends(len) };
        // SAFETY: receive lock held and these bytes published, so nobody writes to them before they are given back; lent ones not even
        // then, before the pipe is through with them (`Ring::chunk_or_alloc`). The pipe is the caller's, its lock held.
        let got = unsafe { ffi::ts_pipe_add(pipe, from.as_ptr(), len, lend) };
        match usize::try_from(got) {
            Ok(got) => {
                if lend {
                    Counter::LentBytes.add(got as u64);
                }
                Ok(got)
            }
            Err(_) => Err(Stop::Result(got as c_int)),
        }
    }

    /// At most `want` of TCP's bytes into the pipe; as base recvmsg.
    pub(super) fn tcp_to_pipe(&self, pipe: *mut Pipe, want: usize) -> Result<c_int, Stop> {
        // SAFETY: the caller's own socket and pipe; base does not wait for data.
        match unsafe { ffi::ts_pipe_base_recv(self.sk, pipe, want) } as c_int {
            // Not "nothing there", which would be waited for.
            full if full == -ENOBUFS => Err(Stop::Result(-EAGAIN)),
            other => Ok(other),
        }
    }
}
