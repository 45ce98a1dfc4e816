// SPDX-License-Identifier: GPL-2.0-only
//! The two ends of one figure. Each kind of socket is held as a `TcpStream`, so that all are used by the same calls; pipes have their own.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Result as IoResult, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

use anyhow::{Context, Result};
use nix::unistd::pipe;

use super::cell::Way;

/// What one process has of a connection.
#[derive(Debug)]
pub enum End {
    /// send() and recv()
    Socket(TcpStream),
    /// write() and read(); nothing to write to after [`End::finish`]
    Pipes(File, Option<File>),
}

impl End {
    /// Says that nothing more will be sent; what comes can still be read.
    pub fn finish(&mut self) -> Result<()> {
        match self {
            Self::Socket(socket) => socket
                .shutdown(Shutdown::Write)
                .context("failed to shut down"),
            Self::Pipes(_, to) => {
                *to = None;
                Ok(())
            }
        }
    }
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        match self {
            Self::Socket(socket) => socket.read(buffer),
            Self::Pipes(from, _) => from.read(buffer),
        }
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        match self {
            Self::Socket(socket) => socket.write(bytes),
            Self::Pipes(_, Some(to)) => to.write(bytes),
            Self::Pipes(_, None) => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

impl AsFd for End {
    /// Where bytes come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Pipes(from, _) => from.as_fd(),
        }
    }
}

/// Where connections are accepted.
#[derive(Debug)]
pub enum Listener {
    /// on 127.0.0.1
    Tcp(TcpListener, SocketAddr),
    /// on an abstract name
    Unix(UnixListener, UnixAddr),
    /// the other ends of pipes that were made
    Pipes(RefCell<Vec<End>>),
}

impl Listener {
    /// A new one for this way.
    pub fn new(way: Way) -> Result<Self> {
        match way {
            Way::Unix => {
                let name = UnixAddr::from_abstract_name("tcp-splice-bench")?;
                let listener = UnixListener::bind_addr(&name).context("failed to listen")?;
                Ok(Self::Unix(listener, name))
            }
            Way::Pipe => Ok(Self::Pipes(RefCell::default())),
            Way::Plain | Way::Spliced => {
                let listener = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
                let address = listener.local_addr()?;
                Ok(Self::Tcp(listener, address))
            }
        }
    }

    /// The connecting end.
    pub fn connect(&self) -> Result<End> {
        match self {
            Self::Tcp(_, address) => {
                let stream = TcpStream::connect(address).context("failed to connect")?;
                stream.set_nodelay(true)?;
                Ok(End::Socket(stream))
            }
            Self::Unix(_, name) => {
                let stream = UnixStream::connect_addr(name).context("failed to connect")?;
                Ok(End::Socket(OwnedFd::from(stream).into()))
            }
            Self::Pipes(made) => {
                let (near_from, far_to) = pipe().context("failed to make a pipe")?;
                let (far_from, near_to) = pipe().context("failed to make a pipe")?;
                let end = |from: OwnedFd, to: OwnedFd| End::Pipes(from.into(), Some(to.into()));
                made.borrow_mut().push(end(far_from, far_to));
                Ok(end(near_from, near_to))
            }
        }
    }

    /// The accepted end.
    pub fn accept(&self) -> Result<End> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().context("failed to accept")?;
                stream.set_nodelay(true)?;
                Ok(End::Socket(stream))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().context("failed to accept")?;
                Ok(End::Socket(OwnedFd::from(stream).into()))
            }
            Self::Pipes(made) => made.borrow_mut().pop().context("nobody has made a pipe"),
        }
    }
}
