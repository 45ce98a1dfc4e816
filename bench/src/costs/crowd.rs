// SPDX-License-Identifier: GPL-2.0-only
//! Many connections of which this process has both ends.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use tcp_splice_world::counters::{self, Counters};

/// Connections, all established and accepted.
#[derive(Debug)]
pub struct Crowd {
    connections: Vec<(TcpStream, TcpStream)>,
    before: Option<Counters>,
}

/// Connections to one address and port: fewer than there are ports to connect from.
const TO_ONE_PORT: usize = 10_000;
/// Descriptors of the process besides those of the connections.
const OTHER_FILES: usize = 1000;
/// How long RCU may take to free all of them.
const SETTLE: Duration = Duration::from_secs(120);

impl Crowd {
    /// So many of them. What policy there is decides what they are.
    pub fn new(connections: usize) -> Result<Self> {
        allow_files(2 * connections + OTHER_FILES)?;
        let mut crowd = Self {
            connections: Vec::with_capacity(connections),
            before: Counters::read().ok(),
        };
        while crowd.connections.len() < connections {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen")?;
            let address = listener.local_addr()?;
            for _ in crowd.connections.len()..connections.min(crowd.connections.len() + TO_ONE_PORT)
            {
                let client = TcpStream::connect(address).context("failed to connect")?;
                let (server, _) = listener.accept().context("failed to accept")?;
                crowd.connections.push((client, server));
            }
        }
        Ok(crowd)
    }

    /// A request and a response of `size` bytes on each.
    pub fn exchange(&self, size: usize) -> Result<()> {
        let mut buffer = vec![0; size];
        for (index, (client, server)) in self.connections.iter().enumerate() {
            let request = vec![index as u8; size];
            let response = vec![!index as u8; size];
            for (mut from, mut to, message) in
                [(client, server, request), (server, client, response)]
            {
                from.write_all(&message).context("failed to send")?;
                to.read_exact(&mut buffer).context("failed to receive")?;
                ensure!(buffer == message, "wrong data");
            }
        }
        Ok(())
    }

    /// How many pairs were made since before the first of these connections.
    pub fn pairs_made(&self) -> Result<u64> {
        match &self.before {
            Some(before) => Counters::read()?.since(before).get("pairs_made"),
            None => Ok(0),
        }
    }

    /// Closes all, without leaving a port in TIME_WAIT, and waits until the module has freed what belonged to them.
    pub fn close(self) -> Result<()> {
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        for (client, _) in &self.connections {
            setsockopt(client, Linger, &at_once)?;
        }
        drop(self.connections);
        match &self.before {
            Some(before) => counters::settle(before, SETTLE),
            None => Ok(()),
        }
    }
}

/// Raises what limits the number of open files.
fn allow_files(files: usize) -> Result<()> {
    for path in ["/proc/sys/fs/file-max", "/proc/sys/fs/nr_open"] {
        let text = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
        if text.trim().parse::<usize>().is_ok_and(|most| most < files) {
            fs::write(path, files.to_string())
                .with_context(|| format!("failed to write {path}"))?;
        }
    }
    let files = files as u64;
    setrlimit(Resource::RLIMIT_NOFILE, files, files).context("failed to allow more open files")
}
