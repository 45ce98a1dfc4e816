// SPDX-License-Identifier: GPL-2.0-only
//! poll, select and signals of readiness.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use libc::{F_SETOWN, O_ASYNC, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, SIGIO, SIGUSR1};
use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};
use socket2::SockRef;
use tcp_splice_world::asleep::Asleep;

use crate::calls;
use crate::case::{Case, case};
use crate::observe::{a_moment, drain, fill, soon};
use crate::run::{Pair, Run};
use crate::signals;
use crate::trace;

const F_SETSIG: i32 = 10;

pub const ALL: &[Case] = &[
    case!(poll_idle).lanes(),
    case!(poll_bytes),
    case!(poll_start_up_bytes),
    case!(poll_full).slow(),
    case!(poll_shut_down_by_peer),
    case!(poll_shut_down_here),
    case!(poll_shut_down_by_both).lanes(),
    case!(poll_read_half_shut_down),
    case!(poll_reset).lanes(),
    case!(poll_closed_with_unread_bytes),
    case!(poll_waits_for_bytes),
    case!(poll_waits_for_the_end).lanes(),
    case!(poll_waits_for_a_reset).lanes(),
    case!(poll_times_out).slow().lanes(),
    case!(poll_for_nothing).lanes(),
    case!(select_all_sets),
    case!(select_waits),
    case!(select_at_the_end).lanes(),
    case!(signal_for_bytes),
    case!(signal_for_room).slow(),
    case!(signal_for_the_end).lanes(),
    case!(signal_for_each_message),
];

fn poll_idle(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.poll("client", &client);
    r.poll("server", &server);
    Ok(())
}

fn poll_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for text in ["x", "hello"] {
        r.send("send", &client, text.as_bytes(), 0);
        r.poll_until("bytes", &server, POLLIN);
        r.take("take", &server, text.len());
        r.poll("read", &server);
    }
    Ok(())
}

fn poll_start_up_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.poll("before the ring", &server);
    r.send("send", &client, b"ring", 0);
    r.arrived(&server, 13);
    r.poll("both", &server);
    r.take("take", &server, 9);
    r.poll("ring only", &server);
    r.take("take", &server, 4);
    r.poll("nothing", &server);
    Ok(())
}

fn poll_full(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let sent = fill(&client);
    r.poll("full", &client);
    r.send("server sends", &server, b"hello", 0);
    r.poll_until("full, and bytes", &client, POLLIN);
    r.note("all arrive", drain(&server, 0, sent));
    r.poll_until("room", &client, POLLOUT);
    Ok(())
}

fn poll_shut_down_by_peer(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"last", 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("bytes and the end", &server, POLLRDHUP);
    r.take("take", &server, 4);
    r.poll("the end", &server);
    r.recv("recv", &server, 1, 0);
    r.poll("the end, read", &server);
    r.poll("the other side", &client);
    Ok(())
}

fn poll_shut_down_here(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    client.shutdown(Shutdown::Write)?;
    r.poll("here", &client);
    r.send("server sends", &server, b"hello", 0);
    r.poll_until("here, with bytes", &client, POLLIN);
    Ok(())
}

fn poll_shut_down_by_both(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    client.shutdown(Shutdown::Write)?;
    r.poll_until("server", &server, POLLRDHUP);
    server.shutdown(Shutdown::Write)?;
    r.poll_until("client", &client, POLLHUP);
    r.poll_until("server", &server, POLLHUP);
    r.recv("recv", &client, 1, 0);
    r.poll("client", &client);
    Ok(())
}

fn poll_read_half_shut_down(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    server.shutdown(Shutdown::Read)?;
    r.poll("server", &server);
    r.recv("recv", &server, 10, 0);
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    r.poll("with bytes", &server);
    r.recv("recv", &server, 10, 0);
    r.recv("recv", &server, 10, 0);
    r.send("send back", &server, b"answer", 0);
    r.take("take", &client, 6);
    Ok(())
}

fn reset(socket: TcpStream) -> Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    drop(socket);
    Ok(())
}

fn poll_reset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    reset(client)?;
    r.poll_until("reset", &server, POLLERR);
    r.recv("recv", &server, 1, 0);
    r.poll("error taken", &server);
    Ok(())
}

fn poll_closed_with_unread_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"never read", 0);
    r.arrived(&server, 10);
    drop(server);
    r.poll_until("reset", &client, POLLERR);
    r.error("SO_ERROR", &client);
    r.poll("error taken", &client);
    Ok(())
}

/// What poll(2) on a thread gives that waits when `act` happens.
fn waiting(
    r: &Run,
    socket: &TcpStream,
    events: i16,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let copy = socket.try_clone()?;
    let poller = Asleep::start(move || calls::poll(&copy, events, 10_000))?;
    r.note("came back early", poller.finished());
    act()?;
    let events = poller.join().map(|events| trace::events(events.into()));
    r.result("poll", events);
    Ok(())
}

