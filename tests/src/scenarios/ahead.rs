// SPDX-License-Identifier: GPL-2.0-only
//! Waking the other end before there is anything for it: nobody may see that it happened.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};
use libc::{EPOLLIN, EPOLLOUT};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::select::{FdSet, select};
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, SOON};
use crate::scenario::Scenario;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::some("receive", |env| answered_late(env, wait_nothing, Who::Call)),
    Scenario::some("poll", |env| answered_late(env, wait_poll, Who::Level)),
    Scenario::some("select", |env| answered_late(env, wait_select, Who::Level)),
    Scenario::some("epoll_level", |env| {
        answered_late(env, wait_level, Who::Level)
    }),
    Scenario::some("epoll_one_shot", |env| {
        answered_late(env, wait_once, Who::Level)
    }),
    Scenario::some("epoll_edge", |env| answered_late(env, wait_edge, Who::Edge)),
    Scenario::some("io_uring_poll", |env| {
        answered_late(env, wait_io_uring, Who::Edge)
    }),
    Scenario::some("edges_beside_a_level", edges_beside_a_level),
];

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// recv(): is woken ahead.
    Call,
    /// A level-triggered poller: is woken ahead.
    Level,
    /// An edge-triggered one: would report what is true and old, and is left alone.
    Edge,
}

const PATTERN: Pattern = Pattern::new(32);
const ROUNDS: u64 = 8;

/// Sends a request, then waits until the socket is said to be readable.
type Wait = fn(&TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()>;

fn wait_nothing(_: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    request()
}

fn wait_poll(socket: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    request()?;
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let count = poll(&mut fds, PollTimeout::NONE)?;
    ensure!(count == 1, "poll said {count}");
    Ok(())
}

fn wait_select(socket: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    request()?;
    let mut set = FdSet::new();
    set.insert(socket.as_fd());
    let count = select(None, &mut set, None, None, None)?;
    ensure!(count == 1, "select said {count}");
    Ok(())
}

fn wait_epoll(watch: &Watch, request: &dyn Fn() -> Result<()>) -> Result<()> {
    request()?;
    let events = watch.events(SOON)?;
    ensure!(events == EPOLLIN, "epoll said {events:#x}");
    Ok(())
}

fn wait_level(socket: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    wait_epoll(&Watch::level(socket, EPOLLIN)?, request)
}

fn wait_edge(socket: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    wait_epoll(&Watch::edge(socket, EPOLLIN)?, request)
}

fn wait_once(socket: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    wait_epoll(&Watch::once(socket, EPOLLIN)?, request)
}

fn wait_io_uring(socket: &TcpStream, request: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut ring = IoUring::new(4).context("failed to make io_uring")?;
    let fd = types::Fd(socket.as_raw_fd());
    let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
    // SAFETY: the operation has no buffer, and the socket outlives the completion.
    unsafe { ring.submission().push(&entry) }.context("submission queue is full")?;
    ring.submit()?;
    request()?;
    ring.submit_and_wait(1)
        .context("failed to wait for io_uring")?;
    let said = ring.completion().next().context("no completion")?.result();
    ensure!(said == i32::from(libc::POLLIN), "io_uring said {said}");
    Ok(())
}

/// The server reads each request at once and answers only when the client, woken ahead perhaps, is asleep again.
fn answered_late(env: &Env, wait: Wait, who: Who) -> Result<Claim> {
    let before = env.counters()?;
    let Conn { client, server } = env.conn()?;
    for round in 0..ROUNDS {
        let (tell, told) = mpsc::channel();
        let socket = client.try_clone()?;
        let client = Asleep::start(move || -> Result<()> {
            wait(&socket, &|| {
                PATTERN.write(&socket, round, 100)?;
                Ok(tell.send(())?)
            })?;
            if who != Who::Call {
                let now = sys::recv(&socket, &mut [0; 1], libc::MSG_PEEK | libc::MSG_DONTWAIT);
                let lied = now.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
                ensure!(!lied, "said to be readable, and was not");
            }
            PATTERN.read(&socket, round, 200)
        })?;
        told.recv().context("the request was not sent")?;
        PATTERN.read(&server, round, 100)?;
        client.settle()?;
        ensure!(!client.finished(), "the client did not wait for its answer");
        PATTERN.write(&server, round, 200)?;
        client.join()?;
    }
    if env.spliced() {
        let woken = env.since(&before)?.get("wakes_ahead")?;
        ensure!((woken > 0) == (who != Who::Edge), "{woken} wake-ups ahead");
    }
    Ok(Claim::ring(ROUNDS as usize * 300))
}

/// An edge-triggered poller of both directions hears of nothing but its answers, although a level-triggered one watches as well.
fn edges_beside_a_level(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let level = Watch::level(&client, EPOLLIN)?;
    let edge = Watch::edge(&client, EPOLLIN | EPOLLOUT)?;
    edge.expect(EPOLLOUT)?;
    for round in 0..ROUNDS {
        level.expect_nothing()?;
        PATTERN.write(&client, round, 100)?;
        PATTERN.read(&server, round, 100)?;
        edge.expect_nothing()?;
        level.expect_nothing()?;
        PATTERN.write(&server, round, 200)?;
        level.expect(EPOLLIN)?;
        edge.expect(EPOLLIN | EPOLLOUT)?;
        PATTERN.read(&client, round, 200)?;
    }
    Ok(Claim::ring(ROUNDS as usize * 300))
}
