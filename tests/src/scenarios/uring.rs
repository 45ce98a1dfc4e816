// SPDX-License-Identifier: GPL-2.0-only
//! Sending and receiving through io_uring.

use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::each("send_and_receive", send_and_receive),
    Scenario::each("receive_that_waits", receive_that_waits),
    Scenario::each("stream", stream),
];

const PATTERN: Pattern = Pattern::new(29);

/// Queues one operation. Its buffer has to live until [`finish`] returned its result.
fn queue(ring: &mut IoUring, entry: &squeue::Entry) -> Result<()> {
    // SAFETY: each caller keeps the buffer and the socket until the completion was taken.
    unsafe { ring.submission().push(entry) }.context("submission queue is full")
}

/// Submits what is queued and waits for one completion.
fn finish(ring: &mut IoUring) -> Result<(u64, usize)> {
    ring.submit_and_wait(1)
        .context("failed to wait for io_uring")?;
    let entry = ring.completion().next().context("no completion")?;
    let result = entry.result();
    let count = usize::try_from(result);
    let count = count.map_err(|_| std::io::Error::from_raw_os_error(-result));
    Ok((
        entry.user_data(),
        count.context("io_uring operation failed")?,
    ))
}

fn send_op(socket: &TcpStream, bytes: &[u8]) -> squeue::Entry {
    let fd = types::Fd(socket.as_raw_fd());
    opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32)
        .build()
        .user_data(1)
}

fn receive_op(socket: &TcpStream, bytes: &mut [u8]) -> squeue::Entry {
    let fd = types::Fd(socket.as_raw_fd());
    opcode::Recv::new(fd, bytes.as_mut_ptr(), bytes.len() as u32)
        .build()
        .user_data(2)
}

fn send_and_receive(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let mut ring = IoUring::new(4).context("failed to make io_uring")?;
    for round in 0..20 {
        let (bytes, mut buffer) = (PATTERN.bytes(round, 3000), vec![0; 3000]);
        queue(&mut ring, &send_op(&client, &bytes))?;
        let (_, sent) = finish(&mut ring)?;
        ensure!(sent == 3000, "sent {sent} of 3000 bytes");
        queue(&mut ring, &receive_op(&server, &mut buffer))?;
        let (_, got) = finish(&mut ring)?;
        ensure!(got == 3000, "received {got} of 3000 bytes");
        PATTERN.check(round, &buffer)?;
    }
    Ok(Claim::ring(60_000))
}

/// The receive is pending, by io_uring's own poll, before the bytes come.
fn receive_that_waits(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let mut ring = IoUring::new(4).context("failed to make io_uring")?;
    for round in 0..20 {
        let (bytes, mut buffer) = (PATTERN.bytes(round, 1000), vec![0; 1000]);
        queue(&mut ring, &receive_op(&server, &mut buffer))?;
        ring.submit()?;
        queue(&mut ring, &send_op(&client, &bytes))?;
        let mut got = 0;
        for _ in 0..2 {
            match finish(&mut ring)? {
                (2, count) => got = count,
                (_, count) => ensure!(count == 1000, "sent {count} of 1000 bytes"),
            }
        }
        ensure!(got == 1000, "received {got} of 1000 bytes");
        PATTERN.check(round, &buffer)?;
    }
    Ok(Claim::ring(20_000))
}

/// Sender and receiver each with a ring of their own, and more bytes than any buffer holds.
fn stream(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 4 << 20;
    let Conn { client, server } = env.conn()?;
    let sender = std::thread::spawn(move || -> Result<TcpStream> {
        let mut ring = IoUring::new(4)?;
        let bytes = PATTERN.bytes(0, LENGTH);
        let mut sent = 0;
        while sent < LENGTH {
            queue(
                &mut ring,
                &send_op(&client, &bytes[sent..(sent + 100_000).min(LENGTH)]),
            )?;
            sent += finish(&mut ring)?.1;
        }
        Ok(client)
    });
    let mut ring = IoUring::new(4)?;
    let (mut got, mut buffer) = (0, vec![0; 30_000]);
    while got < LENGTH {
        queue(&mut ring, &receive_op(&server, &mut buffer))?;
        let (_, count) = finish(&mut ring)?;
        ensure!(count > 0, "stream ended after {got} bytes");
        PATTERN.check(got as u64, &buffer[..count])?;
        got += count;
    }
    drop(sender.join().expect("sender panicked")?);
    Ok(Claim::ring(LENGTH))
}
