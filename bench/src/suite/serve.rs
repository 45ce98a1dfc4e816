// SPDX-License-Identifier: GPL-2.0-only
//! Servers of this program's own, each a process.

use std::io::{Read, Result as IoResult, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::pipe;

use super::client::checked_messages;
use super::end::{End, finish};
use crate::instructions::message;

/// Sends every message back.
pub fn echo(mut end: End, size: usize) -> Result<()> {
    let mut buffer = vec![0; size];
    while end.receive(&mut buffer)? {
        end.send(&buffer)?;
    }
    // Closing would not end the stream where another process has a copy.
    end.finish()
}

/// Reads a stream to its end: looks at the first messages and says so, counts the rest and says how much it was.
pub fn swallow(mut end: End, size: usize) -> Result<()> {
    let mut buffer = vec![0; size];
    let expected = message(size);
    for _ in 0..checked_messages(size) {
        ensure!(end.receive(&mut buffer)?, "the stream ended too early");
        ensure!(buffer == expected, "wrong data");
    }
    end.send(&[1])?;
    let mut bytes = 0;
    loop {
        match end.read(&mut buffer).context("failed to receive")? {
            0 => return end.send(&u64::to_le_bytes(bytes)),
            more => bytes += more as u64,
        }
    }
}

/// Bytes that the epoll server reads at once.
const BLOCK: usize = 64 << 10;
/// Events that it takes at once.
const EVENTS: usize = 64;

/// Takes so many connections from `accept` and sends back what comes, all in one thread that waits in `epoll_wait()`, until all have ended.
pub fn echo_epoll(accept: impl Fn() -> IoResult<OwnedFd>, connections: usize) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut streams = Vec::new();
    for index in 0..connections {
        // Of whatever kind: what it says of TCP is that it is read by recv() and written by send().
        let stream = TcpStream::from(accept().context("failed to accept")?);
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        streams.push(Some(stream));
    }
    let mut buffer = vec![0; BLOCK];
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut open = connections;
    while open > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE);
        for event in &events[..ready.context("failed to wait")?] {
            let slot = &mut streams[usize::try_from(event.data())?];
            let stream = slot.as_mut().context("heard of a closed connection")?;
            match stream.read(&mut buffer).context("failed to receive")? {
                0 => {
                    *slot = None;
                    open -= 1;
                }
                got => stream.write_all(&buffer[..got]).context("failed to send")?,
            }
        }
    }
    Ok(())
}

/// Most bytes that a proxy takes at once, as Go's does.
const SPLICED: usize = 1 << 20;

/// Joins two connections until both have ended, as a proxy in Go does: each direction for itself moves what is there into a pipe and from
/// there on, by calls that never wait, and sleeps until its socket is ready.
pub fn splice_proxy(client: TcpStream, upstream: TcpStream) -> Result<()> {
    client.set_nonblocking(true)?;
    upstream.set_nonblocking(true)?;
    thread::scope(|scope| {
        let back = scope.spawn(|| relay(&upstream, &client));
        relay(&client, &upstream)?;
        back.join().expect("a direction panicked")
    })
}

fn relay(from: &TcpStream, to: &TcpStream) -> Result<()> {
    let (out, into) = pipe().context("failed to make a pipe")?;
    loop {
        let mut left = moved(from, &into, SPLICED, (from, PollFlags::POLLIN))?;
        if left == 0 {
            return finish(to);
        }
        while left > 0 {
            left -= moved(&out, to, left, (to, PollFlags::POLLOUT))?;
        }
    }
}

/// Moves up to `bytes`, as soon as there is something to move; 0 at the end of the stream.
fn moved(
    from: &impl AsFd,
    to: &impl AsFd,
    bytes: usize,
    (socket, ready): (&TcpStream, PollFlags),
) -> Result<usize> {
    loop {
        match splice(from, None, to, None, bytes, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Err(Errno::EAGAIN) => {
                let mut asked = [PollFd::new(socket.as_fd(), ready)];
                poll(&mut asked, PollTimeout::NONE).context("failed to poll")?;
            }
            done => return done.context("failed to splice"),
        }
    }
}
