// SPDX-License-Identifier: GPL-2.0-only
//! A writer and a reader for each direction, each on a thread of its own and each using many ways, while two more threads look at
//! the sockets and change options. Every byte is checked by its position; how the stream is cut is chance and not compared.

use std::io::Error;
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use libc::{
    IPPROTO_TCP, MSG_DONTWAIT, MSG_EOR, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, MSG_WAITALL,
    MSG_ZEROCOPY, POLLIN, POLLOUT, SOL_SOCKET,
};
use nix::fcntl::{SpliceFFlags, splice};
use socket2::SockRef;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::{sizes, sys};

use crate::calls;
use crate::cases::transfer::file_with;
use crate::run::{Pair, Run};

/// The longest stream.
const LONGEST: usize = 200_000;

/// How long a poller waits before it looks again; nothing is decided by it.
const GLANCE: i32 = 1000;

/// Sizes of buffers. TCP would crawl with smaller ones.
const SIZES: [i32; 2] = [60_000, 400_000];

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Each writer shuts its half down; every byte has to arrive.
    Orderly,
    /// An end closes, or resets, while the others are at work; what arrives has to be a beginning of the stream.
    Abrupt { reset: bool },
}

/// Runs the program that `seed` names.
pub fn run(r: &Run, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let end = match rng.u32(..5) {
        0 => End::Abrupt { reset: rng.bool() },
        _ => End::Orderly,
    };
    let Pair { client, server } = match rng.u32(..3) {
        0 => r.cold()?,
        _ => r.warm()?,
    };
    let ends = [client, server];
    let lengths = [0, 1].map(|_| sizes::length(&mut rng) * rng.usize(1..=10).pow(2));
    let lengths = lengths.map(|length| length.min(LONGEST));
    r.note("program", format_args!("{end:?}, {lengths:?} bytes"));
    let over = AtomicBool::new(false);
    let pinned = Mutex::new(Vec::new());
    let patterns = [Pattern::new(seed), Pattern::new(!seed)];
    thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut lookers = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            let (pattern, length, over, pinned) = (patterns[from], lengths[from], &over, &pinned);
            let (near, far) = (&ends[from], &ends[to]);
            let mut rng = || Rng::with_seed(rng.u64(..));
            let (writing, reading, looking) = (rng(), rng(), rng());
            let writer = Writer {
                socket: near,
                pattern,
                length,
                rng: writing,
                pinned,
            };
            let reader = Reader {
                socket: far,
                pattern,
                rng: reading,
                got: 0,
            };
            let names = ["client", "server"];
            workers.push((names[from], "writes", scope.spawn(move || writer.run(end))));
            workers.push((
                names[to],
                "reads",
                scope.spawn(move || reader.run(length, end)),
            ));
            lookers.push(scope.spawn(move || look_on(near, looking, over)));
        }
        if let End::Abrupt { reset } = end {
            thread::sleep(Duration::from_millis(rng.u64(..20)));
            abruptly(&ends[rng.usize(..2)], reset)?;
        }
        for (name, what, worker) in workers {
            let result = worker.join().expect("worker panicked");
            let words = result.map_or_else(|error| format!("{error:#}"), |()| "right".to_owned());
            r.note(&format!("{name} {what}"), words);
        }
        over.store(true, Ordering::Relaxed);
        for looker in lookers {
            looker.join().expect("looker panicked")?;
        }
        Ok(())
    })
}

/// As if the process were killed, but with the threads going on: disconnect is close() without giving the number back.
fn abruptly(socket: &TcpStream, reset: bool) -> Result<()> {
    if reset {
        SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
        sys::disconnect(socket)?;
    } else if let Err(error) = socket.shutdown(Shutdown::Both) {
        ensure!(
            error.raw_os_error() == Some(libc::ENOTCONN),
            "shutdown: {error}"
        );
    }
    Ok(())
}

/// Whether a call may fail so on a connection that was ended while it was going on.
fn is_end(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ECONNABORTED)
    )
}

