// SPDX-License-Identifier: GPL-2.0-only
//! Several threads use one socket.

use std::io::Read;
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("messages_are_not_torn", messages_are_not_torn),
    Scenario::each("shared_receivers", shared_receivers),
    Scenario::each("senders_and_receivers_on_both_ends", both_ends),
    Scenario::each(
        "blocked_receivers_all_see_the_end",
        blocked_receivers_all_see_the_end,
    ),
];

const SENDERS: usize = 6;
const MESSAGE: usize = 1000;

/// A message says who sent it and which one it is; the rest follows from both.
fn message(sender: usize, index: usize) -> Vec<u8> {
    let mut bytes = Pattern::new((sender << 32 | index) as u64).bytes(0, MESSAGE);
    bytes[..4].copy_from_slice(&(sender as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&(index as u32).to_le_bytes());
    bytes
}

fn number(bytes: &[u8]) -> usize {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
}

/// Receives `count` messages of each sender: whole, and in each sender's order.
fn receive_messages(mut from: impl Read, count: usize) -> Result<()> {
    let mut next = [0; SENDERS];
    let mut bytes = vec![0; MESSAGE];
    for _ in 0..SENDERS * count {
        from.read_exact(&mut bytes)?;
        let (sender, index) = (number(&bytes), number(&bytes[4..]));
        ensure!(sender < SENDERS, "torn message: sender {sender}");
        ensure!(
            index == next[sender],
            "message {index} of sender {sender} instead of {}",
            next[sender]
        );
        ensure!(
            bytes == message(sender, index),
            "torn message {index} of sender {sender}"
        );
        next[sender] += 1;
    }
    Ok(())
}

fn send_messages(socket: &std::net::TcpStream, sender: usize, count: usize) -> Result<()> {
    for index in 0..count {
        let sent = sys::send(socket, &message(sender, index), 0)?;
        ensure!(
            sent == MESSAGE,
            "blocking send gave {sent} of {MESSAGE} bytes"
        );
    }
    Ok(())
}

fn messages_are_not_torn(env: &Env) -> Result<Claim> {
    // TCP itself tears messages when its buffers are full, so less is sent there.
    let count = if env.spliced() { 300 } else { 20 };
    let conn = env.conn()?;
    thread::scope(|scope| -> Result<()> {
        for sender in 0..SENDERS {
            let socket = &conn.client;
            scope.spawn(move || send_messages(socket, sender, count).expect("sender failed"));
        }
        receive_messages(&conn.server, count)
    })?;
    Ok(Claim::ring(SENDERS * count * MESSAGE))
}

/// How often each byte value occurs.
fn histogram(bytes: &[u8], into: &mut [u64; 256]) {
    for byte in bytes {
        into[usize::from(*byte)] += 1;
    }
}

fn shared_receivers(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 1 << 20;
    let conn = env.conn()?;
    let pattern = Pattern::new(12);
    let mut want = [0; 256];
    histogram(&pattern.bytes(0, LENGTH), &mut want);
    let mut got = [0; 256];
    thread::scope(|scope| -> Result<()> {
        let receive = |size: usize| {
            let mut socket = &conn.server;
            move || -> Result<[u64; 256]> {
                let (mut counts, mut buffer) = ([0; 256], vec![0; size]);
                loop {
                    match socket.read(&mut buffer)? {
                        0 => return Ok(counts),
                        count => histogram(&buffer[..count], &mut counts),
                    }
                }
            }
        };
        let receivers = [100, 1000, 7000, 50_000].map(|size| scope.spawn(receive(size)));
        pattern.write(&conn.client, 0, LENGTH)?;
        conn.client.shutdown(Shutdown::Write)?;
        for receiver in receivers {
            let counts = receiver.join().expect("receiver panicked")?;
            got.iter_mut()
                .zip(counts)
                .for_each(|(sum, count)| *sum += count);
        }
        Ok(())
    })?;
    ensure!(
        got.iter().sum::<u64>() == LENGTH as u64,
        "bytes were lost or doubled"
    );
    ensure!(got == want, "bytes were changed");
    Ok(Claim::ring(LENGTH))
}

fn both_ends(env: &Env) -> Result<Claim> {
    let count = if env.spliced() { 60 } else { 10 };
    let conn = env.conn()?;
    thread::scope(|scope| -> Result<()> {
        for socket in [&conn.client, &conn.server] {
            for sender in 0..SENDERS {
                scope.spawn(move || send_messages(socket, sender, count).expect("sender failed"));
            }
        }
        let other = scope.spawn(|| receive_messages(&conn.client, count));
        receive_messages(&conn.server, count)?;
        other.join().expect("receiver panicked")
    })?;
    Ok(Claim::ring(2 * SENDERS * count * MESSAGE))
}

fn blocked_receivers_all_see_the_end(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let total = AtomicUsize::new(0);
    thread::scope(|scope| -> Result<()> {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut buffer = [0; 100];
                while let Ok(count @ 1..) = (&conn.server).read(&mut buffer) {
                    total.fetch_add(count, Ordering::Relaxed);
                }
            });
        }
        Pattern::new(13).write(&conn.client, 0, 5000)?;
        thread::sleep(std::time::Duration::from_millis(20));
        conn.client.shutdown(Shutdown::Write)?;
        Ok(())
    })?;
    let total = total.into_inner();
    ensure!(total == 5000, "{total} of 5000 bytes arrived");
    Ok(Claim::ring(5000))
}
