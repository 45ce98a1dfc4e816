// SPDX-License-Identifier: GPL-2.0-only
//! The flags and options of receiving.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("fionread", fionread),
    Scenario::each("peek", peek),
    Scenario::each("peek_blocks", peek_blocks),
    Scenario::each("peek_offset", peek_offset),
    Scenario::each("peek_across_a_leave", peek_across_a_leave),
    Scenario::each("wait_all", wait_all),
    Scenario::each("wait_all_above_ring", wait_all_above_ring),
    Scenario::each("wait_all_cut_by_the_end", wait_all_cut_by_the_end),
    Scenario::each("truncate", truncate),
    Scenario::each("nothing_wanted", nothing_wanted),
    Scenario::each("bad_pointers_lose_nothing", bad_pointers_lose_nothing),
    Scenario::each("no_error_queue", no_error_queue),
    Scenario::each("short_messages", short_messages),
];

const PATTERN: Pattern = Pattern::new(25);

/// Waits until exactly `count` bytes can be read.
fn arrived(socket: &TcpStream, count: usize) -> Result<()> {
    wait_until("bytes to arrive", || {
        Ok(sys::readable_bytes(socket)? == count)
    })
}

fn fionread(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    arrived(&server, 0)?;
    let mut waiting = 0;
    for size in [1, 10, 4096, 20_000, 30_000] {
        PATTERN.write(&client, waiting as u64, size)?;
        waiting += size;
        arrived(&server, waiting)?;
    }
    let total = waiting;
    for size in [1, 5000, 40_000] {
        PATTERN.read(&server, (total - waiting) as u64, size)?;
        waiting -= size;
        let count = sys::readable_bytes(&server)?;
        ensure!(
            count == waiting,
            "FIONREAD says {count} with {waiting} bytes left"
        );
    }
    Ok(Claim::ring(total))
}

fn peek(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 10_000)?;
    arrived(&server, 10_000)?;
    for size in [1, 4096, 4097, 10_000, 20_000] {
        let mut buffer = vec![0; size];
        let count = sys::recv(&server, &mut buffer, libc::MSG_PEEK)?;
        ensure!(count == size.min(10_000), "peek of {size} gave {count}");
        PATTERN.check(0, &buffer[..count])?;
    }
    PATTERN.read(&server, 0, 3000)?;
    let mut buffer = vec![0; 10_000];
    let count = sys::recv(&server, &mut buffer, libc::MSG_PEEK)?;
    PATTERN.check(3000, &buffer[..count])?;
    PATTERN.read(&server, 3000, 7000)?;
    Ok(Claim::ring(10_000))
}

fn peek_blocks(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let copy = server.try_clone()?;
    let peeker = Asleep::start(move || sys::recv(&copy, &mut [0; 100], libc::MSG_PEEK))?;
    ensure!(!peeker.finished(), "peek at nothing came back");
    PATTERN.write(&client, 0, 50)?;
    let count = peeker.join()?;
    ensure!(count == 50, "peek gave {count} of 50 bytes");
    PATTERN.read(&server, 0, 50)?;
    Ok(Claim::ring(50))
}

/// Bytes in the ring, then bytes over TCP: one peek shows both, from SO_PEEK_OFF on, which moves over both.
fn peek_across_a_leave(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 50)?;
    let sent = sys::send_with_timestamp(&client, &PATTERN.bytes(50, 60))?;
    ensure!(sent == 60, "sent {sent} of 60 bytes");
    wait_until("all bytes", || Ok(sys::readable_bytes(&server)? == 110))?;
    let peek = |from: usize, length: usize, most: usize| -> Result<()> {
        let mut buffer = vec![0; length];
        let got = sys::recv(&server, &mut buffer, libc::MSG_PEEK | libc::MSG_DONTWAIT)?;
        ensure!(got == most, "peeked at {got} bytes instead of {most}");
        PATTERN.check(from as u64, &buffer[..got])
    };
    peek(0, 200, 110)?;
    peek(0, 80, 80)?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 10)?;
    peek(10, 60, 60)?;
    peek(70, 15, 15)?;
    peek(85, 200, 25)?;
    PATTERN.read(&server, 0, 110)?;
    Ok(Claim::ring(50).tcp(60))
}