struct Writer<'a> {
    socket: &'a TcpStream,
    pattern: Pattern,
    length: usize,
    rng: Rng,
    /// What zero-copy sends read from, kept as it is until all have ended.
    pinned: &'a Mutex<Vec<Vec<u8>>>,
}

impl Writer<'_> {
    fn run(mut self, end: End) -> Result<()> {
        let mut sent = 0;
        while sent < self.length {
            let most = self.length - sent;
            let length = sizes::length(&mut self.rng).min(most);
            let bytes = self.pattern.bytes(sent as u64, length);
            match self.send(bytes) {
                Ok(count) => {
                    ensure!(count <= length, "sent {count} of {length}");
                    sent += count;
                }
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    calls::poll(self.socket, POLLOUT, GLANCE)?;
                }
                Err(error) if end != End::Orderly && is_end(&error) => return Ok(()),
                Err(error) => bail!("failed after {sent} of {}: {error}", self.length),
            }
        }
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if end == End::Orderly => bail!("shutdown failed: {error}"),
            _ => Ok(()),
        }
    }

    fn send(&mut self, bytes: Vec<u8>) -> std::io::Result<usize> {
        let (socket, quiet) = (self.socket, MSG_NOSIGNAL);
        match self.rng.u32(..24) {
            0..6 => sys::send(socket, &bytes, quiet),
            6..12 => sys::send(socket, &bytes, quiet | MSG_DONTWAIT),
            12 | 13 => {
                let (one, other) = bytes.split_at(self.rng.usize(..=bytes.len()));
                calls::sendmsg(socket, &[one, other], &[], quiet)
            }
            14 => sys::send(socket, &bytes, quiet | MSG_EOR),
            15 => {
                let (one, other) = bytes.split_at(bytes.len() / 2);
                let sent = sys::send(socket, one, quiet | MSG_MORE)?;
                if sent < one.len() {
                    return Ok(sent);
                }
                // What went is counted, whatever becomes of the rest.
                Ok(sent + sys::send(socket, other, quiet | MSG_DONTWAIT).unwrap_or(0))
            }
            16 | 17 => {
                let file = file_with(&bytes).map_err(Error::other)?;
                Ok(nix::sys::sendfile::sendfile(
                    socket,
                    &file,
                    None,
                    bytes.len(),
                )?)
            }
            18 | 19 => {
                let (out, into) = nix::unistd::pipe()?;
                let there = nix::unistd::write(&into, &bytes[..bytes.len().min(4096)])?;
                Ok(splice(
                    &out,
                    None,
                    socket,
                    None,
                    there,
                    SpliceFFlags::empty(),
                )?)
            }
            20 => sys::send_with_timestamp(socket, &bytes),
            21 => {
                sys::set_option(socket, SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
                let sent = sys::send(socket, &bytes, quiet | MSG_ZEROCOPY);
                self.pinned
                    .lock()
                    .expect("no panic while locked")
                    .push(bytes);
                sent
            }
            _ => {
                let parts: Vec<&[u8]> = bytes.chunks(bytes.len().div_ceil(4)).collect();
                let sent = calls::sendmmsg(socket, &parts, quiet)?;
                Ok(sent.iter().sum())
            }
        }
    }
}

struct Reader<'a> {
    socket: &'a TcpStream,
    pattern: Pattern,
    rng: Rng,
    got: u64,
}

