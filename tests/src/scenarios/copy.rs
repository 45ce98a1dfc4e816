// SPDX-License-Identifier: GPL-2.0-only
//! Copying between user memory and the ring: every length, every alignment, and memory that ends on the way; by the ways of this
//! processor and by those of others.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::COPY_BYTES;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys::{self, Cliff};

pub const ALL: &[Scenario] = &[
    Scenario::each("every_length", every_length),
    Scenario::some("every_alignment", every_alignment),
    Scenario::each("send_over_the_edge", send_over_the_edge),
    Scenario::each("receive_over_the_edge", receive_over_the_edge),
    Scenario::one("as_other_processors", as_other_processors).reconfigures(),
];

const PATTERN: Pattern = Pattern::new(31);
/// What surrounds a receive buffer must stay.
const GUARD: usize = 16;

/// Sends `length` bytes from a buffer that starts `from` bytes into a page, receives them `to` bytes into another.
fn carry(conn: &Conn, position: u64, length: usize, from: usize, to: usize) -> Result<()> {
    let mut source = vec![0xee; from + length];
    PATTERN.fill(position, &mut source[from..]);
    let sent = sys::send(&conn.client, &source[from..], libc::MSG_NOSIGNAL)?;
    ensure!(sent == length, "sent {sent} of {length} bytes");
    let mut target = vec![0xdd; to + GUARD + length + GUARD];
    let middle = to + GUARD..to + GUARD + length;
    let got = sys::recv(&conn.server, &mut target[middle.clone()], libc::MSG_WAITALL)?;
    ensure!(got == length, "received {got} of {length} bytes");
    PATTERN.check(position, &target[middle.clone()])?;
    let around = target[..middle.start].iter().chain(&target[middle.end..]);
    ensure!(
        around.copied().all(|byte| byte == 0xdd),
        "receiving {length} bytes wrote beside the buffer"
    );
    Ok(())
}

fn every_length(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let mut position = 0;
    for length in (1..=1100).chain([2047, 4095, 4096, 4097, 8191, 8192, 8193, 20_001]) {
        carry(&conn, position, length, length % 13, length % 7)?;
        position += length as u64;
    }
    Ok(Claim::ring(position as usize))
}

fn every_alignment(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let mut position = 0;
    for length in [7, 8, 9, 63, 64, 255, 256, 263, 4096] {
        for from in 0..9 {
            for to in 0..9 {
                carry(&conn, position, length, from, to)?;
                position += length as u64;
            }
        }
    }
    Ok(Claim::ring(position as usize))
}

const LENGTHS: [usize; 10] = [9, 63, 64, 65, 100, 255, 256, 257, 5000, 8192];

/// How much of a buffer of `length` bytes is there: a few cases from nothing to all but one.
fn edges(length: usize) -> impl Iterator<Item = usize> {
    let cases = [
        0,
        1,
        7,
        8,
        9,
        length / 2,
        length - 8,
        length - 7,
        length - 1,
    ];
    cases.into_iter().filter(move |there| *there < length)
}

/// A buffer whose end is not mapped: what was sent is its beginning, and nothing else is.
fn send_over_the_edge(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let mut cliff = Cliff::new(16 * 4096)?;
    let (mut position, mut ring) = (0, 0);
    for length in LENGTHS {
        for there in edges(length) {
            PATTERN.fill(position, cliff.last(there));
            let sent = match cliff.send(&client, there, length) {
                Ok(sent) => sent,
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => 0,
                Err(error) => return Err(error.into()),
            };
            ensure!(sent <= there, "sent {sent} of {there} mapped bytes");
            PATTERN.write(&client, position + sent as u64, 3)?;
            PATTERN.read(&server, position, sent + 3)?;
            position += sent as u64 + 3;
            ring += 3;
        }
    }
    Ok(Claim::ring(ring))
}

/// A buffer whose end is not mapped: what was not received is still there.
fn receive_over_the_edge(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let mut cliff = Cliff::new(16 * 4096)?;
    let mut position = 0;
    for length in LENGTHS {
        for there in edges(length) {
            PATTERN.write(&client, position, length)?;
            let got = match cliff.recv(&server, there, length) {
                Ok(got) => got,
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => 0,
                Err(error) => return Err(error.into()),
            };
            ensure!(got <= there, "received {got} bytes into {there}");
            PATTERN.check(position, &cliff.last(there)[..got])?;
            PATTERN.read(&server, position + got as u64, length - got)?;
            let more = sys::recv(&server, &mut [0], libc::MSG_DONTWAIT).err();
            let empty = more.is_some_and(|error| error.kind() == ErrorKind::WouldBlock);
            ensure!(
                empty,
                "bytes were left after a fault at {there} of {length}"
            );
            position += length as u64;
        }
    }
    Ok(Claim::ring(position as usize))
}

/// The same where the module chooses the other way to copy.
fn as_other_processors(env: &Env) -> Result<Claim> {
    if !Path::new(COPY_BYTES).exists() {
        println!("the kernel copies: there is no other way");
        return Ok(Claim::untouched());
    }
    let before = fs::read_to_string(COPY_BYTES)?;
    let other = if before.trim() == "Y" { "N" } else { "Y" };
    fs::write(COPY_BYTES, other)?;
    let copied = in_every_way(env);
    let during = fs::read_to_string(COPY_BYTES)?;
    fs::write(COPY_BYTES, before).context("failed to put copy_bytes back")?;
    ensure!(during.trim() == other, "copy_bytes is {during}");
    let refused = fs::write(COPY_BYTES, "maybe").is_err();
    ensure!(refused, "copy_bytes took what is neither yes nor no");
    copied
}

fn in_every_way(env: &Env) -> Result<Claim> {
    Ok(every_length(env)?
        .and(every_alignment(env)?)
        .and(send_over_the_edge(env)?)
        .and(receive_over_the_edge(env)?))
}
