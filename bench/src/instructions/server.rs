// SPDX-License-Identifier: GPL-2.0-only
//! The other end: a process of its own.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

use super::cell::Cell;
use super::message;
use super::sockets::{End, Listener};

/// A running server.
#[derive(Debug)]
pub struct Server(Pid);

impl Server {
    /// Starts it. What the client does not share with it is to be dropped in `serve`.
    pub fn start(serve: impl FnOnce() -> Result<()>) -> Result<Self> {
        let parent = getpid();
        // SAFETY: this program has one thread.
        match unsafe { fork() }.context("failed to fork")? {
            ForkResult::Parent { child } => Ok(Self(child)),
            ForkResult::Child => {
                let done = end_with(parent).and_then(|()| serve());
                if let Err(error) = &done {
                    eprintln!("error: server: {error:#}");
                }
                std::process::exit(i32::from(done.is_err()))
            }
        }
    }

    /// Waits for its end, which comes when the client has closed its connection.
    pub fn join(self) -> Result<()> {
        let status = waitpid(self.0, None).context("failed to wait for the server")?;
        let well = matches!(status, WaitStatus::Exited(_, 0));
        ensure!(well, "the server failed: {status:?}");
        Ok(())
    }
}

/// Has this process killed when its parent ends: it may wait for a word that nobody would say.
fn end_with(parent: Pid) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("failed to follow the parent")?;
    ensure!(getppid() == parent, "the parent has gone");
    Ok(())
}

/// Serves one connection until it ends.
pub fn serve(cell: Cell, stream: End) -> Result<()> {
    match cell {
        Cell::Epoll(size) => echo_polled(stream, size),
        Cell::Stream(size) => swallow(stream, size, cell.messages()),
        Cell::RoundTrip(size) | Cell::Connection(size) | Cell::Ready(size) => echo(stream, size),
    }
}

/// Serves `connections` of them, one after the other.
pub fn serve_each(cell: Cell, listener: &Listener, connections: usize) -> Result<()> {
    (0..connections).try_for_each(|_| serve(cell, listener.accept()?))
}

/// Reads a whole message; false at the end of the stream.
pub fn receive(stream: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    let mut got = 0;
    while got < buffer.len() {
        match stream
            .read(&mut buffer[got..])
            .context("failed to receive")?
        {
            0 => {
                ensure!(got == 0, "the stream ended within a message");
                return Ok(false);
            }
            more => got += more,
        }
    }
    Ok(true)
}

/// Sends every message back.
pub fn echo(mut stream: impl Read + Write, size: usize) -> Result<()> {
    let mut buffer = vec![0; size];
    while receive(&mut stream, &mut buffer)? {
        stream.write_all(&buffer).context("failed to send")?;
    }
    Ok(())
}

fn echo_polled(mut stream: End, size: usize) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let mut events = [EpollEvent::empty()];
    let mut buffer = vec![0; size];
    loop {
        epoll
            .wait(&mut events, EpollTimeout::NONE)
            .context("failed to poll")?;
        if !receive(&mut stream, &mut buffer)? {
            return Ok(());
        }
        stream.write_all(&buffer).context("failed to send")?;
    }
}

/// Reads windows of `messages`, checks those of the first, and says a word after each.
pub fn swallow(mut stream: impl Read + Write, size: usize, messages: usize) -> Result<()> {
    let mut buffer = vec![0; size];
    for window in 0.. {
        for index in 0..messages {
            if !receive(&mut stream, &mut buffer)? {
                ensure!(index == 0, "the stream ended within a window");
                return Ok(());
            }
            ensure!(window > 0 || buffer == message(size), "wrong data");
        }
        stream.write_all(&[0]).context("failed to send")?;
    }
    Ok(())
}