impl Reader<'_> {
    fn run(mut self, length: usize, end: End) -> Result<()> {
        loop {
            let most = sizes::length(&mut self.rng);
            match self.receive(most) {
                Ok(0) => break,
                Ok(count) => self.got += count as u64,
                Err(error) => match error.downcast_ref::<Error>() {
                    Some(cause) if cause.raw_os_error() == Some(libc::EAGAIN) => {
                        calls::poll(self.socket, POLLIN, GLANCE)?;
                    }
                    Some(cause) if end != End::Orderly && is_end(cause) => return Ok(()),
                    _ => return Err(error.context(format!("after {} of {length} bytes", self.got))),
                },
            }
        }
        let all = self.got == length as u64;
        ensure!(
            all || end != End::Orderly,
            "end after {} of {length} bytes",
            self.got
        );
        Ok(())
    }

    /// Receives in one of many ways and checks the bytes; 0 at the end of the stream.
    fn receive(&mut self, length: usize) -> Result<usize> {
        let (socket, mut buffer) = (self.socket, vec![0; length]);
        let count = match self.rng.u32(..20) {
            0..5 => sys::recv(socket, &mut buffer, 0)?,
            5..9 => sys::recv(socket, &mut buffer, MSG_DONTWAIT)?,
            9 | 10 => sys::recv(socket, &mut buffer, MSG_WAITALL)?,
            11 | 12 => {
                let mut parts: Vec<&mut [u8]> = buffer.chunks_mut(length.div_ceil(7)).collect();
                calls::recvmsg(socket, &mut parts, 0)?.count
            }
            13 => return Ok(sys::discard(socket, length, MSG_DONTWAIT)?),
            14 | 15 => {
                let peeked = sys::recv(socket, &mut buffer, MSG_PEEK)?;
                self.pattern.check(self.got, &buffer[..peeked])?;
                // They stay: nobody else reads here.
                sys::recv(socket, &mut buffer[..peeked], MSG_WAITALL)?
            }
            16 => {
                let there = sys::readable_bytes(socket)?;
                let most = length.min(there.max(1));
                sys::recv(socket, &mut buffer[..most], MSG_DONTWAIT)?
            }
            how => {
                let flags = [SpliceFFlags::empty(), SpliceFFlags::SPLICE_F_NONBLOCK];
                let flags = flags[usize::from(how == 17)];
                let (out, into) = nix::unistd::pipe()?;
                let spliced = splice(socket, None, &into, None, length, flags);
                let count = spliced.map_err(Error::from)?;
                drop(into);
                let mut got = 0;
                while got < count {
                    got += nix::unistd::read(&out, &mut buffer[got..count])?;
                }
                count
            }
        };
        self.pattern
            .check(self.got, &buffer[..count])
            .with_context(|| format!("of {count} bytes"))?;
        Ok(count)
    }
}

/// Looks at the socket and changes options that change no byte, until it is over.
fn look_on(socket: &TcpStream, mut rng: Rng, over: &AtomicBool) -> Result<()> {
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(rng.u64(..3000)));
        let set = |level, name, value| drop(sys::set_option(socket, level, name, value));
        match rng.u32(..16) {
            0..3 => drop(calls::poll(socket, POLLIN | POLLOUT, 0)?),
            3 | 4 => drop(sys::readable_bytes(socket)?),
            5 => drop(sys::byte_counts(socket)?),
            6 => drop(socket.try_clone()?),
            7 => drop(sys::recv(socket, &mut [0; 100], MSG_PEEK | MSG_DONTWAIT)),
            8 => set(
                SOL_SOCKET,
                libc::SO_RCVLOWAT,
                [1, 1, 100, 5000][rng.usize(..4)],
            ),
            9 => set(IPPROTO_TCP, libc::TCP_NODELAY, i32::from(rng.bool())),
            10 => set(SOL_SOCKET, libc::SO_BUSY_POLL, [0, 30][rng.usize(..2)]),
            11 => set(SOL_SOCKET, libc::SO_TIMESTAMP, i32::from(rng.u32(..4) == 0)),
            12 => drop(calls::attach_filter(socket, u32::MAX)),
            13 => set(SOL_SOCKET, libc::SO_DETACH_FILTER, 0),
            14 => set(SOL_SOCKET, libc::SO_SNDBUF, SIZES[rng.usize(..2)]),
            _ => set(SOL_SOCKET, libc::SO_RCVBUF, SIZES[rng.usize(..2)]),
        }
    }
    Ok(())
}
