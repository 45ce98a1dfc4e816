// SPDX-License-Identifier: GPL-2.0-only
//! sendfile and splice, to and from the socket.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::sendfile::sendfile;
use nix::unistd::pipe;
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("sendfile_to_socket", sendfile_to_socket),
    Scenario::each("splice_to_socket", splice_to_socket),
    Scenario::each("splice_from_socket", splice_from_socket),
    Scenario::each("splice_from_start_up", splice_from_start_up),
    Scenario::each("splice_waits", splice_waits),
    Scenario::each("proxy", proxy),
];

const PATTERN: Pattern = Pattern::new(26);
const LENGTH: usize = 1 << 20;

/// A file with the pattern's first bytes.
fn file(length: usize) -> Result<File> {
    let path = std::env::temp_dir().join(format!("tcp-splice-file-{}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(&PATTERN.bytes(0, length))?;
    file.rewind()?;
    Ok(file)
}

fn sendfile_to_socket(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let source = file(LENGTH)?;
    let send = thread::spawn(move || -> Result<()> {
        let mut sent = 0;
        while sent < LENGTH {
            let count =
                sendfile(&client, &source, None, LENGTH - sent).context("failed to sendfile")?;
            ensure!(count > 0, "sendfile gave 0 after {sent} bytes");
            sent += count;
        }
        Ok(())
    });
    PATTERN.read_to_end(&server, 0, LENGTH)?;
    send.join().expect("sender panicked")?;
    Ok(Claim::ring(LENGTH))
}

fn splice_to_socket(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (out, into) = pipe()?;
    let feed = thread::spawn(move || PATTERN.write(File::from(into), 0, LENGTH));
    let send = thread::spawn(move || move_all(&out, &client, LENGTH).map(|_| client));
    PATTERN.read(&server, 0, LENGTH)?;
    feed.join().expect("feeder panicked")?;
    drop(send.join().expect("splicer panicked")?);
    Ok(Claim::ring(LENGTH))
}

/// splice(2) until `length` bytes or the end; returns how many went.
fn move_all(
    from: &impl std::os::fd::AsFd,
    to: &impl std::os::fd::AsFd,
    length: usize,
) -> Result<usize> {
    let mut done = 0;
    while done < length {
        let count = splice(
            from,
            None,
            to,
            None,
            length - done,
            SpliceFFlags::SPLICE_F_MOVE,
        )
        .with_context(|| format!("failed to splice after {done} bytes"))?;
        if count == 0 {
            break;
        }
        done += count;
    }
    Ok(done)
}

fn splice_from_socket(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (out, into) = pipe()?;
    let send = thread::spawn(move || -> Result<()> {
        PATTERN.write(&client, 0, LENGTH)?;
        Ok(client.shutdown(Shutdown::Write)?)
    });
    let drain = thread::spawn(move || PATTERN.read_to_end(File::from(out), 0, LENGTH));
    let moved = move_all(&server, &into, usize::MAX / 2)?;
    ensure!(
        moved == LENGTH,
        "splice gave the end after {moved} of {LENGTH} bytes"
    );
    drop(into);
    send.join().expect("sender panicked")?;
    drain.join().expect("drain panicked")?;
    Ok(Claim::ring(LENGTH))
}

/// The first bytes come out of TCP, the others out of the ring; splice never says 0 in between.
fn splice_from_start_up(env: &Env) -> Result<Claim> {
    const PART: usize = 10_000;
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    client.set_nodelay(true)?;
    PATTERN.write(&client, 0, PART)?;
    let (server, _) = listener.accept()?;
    PATTERN.write(&client, PART as u64, PART)?;
    wait_until("bytes to arrive", || {
        Ok(sys::readable_bytes(&server)? == 2 * PART)
    })?;
    let (out, into) = pipe()?;
    let moved = move_all(&server, &into, 2 * PART)?;
    ensure!(moved == 2 * PART, "splice gave {moved} bytes");
    drop(into);
    PATTERN.read_to_end(File::from(out), 0, 2 * PART)?;
    Ok(Claim::ring(PART).tcp(PART))
}

fn splice_waits(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (out, into): (OwnedFd, OwnedFd) = pipe()?;
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
    server.set_nonblocking(true)?;
    let empty = splice(&server, None, &into, None, 100, flags);
    ensure!(
        empty == Err(nix::Error::EAGAIN),
        "non-blocking splice of nothing gave {empty:?}"
    );
    server.set_nonblocking(false)?;
    let splicer =
        Asleep::start(move || move_all(&server, &into, 100).map(|count| (count, server)))?;
    ensure!(!splicer.finished(), "splice of nothing came back");
    PATTERN.write(&client, 0, 100)?;
    let (count, _server) = splicer.join()?;
    ensure!(count == 100, "splice gave {count} of 100 bytes");
    let mut got = vec![0; 100];
    File::from(out).read_exact(&mut got)?;
    PATTERN.check(0, &got)?;
    Ok(Claim::ring(100))
}

/// A proxy made of splice only, between two connections.
fn proxy(env: &Env) -> Result<Claim> {
    let (near, far) = (env.conn()?, env.conn()?);
    let (out, into) = pipe()?;
    let (from, to): (TcpStream, TcpStream) = (near.server, far.client);
    let pump = thread::spawn(move || -> Result<usize> {
        let mut total = 0;
        loop {
            let count = splice(&from, None, &into, None, 65536, SpliceFFlags::empty())?;
            if count == 0 {
                to.shutdown(Shutdown::Write)?;
                return Ok(total);
            }
            total += move_all(&out, &to, count)?;
        }
    });
    let send = thread::spawn(move || PATTERN.write(near.client, 0, LENGTH));
    PATTERN.read_to_end(&far.server, 0, LENGTH)?;
    send.join().expect("sender panicked")?;
    let moved = pump.join().expect("pump panicked")?;
    ensure!(moved == LENGTH, "{moved} bytes went through the proxy");
    Ok(Claim::ring(2 * LENGTH).pairs(2))
}
