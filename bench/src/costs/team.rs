// SPDX-License-Identifier: GPL-2.0-only
//! Several connections at work at the same time, each with a process for each end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::instructions::message;
use crate::instructions::server::{self, Server};

/// What each connection does in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Messages of so many bytes that are answered by as many; so many of them.
    RoundTrips(usize, usize),
    /// Messages of so many bytes one way; so many of them.
    Stream(usize, usize),
}

/// The connections' processes, which wait for a turn.
#[derive(Debug)]
pub struct Team {
    work: Work,
    pairs: Vec<Pair>,
}

/// One connection, as this process sees it.
#[derive(Debug)]
struct Pair {
    client: Server,
    /// To the client: a byte begins a turn or ends it all, and is sent back when the turn is over.
    word: UnixStream,
    server: Server,
}

const TURN: u8 = 1;
const END: u8 = 0;

impl Team {
    /// Makes the connections. What policy there is decides what they are.
    pub fn new(pairs: usize, work: Work) -> Result<Self> {
        let pairs = (0..pairs).map(|_| Pair::new(work)).collect::<Result<_>>()?;
        Ok(Self { work, pairs })
    }

    /// Bytes that all connections carry in a turn, both ways together.
    pub fn bytes(&self) -> usize {
        let each = match self.work {
            Work::RoundTrips(size, times) => 2 * size * times,
            Work::Stream(size, times) => size * times,
        };
        each * self.pairs.len()
    }

    /// Has every connection do its work once, all at the same time.
    pub fn turn(&mut self) -> Result<()> {
        for pair in &mut self.pairs {
            pair.say(TURN)?;
        }
        for pair in &mut self.pairs {
            let heard = pair.word.read_exact(&mut [0]);
            heard.context("failed to hear of a connection")?;
        }
        Ok(())
    }

    /// Ends the processes.
    pub fn end(self) -> Result<()> {
        for mut pair in self.pairs {
            pair.say(END)?;
            pair.client.join()?;
            pair.server.join()?;
        }
        Ok(())
    }
}

impl Pair {
    fn new(work: Work) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen")?;
        let near = TcpStream::connect(listener.local_addr()?).context("failed to connect")?;
        let (far, _) = listener.accept().context("failed to accept")?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let server = Server::start(|| match work {
            Work::RoundTrips(size, _) => server::echo(far, size),
            Work::Stream(size, times) => server::swallow(far, size, times),
        })?;
        let (word, wait) = UnixStream::pair().context("failed to make a channel")?;
        let client = Server::start(|| turns(work, wait, near))?;
        Ok(Self {
            client,
            word,
            server,
        })
    }

    fn say(&mut self, word: u8) -> Result<()> {
        let said = self.word.write_all(&[word]);
        said.context("failed to speak to a connection")
    }
}

/// The client's process.
fn turns(work: Work, mut wait: UnixStream, mut stream: TcpStream) -> Result<()> {
    let mut word = [END];
    loop {
        wait.read_exact(&mut word)
            .context("failed to hear what to do")?;
        if word == [END] {
            // Closing would not end the stream: the server has a copy.
            return Ok(stream.shutdown(Shutdown::Write)?);
        }
        turn(work, &mut stream)?;
        wait.write_all(&word)
            .context("failed to say that it is done")?;
    }
}

fn turn(work: Work, stream: &mut TcpStream) -> Result<()> {
    match work {
        Work::RoundTrips(size, times) => {
            let message = message(size);
            let mut buffer = vec![0; size];
            for _ in 0..times {
                stream.write_all(&message).context("failed to send")?;
                stream
                    .read_exact(&mut buffer)
                    .context("failed to receive")?;
                ensure!(buffer == message, "wrong data");
            }
            Ok(())
        }
        Work::Stream(size, times) => {
            let message = message(size);
            for _ in 0..times {
                stream.write_all(&message).context("failed to send")?;
            }
            stream.read_exact(&mut [0]).context("failed to receive")
        }
    }
}