fn peek_offset(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
    PATTERN.write(&client, 0, 10_000)?;
    arrived(&server, 10_000)?;
    let mut buffer = vec![0; 3000];
    for position in [0, 3000, 6000] {
        let count = sys::recv(&server, &mut buffer, libc::MSG_PEEK)?;
        ensure!(count == 3000, "peek gave {count} of 3000 bytes");
        PATTERN.check(position, &buffer)?;
    }
    // Reading takes the offset back by what was read.
    PATTERN.read(&server, 0, 2000)?;
    let count = sys::recv(&server, &mut buffer, libc::MSG_PEEK)?;
    ensure!(count == 1000, "peek at the rest gave {count} bytes");
    PATTERN.check(9000, &buffer[..1000])?;
    PATTERN.read(&server, 2000, 8000)?;
    Ok(Claim::ring(10_000))
}

fn wait_all(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 300)?;
    let reader = Asleep::start(move || {
        let mut buffer = vec![0; 1000];
        let count = sys::recv(&server, &mut buffer, libc::MSG_WAITALL)?;
        std::io::Result::Ok((count, buffer, server))
    })?;
    ensure!(!reader.finished(), "MSG_WAITALL came back with a part");
    PATTERN.write(&client, 300, 300)?;
    PATTERN.write(&client, 600, 600)?;
    let (count, buffer, server) = reader.join()?;
    ensure!(count == 1000, "MSG_WAITALL gave {count} of 1000");
    PATTERN.check(0, &buffer)?;
    PATTERN.read(&server, 1000, 200)?;
    Ok(Claim::ring(1200))
}

fn wait_all_above_ring(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 1 << 20;
    let Conn { client, server } = env.conn()?;
    let sender = thread::spawn(move || PATTERN.write(&client, 0, LENGTH).map(|()| client));
    let mut buffer = vec![0; LENGTH];
    let count = sys::recv(&server, &mut buffer, libc::MSG_WAITALL)?;
    ensure!(count == LENGTH, "MSG_WAITALL gave {count} of {LENGTH}");
    PATTERN.check(0, &buffer)?;
    drop(sender.join().expect("sender panicked")?);
    Ok(Claim::ring(LENGTH))
}

fn wait_all_cut_by_the_end(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 300)?;
    client.shutdown(Shutdown::Write)?;
    let mut buffer = vec![0; 1000];
    let count = sys::recv(&server, &mut buffer, libc::MSG_WAITALL)?;
    ensure!(
        count == 300,
        "MSG_WAITALL gave {count} of 300 before the end"
    );
    // And by a timeout, the other way round.
    sys::set_timeout(&client, libc::SO_RCVTIMEO, 50)?;
    PATTERN.write(&server, 0, 200)?;
    let count = sys::recv(&client, &mut buffer, libc::MSG_WAITALL)?;
    ensure!(
        count == 200,
        "MSG_WAITALL gave {count} of 200 before the timeout"
    );
    Ok(Claim::ring(500))
}

fn truncate(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 10_000)?;
    arrived(&server, 10_000)?;
    let count = sys::discard(&server, 4500, 0)?;
    ensure!(count == 4500, "MSG_TRUNC discarded {count} of 4500");
    PATTERN.read(&server, 4500, 500)?;
    let count = sys::discard(&server, 20_000, libc::MSG_DONTWAIT)?;
    ensure!(
        count == 5000,
        "MSG_TRUNC discarded {count} of the last 5000"
    );
    PATTERN.write(&client, 0, 10)?;
    PATTERN.read(&server, 0, 10)?;
    Ok(Claim::ring(10_010))
}

fn nothing_wanted(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let count = sys::send(&client, &[], 0)?;
    ensure!(count == 0, "sending nothing gave {count}");
    let error = sys::recv(&server, &mut [], libc::MSG_DONTWAIT).err();
    let error = error.context("receiving nothing from an empty socket succeeded")?;
    ensure!(
        error.kind() == ErrorKind::WouldBlock,
        "receiving nothing failed with {error}"
    );
    PATTERN.write(&client, 0, 10)?;
    arrived(&server, 10)?;
    let count = sys::recv(&server, &mut [], 0)?;
    ensure!(count == 0, "receiving nothing gave {count}");
    PATTERN.read(&server, 0, 10)?;
    Ok(Claim::ring(10))
}

