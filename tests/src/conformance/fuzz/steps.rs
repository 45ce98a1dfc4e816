// SPDX-License-Identifier: GPL-2.0-only
//! One call after another, on either end. Before each call all that was sent has arrived, so its result is TCP's to the byte.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use libc::{
    IPPROTO_TCP, MSG_CONFIRM, MSG_DONTWAIT, MSG_EOR, MSG_ERRQUEUE, MSG_MORE, MSG_OOB, MSG_PEEK,
    MSG_WAITALL, MSG_ZEROCOPY, POLLERR, POLLHUP, POLLPRI, POLLRDHUP, SOL_SOCKET,
};
use nix::fcntl::SpliceFFlags;
use socket2::SockRef;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::{sizes, sys};

use crate::calls;
use crate::cases::transfer::file_with;
use crate::observe::{ALL, soon};
use crate::run::{Pair, Run};
use crate::trace;

/// With more than this unread, a direction is read empty before more is sent: TCP would hold packets back.
const BYTES: usize = 20_000;
const MESSAGES: usize = 20;

/// Longest message.
const LONGEST: usize = 6000;

/// The names of the ends.
const NAMES: [&str; 2] = ["client", "server"];

/// One direction, named after its sender.
#[derive(Debug, Default)]
struct Flow {
    sent: u64,
    unread: usize,
    messages: usize,
    /// Its sender shut it down, or its receiver did; not both, since bytes would make a reset.
    shut: bool,
    deaf: bool,
    /// SO_RCVLOWAT of its receiver, if that was set.
    mark: usize,
}

/// What poll(2) says of bytes.
const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;

impl Flow {
    /// There are bytes, fewer than the mark: a direction that goes back to TCP says that it is readable, so that nobody misses the moment at
    /// which it is (README.md).
    fn is_below_the_mark(&self) -> bool {
        (1..self.mark).contains(&self.unread)
    }
}

struct Steps<'a> {
    r: &'a Run,
    rng: Rng,
    ends: [TcpStream; 2],
    flows: [Flow; 2],
    patterns: [Pattern; 2],
}

/// Runs the program that `seed` names.
pub fn run(r: &Run, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let mut flows: [Flow; 2] = Default::default();
    let Pair { client, server } = match rng.u32(..4) {
        0 => {
            flows[0].unread = 9;
            r.half(b"over TCP ")?
        }
        1 => r.cold()?,
        _ => r.warm()?,
    };
    let count = rng.usize(5..60);
    let mut steps = Steps {
        r,
        rng,
        ends: [client, server],
        flows,
        patterns: [Pattern::new(seed), Pattern::new(!seed)],
    };
    for _ in 0..count {
        steps.step()?;
    }
    steps.finish()
}