fn poll_waits_for_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    waiting(r, &server, POLLIN, || {
        r.send("send", &client, b"hello", 0);
        Ok(())
    })?;
    r.take("take", &server, 5);
    Ok(())
}

fn poll_waits_for_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    waiting(r, &server, POLLRDHUP, || {
        Ok(client.shutdown(Shutdown::Write)?)
    })
}

fn poll_waits_for_a_reset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    waiting(r, &server, 0, || reset(client))
}

fn poll_times_out(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    let begin = Instant::now();
    let events = calls::poll(&server, POLLIN, 300);
    r.result("poll", events);
    r.elapsed("waited", begin, Duration::from_millis(300));
    Ok(())
}

fn poll_for_nothing(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    r.result("poll", calls::poll(&server, 0, 20));
    Ok(())
}

/// The three sets of select(2) within `wait` milliseconds.
fn selected(r: &Run, what: &str, socket: &TcpStream, wait: i64) {
    let set = || {
        let mut set = FdSet::new();
        set.insert(socket.as_fd());
        set
    };
    let (mut read, mut write, mut except) = (set(), set(), set());
    let mut wait = TimeVal::milliseconds(wait);
    let count = select(None, &mut read, &mut write, &mut except, &mut wait);
    let has = |set: &FdSet| set.contains(socket.as_fd());
    let sets = format!(
        "read {}, write {}, except {}",
        has(&read),
        has(&write),
        has(&except)
    );
    r.result(what, count.map(|count| format!("{count}: {sets}")));
}

fn select_all_sets(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    selected(r, "idle", &server, 0);
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    selected(r, "bytes", &server, 0);
    r.send("urgent", &client, b"!", libc::MSG_OOB);
    r.poll_until("urgent", &server, libc::POLLPRI);
    selected(r, "urgent", &server, 0);
    Ok(())
}

fn select_waits(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let copy = server.try_clone()?;
    let selector = Asleep::start(move || {
        let mut set = FdSet::new();
        set.insert(copy.as_fd());
        select(None, &mut set, None, None, &mut TimeVal::seconds(10))
    })?;
    r.note("came back early", selector.finished());
    r.send("send", &client, b"hello", 0);
    r.result("select", selector.join());
    Ok(())
}

fn select_at_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    client.shutdown(Shutdown::Write)?;
    r.poll_until("end", &server, POLLRDHUP);
    selected(r, "end", &server, 0);
    selected(r, "half", &client, 0);
    Ok(())
}

/// Asks for `signal` whenever something changes.
fn ask(socket: &TcpStream, signal: i32) -> Result<()> {
    signals::count_from_now(signal)?;
    calls::fcntl(socket, F_SETOWN, std::process::id() as i32)?;
    if signal != SIGIO {
        calls::fcntl(socket, F_SETSIG, signal)?;
    }
    let flags = calls::fcntl(socket, libc::F_GETFL, 0)?;
    calls::fcntl(socket, libc::F_SETFL, flags | O_ASYNC)?;
    Ok(())
}

/// Notes that at least one signal came; how many depends on how TCP cuts the stream.
fn some_signal(r: &Run, what: &str, signal: i32) {
    let mut count = 0;
    soon(|| {
        count += signals::taken(signal);
        count > 0
    });
    r.note(what, count > 0);
}

fn signal_for_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    ask(&server, SIGIO)?;
    r.signals("idle", SIGIO);
    r.send("send", &client, b"hello", 0);
    some_signal(r, "bytes", SIGIO);
    r.take("take", &server, 5);
    a_moment();
    signals::taken(SIGIO);
    r.send("send", &client, b"again", 0);
    some_signal(r, "bytes again", SIGIO);
    Ok(())
}

fn signal_for_each_message(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    ask(&server, SIGUSR1)?;
    for _ in 0..4 {
        r.send("send", &client, b"hello", 0);
        some_signal(r, "signal although nothing was read", SIGUSR1);
        a_moment();
        signals::taken(SIGUSR1);
    }
    r.arrived(&server, 20);
    Ok(())
}

fn signal_for_room(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    ask(&client, SIGIO)?;
    let sent = fill(&client);
    signals::taken(SIGIO);
    r.note("all arrive", drain(&server, 0, sent));
    some_signal(r, "room", SIGIO);
    Ok(())
}

fn signal_for_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    ask(&server, SIGIO)?;
    client.shutdown(Shutdown::Write)?;
    some_signal(r, "end", SIGIO);
    r.poll_until("poll", &server, POLLRDHUP);
    Ok(())
}