fn bad_pointers_lose_nothing(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 10_000)?;
    arrived(&server, 10_000)?;
    for length in [1, 5000, 20_000] {
        let error = sys::recv_nowhere(&server, length)
            .err()
            .context("recv to nowhere succeeded")?;
        ensure!(
            error.raw_os_error() == Some(libc::EFAULT),
            "recv to nowhere failed with {error}"
        );
        let error = sys::send_nowhere(&client, length)
            .err()
            .context("send from nowhere succeeded")?;
        ensure!(
            error.raw_os_error() == Some(libc::EFAULT),
            "send from nowhere failed with {error}"
        );
    }
    let waiting = sys::readable_bytes(&server)?;
    ensure!(waiting == 10_000, "{waiting} of 10000 bytes left");
    PATTERN.read(&server, 0, 10_000)?;
    PATTERN.write(&client, 0, 10)?;
    PATTERN.read(&server, 0, 10)?;
    Ok(Claim::ring(10_010))
}

fn no_error_queue(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 100)?;
    arrived(&server, 100)?;
    thread::sleep(Duration::from_millis(1));
    for flag in [libc::MSG_ERRQUEUE, libc::MSG_OOB] {
        let error = sys::recv(&server, &mut [0; 10], flag)
            .err()
            .context("recv succeeded")?;
        let right = [Some(libc::EAGAIN), Some(libc::EINVAL)].contains(&error.raw_os_error());
        ensure!(right, "recv with flag {flag:#x} failed with {error}");
    }
    PATTERN.read(&server, 0, 100)?;
    Ok(Claim::ring(100))
}

/// Messages that a receiver finds beside the cursor (`core/src/short.rs`) and some that are too long, of every length: alone, in two halves, two at once,
/// looked at before. And messages that end in, before and behind the last places of a chunk.
fn short_messages(env: &Env) -> Result<Claim> {
    const MESSAGES: usize = 3000;
    /// Bytes that are copied at most; and a chunk's (`CHUNK_LOG2` in kmod/src/ring.rs).
    const SHORT: usize = 48;
    const CHUNK: usize = 16 << 10;
    let Conn { client, server } = env.conn()?;
    let before = env.counters()?;
    let (mut sent, mut least) = (0, 0);
    for number in 0..MESSAGES {
        // 7 has no factor in common with 60: each length meets each way of reading.
        let length = 1 + 7 * (number / 5) % 60;
        let at = sent as u64;
        PATTERN.write(&client, at, length)?;
        sent += length;
        // Its first or only part is read from beside the cursor; but not where its last word is in two chunks.
        let is_copied = length <= SHORT;
        match number % 5 {
            0 if length > 1 => {
                PATTERN.read(&server, at, length / 2)?;
                PATTERN.read(&server, at + length as u64 / 2, length - length / 2)?;
                least += u64::from(is_copied);
            }
            1 => {
                PATTERN.write(&client, sent as u64, 5)?;
                PATTERN.read(&server, at, length + 5)?;
                sent += 5;
            }
            2 => {
                let mut looked = vec![0; length];
                let got = server.peek(&mut looked)?;
                ensure!(
                    looked[..got] == PATTERN.bytes(at, length)[..got],
                    "wrong bytes in a peek"
                );
                PATTERN.read(&server, at, length)?;
                least += u64::from(is_copied);
            }
            _ => {
                PATTERN.read(&server, at, length)?;
                least += u64::from(is_copied);
            }
        }
    }
    let found = env.since(&before)?.get("short_messages")?;
    // The stream's positions are the ring's but for the few bytes of the warm-up.
    for room in 1..60 {
        for less in -4..=6 {
            let length = isize::clamp(room - less, 1, SHORT as isize) as usize;
            let on = 2 * CHUNK - sent % CHUNK - room as usize;
            for length in [on, length] {
                PATTERN.write(&client, sent as u64, length)?;
                PATTERN.read(&server, sent as u64, length)?;
                sent += length;
            }
        }
    }
    if env.spliced() {
        least = least * 97 / 100;
        ensure!(
            found >= least,
            "{found} short messages were read from beside the cursor, not {least} at least"
        );
    }
    Ok(Claim::ring(sent))
}