impl Steps<'_> {
    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(..one_in) == 0
    }

    fn step(&mut self) -> Result<()> {
        let end = self.rng.usize(..2);
        match self.rng.u32(..100) {
            0..40 => self.send(end),
            40..75 => self.receive(end),
            75..88 => self.look(end),
            88..95 => self.set(end),
            95..97 => self.urgent(end),
            97..98 => self.shut(end),
            _ => {
                // A second descriptor that goes again.
                drop(self.ends[end].try_clone()?);
                Ok(())
            }
        }
    }

    /// The next bytes that `end` sends.
    fn next(&mut self, end: usize) -> Vec<u8> {
        let length = sizes::length(&mut self.rng).min(LONGEST);
        self.patterns[end].bytes(self.flows[end].sent, length)
    }

    fn send(&mut self, end: usize) -> Result<()> {
        if self.flows[end].unread > BYTES || self.flows[end].messages > MESSAGES {
            self.empty(1 - end);
        }
        let bytes = self.next(end);
        let how = self.rng.u32(..20);
        let what = format!("{} sends {} by {how}", NAMES[end], bytes.len());
        let sent = self.sent(end, &bytes, how);
        self.r.result(&what, sent.as_ref().map_err(again));
        let flow = &mut self.flows[end];
        let count = sent.unwrap_or(0);
        flow.sent += count as u64;
        flow.unread += count;
        flow.messages += 1;
        self.r.arrived(&self.ends[1 - end], self.flows[end].unread);
        Ok(())
    }

    /// Sends in one of many ways; how much went.
    fn sent(&mut self, end: usize, bytes: &[u8], how: u32) -> std::io::Result<usize> {
        let quiet = libc::MSG_NOSIGNAL;
        let cut = self.rng.usize(..=bytes.len());
        let (one, other) = bytes.split_at(cut);
        let socket = &self.ends[end];
        match how {
            0 => sys::send(socket, bytes, quiet | MSG_EOR),
            1 => sys::send(socket, bytes, quiet | MSG_CONFIRM),
            2 | 3 => calls::sendmsg(socket, &[one, b"", other], &[], quiet),
            4 => calls::sendmmsg(socket, &[one, other], quiet).map(|sent| sent.iter().sum()),
            5 | 6 => {
                let file = file_with(bytes).map_err(std::io::Error::other)?;
                Ok(nix::sys::sendfile::sendfile(
                    socket,
                    &file,
                    None,
                    bytes.len(),
                )?)
            }
            7 | 8 => {
                let (out, into) = nix::unistd::pipe()?;
                let there = nix::unistd::write(&into, bytes)?;
                let flags = SpliceFFlags::empty();
                Ok(nix::fcntl::splice(&out, None, socket, None, there, flags)?)
            }
            9 => {
                let sent = sys::send_with_timestamp(socket, bytes);
                self.completion(end, sent.is_ok());
                sent
            }
            10 => {
                sys::set_option(socket, SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
                let sent = sys::send(socket, bytes, quiet | MSG_ZEROCOPY);
                self.completion(end, sent.is_ok());
                sent
            }
            11 => {
                let first = sys::send(socket, one, quiet | MSG_MORE)?;
                // After a shutdown the first has failed already.
                sys::send(socket, other, quiet).map(|second| first + second)
            }
            12 => sys::send_nowhere(socket, bytes.len()),
            _ => sys::send(socket, bytes, quiet | MSG_DONTWAIT),
        }
    }

    /// Takes what a send left in the error queue, so that polling says nothing of it any more.
    fn completion(&self, end: usize, sent: bool) {
        let take = || calls::recvmsg(&self.ends[end], &mut [], MSG_ERRQUEUE).is_ok();
        if sent {
            self.r.note("completion", soon(take));
        }
    }

    fn receive(&mut self, end: usize) -> Result<()> {
        let length = sizes::length(&mut self.rng);
        let unread = self.flows[1 - end].unread;
        let how = self.rng.u32(..20);
        let what = format!("{} receives {length} of {unread} by {how}", NAMES[end]);
        let got = match how {
            0 | 1 => {
                self.r
                    .recv(&what, &self.ends[end], length, MSG_PEEK | MSG_DONTWAIT);
                0
            }
            2 => {
                self.r
                    .result(&what, sys::recv_nowhere(&self.ends[end], length));
                0
            }
            3 => {
                let flags = [MSG_OOB, MSG_PEEK | MSG_OOB][self.rng.usize(..2)];
                self.r
                    .recv(&what, &self.ends[end], length, flags | MSG_DONTWAIT);
                0
            }
            4 | 5 => {
                let got = sys::discard(&self.ends[end], length, MSG_DONTWAIT);
                self.r.result(&what, got.as_ref().map_err(again));
                got.unwrap_or(0)
            }
            6 => self.receive_messages(&what, end, length),
            7 | 8 => self.receive_parts(&what, end, length),
            9 | 10 => self.receive_by_splice(&what, end, length)?,
            11 | 12 if unread > 0 => {
                // Enough is there, so it does not wait.
                let length = length.min(unread);
                let flags = if how == 11 { MSG_WAITALL } else { 0 };
                self.received(&what, end, length, flags)
            }
            _ => {
                let flags = [0, MSG_WAITALL][self.rng.usize(..2)];
                self.received(&what, end, length, flags | MSG_DONTWAIT)
            }
        };
        self.taken(end, got);
        Ok(())
    }

    fn taken(&mut self, end: usize, count: usize) {
        let flow = &mut self.flows[1 - end];
        flow.unread = flow.unread.saturating_sub(count);
        if flow.unread == 0 {
            flow.messages = 0;
        }
    }

    fn received(&self, what: &str, end: usize, length: usize, flags: i32) -> usize {
        let mut buffer = vec![0; length];
        let got = sys::recv(&self.ends[end], &mut buffer, flags);
        let words = got.as_ref().map(|&count| trace::bytes(&buffer[..count]));
        self.r.result(what, words.map_err(again));
        got.unwrap_or(0)
    }

    fn receive_messages(&mut self, what: &str, end: usize, length: usize) -> usize {
        let mut buffers = vec![vec![0; length.div_ceil(3)]; 3];
        let got = calls::recvmmsg(&self.ends[end], &mut buffers, MSG_DONTWAIT);
        self.r.result(
            what,
            got.as_ref().map(|got| format!("{got:?}")).map_err(again),
        );
        let got = got.unwrap_or_default();
        let parts = buffers.iter().zip(&got);
        let bytes: Vec<u8> = parts
            .flat_map(|(part, &count)| &part[..count])
            .copied()
            .collect();
        self.r.note("bytes", trace::bytes(&bytes));
        bytes.len()
    }

    fn receive_parts(&mut self, what: &str, end: usize, length: usize) -> usize {
        let mut buffer = vec![0; length];
        let size = self.rng.usize(1..=length).max(length / 100 + 1);
        let mut parts: Vec<&mut [u8]> = buffer.chunks_mut(size).collect();
        let message = calls::recvmsg(&self.ends[end], &mut parts, MSG_DONTWAIT);
        let words = message.as_ref().map(|message| {
            let left = message.control(IPPROTO_TCP, libc::TCP_INQ);
            let left = left.and_then(calls::Control::number);
            let flags = trace::message_flags(message.flags);
            format!(
                "{}, flags {flags}, left {left:?}",
                trace::bytes(&buffer[..message.count])
            )
        });
        self.r.result(what, words.map_err(again));
        message.map_or(0, |message| message.count)
    }

    /// How much splice(2) takes at once depends on how the bytes lie, so only all of it is noted. Its own flag does not keep it from
    /// waiting for the socket.
    fn receive_by_splice(&mut self, what: &str, end: usize, length: usize) -> Result<usize> {
        let (out, into) = nix::unistd::pipe()?;
        let mut all = Vec::new();
        let mut buffer = vec![0; length];
        self.ends[end].set_nonblocking(true)?;
        let how = loop {
            let (want, flags) = (length - all.len(), SpliceFFlags::SPLICE_F_NONBLOCK);
            if want == 0 {
                break "all".to_owned();
            }
            match nix::fcntl::splice(&self.ends[end], None, &into, None, want, flags) {
                Ok(0) => break "end".to_owned(),
                Ok(count) => {
                    let mut left = count;
                    while left > 0 {
                        let count = nix::unistd::read(&out, &mut buffer[..left])?;
                        all.extend_from_slice(&buffer[..count]);
                        left -= count;
                    }
                }
                Err(error) => break format!("{error:?}"),
            }
        };
        self.r
            .note(what, format_args!("{}, {how}", trace::bytes(&all)));
        Ok(all.len())
    }

    fn look(&mut self, end: usize) -> Result<()> {
        let (r, socket) = (self.r, &self.ends[end]);
        match self.rng.u32(..10) {
            0..5 if self.flows[1 - end].is_below_the_mark() => {
                poll_but(r, &format!("{} polls", NAMES[end]), socket, 0, READABLE);
            }
            0..5 => poll(r, &format!("{} polls", NAMES[end]), socket, 0),
            5..7 => r.readable("FIONREAD", socket),
            7 => r.option("low-water mark", socket, SOL_SOCKET, libc::SO_RCVLOWAT),
            8 => r.option("peek offset", socket, SOL_SOCKET, libc::SO_PEEK_OFF),
            _ => r.error("SO_ERROR", socket),
        }
        Ok(())
    }

    fn set(&mut self, end: usize) -> Result<()> {
        let options: [(i32, i32, &[i32]); 9] = [
            (SOL_SOCKET, libc::SO_RCVLOWAT, &[0, 1, 1, 10, 1000]),
            (SOL_SOCKET, libc::SO_PEEK_OFF, &[-1, 0, 5, 300]),
            (SOL_SOCKET, libc::SO_TIMESTAMP, &[0, 0, 1]),
            (SOL_SOCKET, libc::SO_KEEPALIVE, &[0, 1]),
            (SOL_SOCKET, libc::SO_BUSY_POLL, &[0, 20]),
            (SOL_SOCKET, libc::SO_PRIORITY, &[0, 3]),
            (IPPROTO_TCP, libc::TCP_INQ, &[0, 1]),
            (IPPROTO_TCP, libc::TCP_QUICKACK, &[0, 1]),
            (SOL_SOCKET, libc::SO_DETACH_FILTER, &[0]),
        ];
        let (level, name, values) = options[self.rng.usize(..options.len())];
        let value = values[self.rng.usize(..values.len())];
        let what = format!("{} sets {level}/{name} to {value}", NAMES[end]);
        if name == libc::SO_RCVLOWAT {
            self.flows[1 - end].mark = value as usize;
        }
        self.r.set(&what, &self.ends[end], (level, name), value);
        if name == libc::SO_DETACH_FILTER && self.chance(2) {
            let attached = calls::attach_filter(&self.ends[end], u32::MAX);
            self.r.done("attaches filter", attached);
        }
        Ok(())
    }

    /// An urgent byte behind some others, read at once, and then all before it.
    fn urgent(&mut self, end: usize) -> Result<()> {
        if self.flows[end].shut || self.flows[end].deaf {
            return Ok(());
        }
        let length = self.rng.usize(1..5);
        let bytes = self.patterns[end].bytes(self.flows[end].sent, length);
        let name = NAMES[end];
        // TCP does not wake a reader that has a part already for less than the mark.
        let mark = (SOL_SOCKET, libc::SO_RCVLOWAT);
        self.r.set("no mark", &self.ends[1 - end], mark, 1);
        self.flows[end].mark = 1;
        self.r.send(
            &format!("{name} sends {length} urgently"),
            &self.ends[end],
            &bytes,
            MSG_OOB,
        );
        let other = &self.ends[1 - end];
        poll(self.r, "urgent", other, POLLPRI);
        self.r.recv("urgent byte", other, 1, MSG_OOB);
        self.flows[end].sent += length as u64;
        self.flows[end].unread += length - 1;
        self.empty(1 - end);
        // FIONREAD counts up to the mark until something behind it is read.
        let bytes = self.patterns[end].bytes(self.flows[end].sent, 3);
        self.r
            .send("sends behind the mark", &self.ends[end], &bytes, 0);
        self.flows[end].sent += 3;
        self.flows[end].unread = 3;
        self.empty(1 - end);
        Ok(())
    }

    /// Reads all that is there for `end`.
    fn empty(&mut self, end: usize) {
        let unread = self.flows[1 - end].unread;
        self.r.take(
            &format!("{} takes all", NAMES[end]),
            &self.ends[end],
            unread,
        );
        self.taken(end, unread);
    }

    fn shut(&mut self, end: usize) -> Result<()> {
        let (own, other) = (&self.flows[end], &self.flows[1 - end]);
        if self.rng.bool() && !own.shut && !other.deaf {
            self.r.done(
                "shuts down writing",
                self.ends[end].shutdown(Shutdown::Write),
            );
            self.flows[end].shut = true;
            poll(self.r, "told", &self.ends[1 - end], POLLRDHUP);
        } else if !own.shut {
            self.r.done(
                "shuts down reading",
                self.ends[end].shutdown(Shutdown::Read),
            );
            self.flows[1 - end].deaf = true;
        }
        Ok(())
    }

    /// One end goes in some way, and the other sees what it sees.
    fn finish(mut self) -> Result<()> {
        let (end, how) = (self.rng.usize(..2), self.rng.u32(..5));
        let send_first = self.rng.bool();
        self.r.note("ends", format_args!("{} by {how}", NAMES[end]));
        let [client, server] = self.ends;
        let (gone, stays) = if end == 0 {
            (client, server)
        } else {
            (server, client)
        };
        let kept = match how {
            0 => {
                SockRef::from(&gone).set_linger(Some(Duration::ZERO))?;
                drop(gone);
                None
            }
            1 => {
                self.r.done("shutdown", gone.shutdown(Shutdown::Both));
                Some(gone)
            }
            2 => {
                self.r.done("disconnect", sys::disconnect(&gone));
                Some(gone)
            }
            _ => {
                drop(gone);
                None
            }
        };
        let r = self.r;
        soon(|| end_has_come(&stays));
        poll(r, "sees", &stays, POLLRDHUP);
        if send_first {
            let sent = sys::send(&stays, b"to nobody", libc::MSG_NOSIGNAL);
            let told = sent.is_ok();
            r.result("sends", sent);
            if told {
                poll(r, "answer", &stays, POLLHUP);
            }
        }
        r.end("reads", &stays);
        r.error("SO_ERROR", &stays);
        r.send("sends", &stays, b"late", 0);
        r.end("reads", &stays);
        if let Some(gone) = kept {
            r.recv("the other reads", &gone, 100, MSG_DONTWAIT);
            r.send("the other sends", &gone, b"later", 0);
        }
        Ok(())
    }
}

