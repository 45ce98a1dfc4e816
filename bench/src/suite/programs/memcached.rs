// SPDX-License-Identifier: GPL-2.0-only
//! memcached, and clients of this program's own: Debian has no program that asks it for a while and says how fast that was.

use anyhow::{Result, ensure};

use super::answers::{connect_to, connect_to_file};
use super::{Asked, Files, found};
use crate::place::{Place, Stage};
use crate::suite::end::{End, connect, connect_at};
use crate::suite::team::Team;

const PORT: u16 = 18_211;
/// Bytes of the value.
const SIZE: usize = 100;

/// Its socket's name.
const SOCKET: &str = "memcached";

/// Starts it on CPU 0, with the value in it; and another one for its socket, since one cannot have both.
pub fn serve(stage: &mut Stage, files: &Files) -> Result<()> {
    let (memcached, port) = (found("memcached")?, PORT.to_string());
    let host = stage.host.clone();
    let common = [&memcached, "-u", "nobody", "-t", "1", "-m", "16"];
    let over_tcp = ["-l", &host, "-p", &port, "-U", "0"];
    stage.serve("0", &port, &[&common[..], &over_tcp].concat())?;
    keep_value(connect_to(stage, PORT)?)?;
    if stage.place == Place::Loopback {
        let file = files.socket(SOCKET)?;
        let name = file.display().to_string();
        stage.serve_at("0", &file, &[&common[..], &["-s", &name]].concat())?;
        keep_value(connect_to_file(&file)?)?;
    }
    Ok(())
}

fn keep_value(mut end: End) -> Result<()> {
    end.send(format!("set key 0 0 {SIZE}\r\n{}\r\n", value()).as_bytes())?;
    let mut answer = [0; b"STORED\r\n".len()];
    ensure!(end.receive(&mut answer)?, "memcached has gone");
    ensure!(&answer == b"STORED\r\n", "memcached did not keep the value");
    Ok(())
}

/// Clients that ask for the value.
pub fn team(asked: &Asked) -> Result<Team> {
    let response = format!("VALUE key 0 {SIZE}\r\n{}\r\nEND\r\n", value());
    let messages = (&b"get key\r\n"[..], response.as_bytes());
    let address = asked.stage.address(PORT)?;
    Team::of_requests(asked.clients, messages, || {
        if asked.is_unix() {
            connect_at(&asked.files.socket(SOCKET)?)
        } else {
            connect(asked.stage, address)
        }
    })
}

fn value() -> String {
    "v".repeat(SIZE)
}
