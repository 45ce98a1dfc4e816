// SPDX-License-Identifier: GPL-2.0-only
//! poll, select and level-triggered epoll tell the truth.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libc::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};
use socket2::SockRef;
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, SOON};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("level_in", level_in),
    Scenario::each("poll_and_select", poll_and_select),
    Scenario::each("hang_ups", hang_ups),
    Scenario::each("reset_is_an_error", reset_is_an_error),
    Scenario::each("blocked_waiters_wake", blocked_waiters_wake),
    Scenario::each("low_water_mark", low_water_mark),
    Scenario::each("low_water_mark_lowered", low_water_mark_lowered),
    Scenario::each(
        "low_water_mark_across_a_leave",
        low_water_mark_across_a_leave,
    ),
    Scenario::each("low_water_mark_above_ring", low_water_mark_above_ring),
];

const PATTERN: Pattern = Pattern::new(23);

/// An epoll set with one socket.
#[derive(Debug)]
pub struct Watch(Epoll);

impl Watch {
    /// Reports `events` as long as they hold.
    pub fn level(socket: &TcpStream, events: i32) -> Result<Self> {
        Self::new(socket, EpollFlags::from_bits_retain(events))
    }

    /// Reports `events` when something changed.
    pub fn edge(socket: &TcpStream, events: i32) -> Result<Self> {
        Self::new(
            socket,
            EpollFlags::from_bits_retain(events) | EpollFlags::EPOLLET,
        )
    }

    /// Has waits spin for `us` microseconds, see [`sys::busy_poll`].
    pub fn busy_poll(&self, us: u32, prefer: bool) -> Result<()> {
        sys::busy_poll(&self.0.0, us, prefer).context("failed to set EPIOCSPARAMS")
    }

    /// Reports `events` once.
    pub fn once(socket: &TcpStream, events: i32) -> Result<Self> {
        Self::new(
            socket,
            EpollFlags::from_bits_retain(events) | EpollFlags::EPOLLONESHOT,
        )
    }

    fn new(socket: &TcpStream, events: EpollFlags) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        epoll.add(socket, EpollEvent::new(events, 1))?;
        Ok(Self(epoll))
    }

    /// Reports `events` once more after [`Self::once`].
    pub fn again(&self, socket: &TcpStream, events: i32) -> Result<()> {
        let events = EpollFlags::from_bits_retain(events) | EpollFlags::EPOLLONESHOT;
        Ok(self.0.modify(socket, &mut EpollEvent::new(events, 1))?)
    }

    /// The events within `wait`; 0 for none.
    pub fn events(&self, wait: Duration) -> Result<i32> {
        let mut events = [EpollEvent::empty()];
        let wait = EpollTimeout::try_from(wait)?;
        let count = self.0.wait(&mut events, wait)?;
        Ok(if count == 0 {
            0
        } else {
            events[0].events().bits()
        })
    }

    /// Waits for events, which have to become exactly `want`. Several may come one after another, as segments do.
    pub fn expect(&self, want: i32) -> Result<()> {
        let mut seen = 0;
        for _ in 0..10 {
            let events = self.events(SOON)?;
            ensure!(
                events != 0,
                "no event came, {want:#x} expected, {seen:#x} before"
            );
            seen |= events;
            if events == want {
                return Ok(());
            }
            ensure!(
                events & !want == 0,
                "events {events:#x} instead of {want:#x}"
            );
        }
        anyhow::bail!("events {seen:#x} instead of {want:#x}")
    }

    /// Sees that no event comes.
    pub fn expect_nothing(&self) -> Result<()> {
        let events = self.events(Duration::from_millis(20))?;
        ensure!(
            events == 0,
            "events {events:#x} although there was nothing new"
        );
        Ok(())
    }
}

fn level_in(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (near, far) = (
        Watch::level(&client, EPOLLIN)?,
        Watch::level(&server, EPOLLIN | EPOLLOUT)?,
    );
    for round in 0..5 {
        far.expect(EPOLLOUT)?;
        near.expect_nothing()?;
        PATTERN.write(&client, round, 3000)?;
        far.expect(EPOLLIN | EPOLLOUT)?;
        PATTERN.read(&server, round, 3000 - 1)?;
        far.expect(EPOLLIN | EPOLLOUT)?;
        PATTERN.read(&server, round + 2999, 1)?;
        PATTERN.write(&server, round, 10)?;
        near.expect(EPOLLIN)?;
        PATTERN.read(&client, round, 10)?;
    }
    Ok(Claim::ring(5 * 3010))
}

/// What poll(2) says within `wait` milliseconds.
fn polled(socket: &TcpStream, events: PollFlags, wait: u16) -> Result<PollFlags> {
    let mut fds = [PollFd::new(socket.as_fd(), events)];
    poll(&mut fds, PollTimeout::from(wait))?;
    Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
}

/// Whether select(2) calls the socket readable within `wait` milliseconds.
fn selected(socket: &TcpStream, wait: i64) -> Result<bool> {
    let mut set = FdSet::new();
    set.insert(socket.as_fd());
    select(None, &mut set, None, None, &mut TimeVal::milliseconds(wait))?;
    Ok(set.contains(socket.as_fd()))
}

