// SPDX-License-Identifier: GPL-2.0-only
//! The sockets of one figure. All are held as `TcpStream`, so that each kind is used by the same calls.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

use anyhow::{Context, Result};

use super::cell::Way;

/// Where connections are accepted.
#[derive(Debug)]
pub enum Listener {
    /// on 127.0.0.1
    Tcp(TcpListener, SocketAddr),
    /// on an abstract name
    Unix(UnixListener, UnixAddr),
}

impl Listener {
    /// A new one for this way.
    pub fn new(way: Way) -> Result<Self> {
        if way == Way::Unix {
            let name = UnixAddr::from_abstract_name("tcp-splice-bench")?;
            let listener = UnixListener::bind_addr(&name).context("failed to listen")?;
            return Ok(Self::Unix(listener, name));
        }
        let listener = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
        let address = listener.local_addr()?;
        Ok(Self::Tcp(listener, address))
    }

    /// The connecting end.
    pub fn connect(&self) -> Result<TcpStream> {
        match self {
            Self::Tcp(_, address) => {
                let stream = TcpStream::connect(address).context("failed to connect")?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Self::Unix(_, name) => {
                let stream = UnixStream::connect_addr(name).context("failed to connect")?;
                Ok(OwnedFd::from(stream).into())
            }
        }
    }

    /// The accepted end.
    pub fn accept(&self) -> Result<TcpStream> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().context("failed to accept")?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().context("failed to accept")?;
                Ok(OwnedFd::from(stream).into())
            }
        }
    }
}
