// SPDX-License-Identifier: GPL-2.0-only
//! Calls that write down what they saw.

use std::fmt::Display;
use std::io;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use libc::c_int;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::sys;

use crate::calls::{self, Message};
use crate::run::Run;
use crate::signals;
use crate::trace::{self, TIME};

/// How long to wait for what has to happen before it is noted that it did not.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// And how often to look at least: an emulated machine may stand still for longer than that.
const LOOKS: usize = 500;

/// What poll(2) is asked for: all that a socket can tell.
pub const ALL: i16 = libc::POLLIN
    | libc::POLLPRI
    | libc::POLLOUT
    | libc::POLLRDNORM
    | libc::POLLRDBAND
    | libc::POLLWRNORM
    | libc::POLLWRBAND
    | libc::POLLRDHUP;

/// The bytes of longer streams.
pub const DATA: Pattern = Pattern::new(33);

/// Waits until `done` holds, for [`PATIENCE`] and [`LOOKS`].
pub fn soon(mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    for look in 1.. {
        if done() {
            return true;
        }
        if look >= LOOKS && begin.elapsed() > PATIENCE {
            break;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

/// A moment in which what must not happen could happen.
pub fn a_moment() {
    sleep(Duration::from_millis(15));
}

/// Sends without waiting until nothing more fits, and not a moment later either; how much went, from [`DATA`]'s beginning on.
pub fn fill(socket: &impl AsRawFd) -> usize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (mut sent, mut idle) = (0, 0);
    let mut bytes = vec![0; 1 << 16];
    // A full TCP socket may find room once more when its peer is asked after a zero window, which takes 200 ms.
    while idle < 17 {
        idle += 1;
        DATA.fill(sent as u64, &mut bytes);
        while let Ok(count) = sys::send(socket, &bytes, flags) {
            sent += count;
            idle = 0;
            DATA.fill(sent as u64, &mut bytes);
        }
        a_moment();
    }
    sent
}

/// Reads until `least` bytes came; true if they did, and were [`DATA`]'s from `position` on.
pub fn drain(socket: &impl AsRawFd, position: u64, least: usize) -> bool {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    soon(|| {
        loop {
            let room = buffer.len().min(least - all.len());
            match sys::recv(socket, &mut buffer[..room], libc::MSG_DONTWAIT) {
                Ok(count @ 1..) => all.extend_from_slice(&buffer[..count]),
                _ => return all.len() == least,
            }
        }
    });
    all.len() == least && DATA.check(position, &all).is_ok()
}

impl Run {
    /// Notes a result.
    pub fn result<T: Display, E: Into<io::Error>>(&self, what: &str, result: Result<T, E>) {
        self.note(what, trace::outcome(result));
    }

    /// Notes whether something could be done.
    pub fn done<E: Into<io::Error>>(&self, what: &str, result: Result<(), E>) {
        self.note(what, trace::done(result));
    }

    /// send(2).
    pub fn send(&self, what: &str, socket: &impl AsRawFd, bytes: &[u8], flags: c_int) {
        self.result(what, sys::send(socket, bytes, flags | libc::MSG_NOSIGNAL));
    }

    /// recv(2) of at most `length` bytes; notes which came.
    pub fn recv(&self, what: &str, socket: &impl AsRawFd, length: usize, flags: c_int) {
        let mut buffer = vec![0; length];
        let result = sys::recv(socket, &mut buffer, flags);
        self.result(what, result.map(|count| trace::bytes(&buffer[..count])));
    }

    /// recvmsg(2) of at most `length` bytes; notes which came and the flags.
    pub fn recvmsg(
        &self,
        what: &str,
        socket: &impl AsRawFd,
        length: usize,
        flags: c_int,
    ) -> Option<Message> {
        let mut buffer = vec![0; length];
        match calls::recvmsg(socket, &mut [&mut buffer], flags) {
            Ok(message) => {
                let flags = trace::message_flags(message.flags);
                let bytes = trace::bytes(&buffer[..message.count]);
                self.note(what, format_args!("{bytes}, flags {flags}"));
                Some(message)
            }
            Err(error) => {
                self.note(what, trace::error(&error));
                None
            }
        }
    }

    /// Reads until the end or an error; notes all bytes and how it ended.
    pub fn end(&self, what: &str, socket: &impl AsRawFd) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        let how = loop {
            match sys::recv(socket, &mut buffer, 0) {
                Ok(0) => break "end".to_owned(),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) => break trace::error(&error),
            }
        };
        self.note(what, format_args!("{}, then {how}", trace::bytes(&all)));
    }

    /// Reads exactly `length` bytes and notes them.
    pub fn take(&self, what: &str, socket: &impl AsRawFd, length: usize) {
        let mut all = vec![0; length];
        let mut got = 0;
        while got < length {
            match sys::recv(socket, &mut all[got..], 0) {
                Ok(0) => break,
                Ok(count) => got += count,
                Err(error) => {
                    let bytes = trace::bytes(&all[..got]);
                    self.note(what, format_args!("{bytes}, then {}", trace::error(&error)));
                    return;
                }
            }
        }
        self.note(what, trace::bytes(&all[..got]));
    }

    /// Waits until exactly `count` bytes can be read, by FIONREAD; notes it only if that does not happen.
    pub fn arrived(&self, socket: &impl AsRawFd, count: usize) {
        let ready = || sys::readable_bytes(socket).is_ok_and(|there| there == count);
        if !soon(ready) {
            let there = sys::readable_bytes(socket);
            let there = trace::outcome(there);
            self.note("bytes to read", format_args!("{there}, never {count}"));
        }
    }

    /// What poll(2) says now.
    pub fn poll(&self, what: &str, socket: &impl AsRawFd) {
        let events = calls::poll(socket, ALL, 0);
        self.result(what, events.map(|events| trace::events(events.into())));
    }

    /// Waits until poll(2) says all of `events`, then notes all that it says.
    pub fn poll_until(&self, what: &str, socket: &impl AsRawFd, events: i16) {
        soon(|| calls::poll(socket, ALL, 0).is_ok_and(|now| now & events == events));
        self.poll(what, socket);
    }

    /// getsockopt(2) of an int.
    pub fn option(&self, what: &str, socket: &impl AsRawFd, level: c_int, name: c_int) {
        self.result(what, calls::get(socket, level, name));
    }

    /// setsockopt(2) of an int.
    pub fn set(&self, what: &str, socket: &impl AsRawFd, option: (c_int, c_int), value: c_int) {
        let (level, name) = option;
        self.done(what, sys::set_option(socket, level, name, value));
    }

    /// SO_ERROR, which this takes away.
    pub fn error(&self, what: &str, socket: &impl AsRawFd) {
        let error = calls::get(socket, libc::SOL_SOCKET, libc::SO_ERROR);
        let name = |number| match number {
            0 => "no error".to_owned(),
            _ => trace::error(&io::Error::from_raw_os_error(number)),
        };
        self.result(what, error.map(name));
    }

    /// FIONREAD.
    pub fn readable(&self, what: &str, socket: &impl AsRawFd) {
        self.result(what, sys::readable_bytes(socket));
    }

    /// How often a signal came since the last time.
    pub fn signals(&self, what: &str, signal: c_int) {
        self.note(what, signals::taken(signal));
    }

    /// Compares the time since `begin` with what was to be waited: much less, about as much, or much more. The kernel counts in ticks,
    /// which an emulated machine may lose, so runs that differ in such lines alone are made again.
    pub fn elapsed(&self, what: &str, begin: Instant, wait: Duration) {
        let elapsed = begin.elapsed();
        let class = if elapsed < wait / 2 {
            "too early"
        } else if elapsed < wait + Duration::from_secs(4) {
            "in time"
        } else {
            "too late"
        };
        self.note(&format!("{TIME}{what}"), class);
    }
}