fn poll_and_select(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let both = PollFlags::POLLIN | PollFlags::POLLOUT;
    for round in 0..5 {
        ensure!(
            polled(&server, both, 0)? == PollFlags::POLLOUT,
            "poll of an idle socket"
        );
        ensure!(
            !selected(&server, 5)?,
            "select calls an idle socket readable"
        );
        PATTERN.write(&client, round, 100)?;
        ensure!(selected(&server, 30_000)?, "select does not see the bytes");
        ensure!(
            polled(&server, PollFlags::POLLIN, 30_000)? == PollFlags::POLLIN,
            "poll does not see the bytes"
        );
        ensure!(polled(&server, both, 0)? == both, "poll does not see both");
        PATTERN.read(&server, round, 100)?;
    }
    Ok(Claim::ring(500))
}

fn hang_ups(env: &Env) -> Result<Claim> {
    let all = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    let Conn { client, server } = env.conn()?;
    let level = Watch::level(&server, all)?;
    let edge = Watch::edge(&server, EPOLLIN | EPOLLRDHUP)?;
    PATTERN.write(&client, 0, 1000)?;
    client.shutdown(Shutdown::Write)?;
    level.expect(all)?;
    edge.expect(EPOLLIN | EPOLLRDHUP)?;
    PATTERN.read_to_end(&server, 0, 1000)?;
    level.expect(all)?;
    server.shutdown(Shutdown::Write)?;
    level.expect(all | EPOLLHUP)?;
    edge.expect(EPOLLIN | EPOLLRDHUP | EPOLLHUP)?;
    Ok(Claim::ring(1000))
}

fn reset_is_an_error(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let all = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    let level = Watch::level(&server, all)?;
    let edge = Watch::edge(&server, all)?;
    PATTERN.write(&client, 0, 10)?;
    PATTERN.read(&server, 0, 10)?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    level.expect(all | EPOLLERR | EPOLLHUP)?;
    edge.expect(all | EPOLLERR | EPOLLHUP)?;
    crate::scenarios::reset::expect_reset(&server)?;
    Ok(Claim::ring(10))
}

/// Each kind of wait is asleep before the bytes come.
fn blocked_waiters_wake(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let waits: [fn(TcpStream) -> Result<bool>; 3] = [
        |socket| Ok(polled(&socket, PollFlags::POLLIN, 60_000)? == PollFlags::POLLIN),
        |socket| selected(&socket, 60_000),
        |socket| Ok(Watch::level(&socket, EPOLLIN)?.events(SOON)? == EPOLLIN),
    ];
    for wait in waits {
        let copy = server.try_clone()?;
        let waiter = Asleep::start(move || wait(copy))?;
        ensure!(!waiter.finished(), "woke without reason");
        PATTERN.write(&client, 0, 1)?;
        ensure!(waiter.join()?, "did not see the byte");
        PATTERN.read(&server, 0, 1)?;
    }
    Ok(Claim::ring(3))
}

fn low_water_mark(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1000)?;
    let watch = Watch::level(&server, EPOLLIN)?;
    // The reader sleeps before anything comes: TCP takes what is below the mark and then wants another mark's worth.
    let copy = server.try_clone()?;
    let reader = Asleep::start(move || {
        let mut buffer = vec![0; 3000];
        sys::recv(&copy, &mut buffer, 0).map(|count| buffer[..count].to_vec())
    })?;
    PATTERN.write(&client, 0, 999)?;
    watch.expect_nothing()?;
    ensure!(
        !reader.finished(),
        "recv came back below the low-water mark"
    );
    PATTERN.write(&client, 999, 501)?;
    let got = reader.join()?;
    ensure!(got.len() >= 1000, "recv gave {} bytes", got.len());
    PATTERN.check(0, &got)?;
    PATTERN.read(&server, got.len() as u64, 1500 - got.len())?;
    PATTERN.write(&client, 0, 1000)?;
    watch.expect(EPOLLIN)?;
    PATTERN.read(&server, 0, 1000)?;
    Ok(Claim::ring(2500))
}

fn low_water_mark_lowered(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1000)?;
    let watch = Watch::edge(&server, EPOLLIN)?;
    PATTERN.write(&client, 0, 600)?;
    watch.expect_nothing()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 500)?;
    watch.expect(EPOLLIN)?;
    PATTERN.read(&server, 0, 600)?;
    Ok(Claim::ring(600))
}

/// Bytes in the ring and bytes over TCP behind them count together.
fn low_water_mark_across_a_leave(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 100)?;
    let watch = Watch::level(&server, EPOLLIN)?;
    for round in 0..3 {
        PATTERN.write(&client, 110 * round, 50)?;
        watch.expect_nothing()?;
        let sent = sys::send_with_timestamp(&client, &PATTERN.bytes(110 * round + 50, 60))?;
        ensure!(sent == 60, "sent {sent} of 60 bytes");
        watch.expect(EPOLLIN)?;
        PATTERN.read(&server, 110 * round, 110)?;
    }
    Ok(Claim::ring(50).tcp(200))
}

/// A mark that the ring can never reach must not stop the reader for ever.
fn low_water_mark_above_ring(env: &Env) -> Result<Claim> {
    const MARK: usize = 200_000;
    let Conn { client, server } = env.conn()?;
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, MARK as i32)?;
    let watch = Watch::level(&server, EPOLLIN)?;
    let sender = std::thread::spawn(move || PATTERN.write(&client, 0, MARK).map(|()| client));
    watch.expect(EPOLLIN)?;
    PATTERN.read(&server, 0, MARK)?;
    drop(sender.join().expect("sender panicked")?);
    Ok(Claim::ring(MARK))
}