/// Has the other end's FIN come, or its reset? An end that has shut down reading by itself has POLLRDHUP without.
fn end_has_come(socket: &TcpStream) -> bool {
    /// TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2 of net/tcp_states.h.
    const BEFORE: [u8; 3] = [1, 4, 5];
    let info = calls::get_bytes(socket, IPPROTO_TCP, libc::TCP_INFO, 8);
    // tcpi_state is its first byte.
    info.is_ok_and(|info| info.first().is_some_and(|state| !BEFORE.contains(state)))
}

/// Waits until poll(2) says all of `events` and notes all that it says but POLLERR: a packet that is sent again is reported again in the
/// error queue, which is chance.
fn poll(r: &Run, what: &str, socket: &TcpStream, events: i16) {
    poll_but(r, what, socket, events, 0);
}

/// The same, and says nothing of the events `unsaid`.
fn poll_but(r: &Run, what: &str, socket: &TcpStream, events: i16, unsaid: i16) {
    let now = || calls::poll(socket, ALL, 0);
    soon(|| now().is_ok_and(|now| now & events == events));
    let events = now().map(|now| trace::events((now & !POLLERR & !unsaid).into()));
    r.result(what, events);
}

/// The same error once more: it is told and used.
fn again(error: &std::io::Error) -> std::io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), std::io::Error::from_raw_os_error)
}
