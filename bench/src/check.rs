// SPDX-License-Identifier: GPL-2.0-only
//! Before anything is measured: is the data right, and does it go where the mode says?

use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::netns;
use tcp_splice_world::pattern::Pattern;

use crate::cell::Mode;
use crate::place::Stage;

/// Bytes of the stream that is echoed.
const STREAM: usize = 8 << 20;
/// Sizes of the round trips.
const SIZES: [usize; 8] = [1, 64, 1000, 4096, 16_384, 50_000, 65_536, 200_000];
/// A hang is an error, not a wait for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// Exchanges known bytes over one new connection; returns a line for the report.
pub fn check(stage: &Stage, mode: Mode) -> Result<String> {
    check_way(stage, &mode.to_string(), mode != Mode::Plain)
}

/// The same for a way of that name; `spliced`: the bytes have to go through a ring.
pub fn check_way(stage: &Stage, way: &str, spliced: bool) -> Result<String> {
    let name = format!("{way}, {}", stage.place.name());
    let before = Counters::read()?;
    exchange(stage).with_context(|| format!("wrong data: {name}"))?;
    let delta = Counters::read()?.since(&before);
    let ring = delta.get("ring_bytes")?;
    let volume = 2 * (STREAM + SIZES.iter().sum::<usize>()) as u64;
    if !spliced {
        ensure!(
            delta.get("pairs_made")? == 0,
            "{name}: the connection was paired: {:?}",
            delta.moved()
        );
    } else {
        let moved = delta.moved();
        ensure!(
            ring >= volume * 9 / 10,
            "{name}: only {ring} of {volume} bytes went through the ring: {moved:?}"
        );
    }
    Ok(format!(
        "{name}: {volume} bytes right, {ring} of them through the ring"
    ))
}

fn exchange(stage: &Stage) -> Result<()> {
    let (client, server) = connect(stage)?;
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
    }
    let pattern = Pattern::new(1);
    let answer = thread::spawn(move || -> Result<()> {
        for size in SIZES {
            pattern.read(&server, 0, size)?;
            pattern.write(&server, 1, size)?;
        }
        let copied = std::io::copy(&mut (&server), &mut (&server))?;
        ensure!(
            copied == STREAM as u64,
            "echo saw {copied} of {STREAM} bytes"
        );
        Ok(server.shutdown(Shutdown::Write)?)
    });
    for size in SIZES {
        pattern.write(&client, 0, size)?;
        pattern.read(&client, 1, size)?;
    }
    let copy = client.try_clone()?;
    let send = thread::spawn(move || -> Result<()> {
        pattern.write(&copy, 0, STREAM)?;
        Ok(copy.shutdown(Shutdown::Write)?)
    });
    pattern.read_to_end(&client, 0, STREAM)?;
    send.join().expect("sender panicked")?;
    answer.join().expect("answering thread panicked")
}

/// A connection from the client's side to the server's.
fn connect(stage: &Stage) -> Result<(TcpStream, TcpStream)> {
    let address = stage.address(0)?;
    let listen = || TcpListener::bind(address).context("failed to listen");
    let listener = match &stage.names {
        None => listen()?,
        Some(names) => netns::within(&names.server(), listen)?,
    };
    let address = listener.local_addr()?;
    let connect = || TcpStream::connect(address).context("failed to connect");
    let client = match &stage.names {
        None => connect()?,
        Some(names) => netns::within(&names.client(), connect)?,
    };
    let (server, _) = listener.accept().context("failed to accept")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}
