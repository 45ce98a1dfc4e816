// SPDX-License-Identifier: GPL-2.0-only
//! The two ends of a link, of whatever kind: all are read and written by the same calls.

use std::fs::File;
use std::io::{Read, Result as IoResult, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{Shutdown as Half, setsockopt, shutdown};
use nix::sys::time::TimeVal;
use nix::unistd::pipe;
use tcp_splice_world::netns;

use super::way::Way;
use crate::place::Stage;

/// What one process has of a link.
#[derive(Debug)]
pub struct End {
    from: File,
    /// None for a socket, which goes both ways.
    to: Option<File>,
}

impl End {
    /// An end of a connection.
    pub fn of_tcp(stream: TcpStream) -> Result<Self> {
        stream
            .set_nodelay(true)
            .context("failed to set TCP_NODELAY")?;
        Ok(Self::of_socket(stream.into()))
    }

    /// An end of a socket pair.
    pub fn of_unix(stream: UnixStream) -> Self {
        Self::of_socket(stream.into())
    }

    fn of_socket(socket: OwnedFd) -> Self {
        Self {
            from: socket.into(),
            to: None,
        }
    }

    /// Has later calls fail that wait for longer than this, in whole seconds: of a check, where a hang is an error and time does not count.
    pub fn limit(&self, time: Duration) -> Result<()> {
        let time = TimeVal::new(time.as_secs().try_into()?, 0);
        setsockopt(&self.from, ReceiveTimeout, &time).context("failed to limit a wait")?;
        setsockopt(&self.from, SendTimeout, &time).context("failed to limit a wait")
    }

    /// Says that nothing more will be sent; what comes can still be read.
    pub fn finish(&mut self) -> Result<()> {
        if self.to.take().is_none() {
            shutdown(self.from.as_raw_fd(), Half::Write).context("failed to shut down")?;
        }
        Ok(())
    }

    /// Reads a whole message; false at the end of the stream.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut got = 0;
        while got < buffer.len() {
            match self.read(&mut buffer[got..]).context("failed to receive")? {
                0 if got == 0 => return Ok(false),
                0 => anyhow::bail!("the stream ended within a message"),
                more => got += more,
            }
        }
        Ok(true)
    }

    /// Sends a whole message.
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        self.write_all(message).context("failed to send")
    }
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        self.from.read(buffer)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        self.to.as_mut().unwrap_or(&mut self.from).write(bytes)
    }

    fn flush(&mut self) -> IoResult<()> {
        Ok(())
    }
}

/// A new link at a place: the client's end and the server's.
pub fn link(stage: &Stage, way: Way) -> Result<(End, End)> {
    match way {
        Way::Unix => {
            let (near, far) = UnixStream::pair().context("failed to make a socket pair")?;
            Ok((End::of_unix(near), End::of_unix(far)))
        }
        Way::Pipe => {
            let (near_from, far_to) = pipe().context("failed to make a pipe")?;
            let (far_from, near_to) = pipe().context("failed to make a pipe")?;
            let end = |from: OwnedFd, to: OwnedFd| End {
                from: from.into(),
                to: Some(to.into()),
            };
            Ok((end(near_from, near_to), end(far_from, far_to)))
        }
        _ => {
            let listener = listen(stage)?;
            let near = connect(stage, listener.local_addr()?)?;
            let (far, _) = listener.accept().context("failed to accept")?;
            Ok((near, End::of_tcp(far)?))
        }
    }
}

/// A listener on the servers' side, at any port.
pub fn listen(stage: &Stage) -> Result<TcpListener> {
    let address = stage.address(0)?;
    let listen = || TcpListener::bind(address).context("failed to listen");
    match &stage.names {
        None => listen(),
        Some(names) => netns::within(&names.server(), listen),
    }
}

/// A connection from the clients' side.
pub fn connect(stage: &Stage, address: SocketAddr) -> Result<End> {
    let connect = || TcpStream::connect(address).context("failed to connect");
    End::of_tcp(match &stage.names {
        None => connect()?,
        Some(names) => netns::within(&names.client(), connect)?,
    })
}

/// A connection to a server that listens at a file.
pub fn connect_at(file: &Path) -> Result<End> {
    let stream = UnixStream::connect(file)
        .with_context(|| format!("failed to connect to {}", file.display()))?;
    Ok(End::of_unix(stream))
}

/// A connection from the servers' side to a server there.
pub fn connect_inside(stage: &Stage, address: SocketAddr) -> Result<TcpStream> {
    let connect = || TcpStream::connect(address).context("failed to connect");
    let stream = match &stage.names {
        None => connect()?,
        Some(names) => netns::within(&names.server(), connect)?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Ends one direction of a connection.
pub fn finish(stream: &TcpStream) -> Result<()> {
    stream
        .shutdown(Shutdown::Write)
        .context("failed to shut down")
}
