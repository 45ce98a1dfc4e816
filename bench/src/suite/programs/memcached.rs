// SPDX-License-Identifier: GPL-2.0-only
//! memcached, and clients of this program's own: Debian has no program that asks it for a while and says how fast that was.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::found;
use crate::place::Stage;
use crate::suite::end::connect;
use crate::suite::team::Team;

const PORT: u16 = 18_211;
/// Bytes of the value.
const SIZE: usize = 100;

/// Starts it on CPU 0, with the value in it.
pub fn serve(stage: &mut Stage) -> Result<()> {
    let (memcached, port) = (found("memcached")?, PORT.to_string());
    let host = stage.host.clone();
    let argv = [
        &memcached, "-u", "nobody", "-l", &host, "-p", &port, "-U", "0", "-t", "1", "-m", "16",
    ];
    stage.serve("0", &port, &argv)?;
    let mut end = connect(stage, address(stage)?)?;
    end.send(format!("set key 0 0 {SIZE}\r\n{}\r\n", value()).as_bytes())?;
    let mut answer = [0; b"STORED\r\n".len()];
    end.receive(&mut answer)?;
    ensure!(&answer == b"STORED\r\n", "memcached did not keep the value");
    Ok(())
}

/// Clients that ask for the value.
pub fn team(stage: &Stage, clients: usize) -> Result<Team> {
    let response = format!("VALUE key 0 {SIZE}\r\n{}\r\nEND\r\n", value());
    let messages = (&b"get key\r\n"[..], response.as_bytes());
    Team::of_requests(stage, address(stage)?, clients, messages)
}

fn value() -> String {
    "v".repeat(SIZE)
}

fn address(stage: &Stage) -> Result<SocketAddr> {
    let host: IpAddr = stage
        .host
        .parse()
        .context("failed to parse the server's address")?;
    Ok(SocketAddr::new(host, PORT))
}
