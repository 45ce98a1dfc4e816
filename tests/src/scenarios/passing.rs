// SPDX-License-Identifier: GPL-2.0-only
//! One socket in several processes.

use std::io::{IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Result, bail, ensure};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("fork_shares_a_socket", fork_shares_a_socket),
    Scenario::each("two_processes", two_processes),
    Scenario::each("descriptor_sent_over_unix_socket", descriptor_sent),
    Scenario::each("close_in_one_process_ends_nothing", close_in_one_process),
];

const PATTERN: Pattern = Pattern::new(27);
const LENGTH: usize = 200_000;

fn expect_success(child: Pid) -> Result<()> {
    let status = waitpid(child, None)?;
    ensure!(
        matches!(status, WaitStatus::Exited(_, 0)),
        "forked process: {status:?}"
    );
    Ok(())
}

/// Parent and child send on the same socket, one after another.
fn fork_shares_a_socket(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    for round in 0..3 {
        PATTERN.write(&client, 0, 20_000)?;
        let child = sys::fork(|| PATTERN.write(&client, 20_000, 20_000).is_ok())?;
        expect_success(child)?;
        let child = sys::fork(|| PATTERN.read(&server, 0, 30_000).is_ok())?;
        expect_success(child)?;
        PATTERN.read(&server, 30_000, 10_000)?;
        PATTERN.write(&server, round, 10)?;
        PATTERN.read(&client, round, 10)?;
    }
    Ok(Claim::ring(3 * 40_000))
}

/// The ends belong to different processes, as they mostly do.
fn two_processes(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let child = sys::fork(|| {
        let serve = || -> Result<()> {
            let (server, _) = listener.accept()?;
            for round in 0..20 {
                PATTERN.read(&server, round, 5000)?;
                PATTERN.write(&server, round, 5000)?;
            }
            PATTERN.read(&server, 0, LENGTH)?;
            PATTERN.write(&server, 1, LENGTH)
        };
        serve().is_ok()
    })?;
    let client = env.link.connect(&listener)?;
    for round in 0..20 {
        PATTERN.write(&client, round, 5000)?;
        PATTERN.read(&client, round, 5000)?;
    }
    PATTERN.write(&client, 0, LENGTH)?;
    PATTERN.read_to_end(&client, 1, LENGTH)?;
    expect_success(child)?;
    Ok(Claim::ring(2 * LENGTH + 100_000).tcp(20_000))
}

fn descriptor_sent(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 10_000)?;
    let (near, far) = UnixStream::pair()?;
    let child = sys::fork(|| {
        let work = || -> Result<()> {
            let server = receive_descriptor(&far)?;
            PATTERN.read(&server, 5000, 5000)?;
            PATTERN.write(&server, 0, 50_000)
        };
        work().is_ok()
    })?;
    PATTERN.read(&server, 0, 5000)?;
    let descriptors = [server.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(
        near.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &control,
        MsgFlags::empty(),
        None,
    )?;
    drop(server);
    PATTERN.read(&client, 0, 50_000)?;
    expect_success(child)?;
    Ok(Claim::ring(60_000))
}

/// The forked child still has its own copy; that one is closed unused.
fn receive_descriptor(from: &UnixStream) -> Result<std::net::TcpStream> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(
        from.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            return Ok(sys::adopt(descriptors[0]));
        }
    }
    bail!("no descriptor came")
}

fn close_in_one_process(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, 1000)?;
    // The child leaves with unread bytes in the ring, but the parent has the socket too.
    let child = sys::fork(|| PATTERN.read(&server, 0, 100).is_ok())?;
    expect_success(child)?;
    PATTERN.read(&server, 100, 900)?;
    PATTERN.write(&server, 0, 1000)?;
    PATTERN.read(&client, 0, 1000)?;
    client.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(&server, 0, 0)?;
    Ok(Claim::ring(2000))
}
