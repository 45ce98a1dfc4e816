// SPDX-License-Identifier: GPL-2.0-only
//! epoll: level, edge, one-shot, exclusive, nested, and that nobody spins.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::SockRef;
use tcp_splice_world::asleep::Asleep;

use crate::case::{Case, case};
use crate::observe::{a_moment, drain, fill, soon};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(level),
    case!(level_waits),
    case!(level_all_ends),
    case!(edge),
    case!(edge_of_bytes_added_later),
    case!(edge_for_each_message),
    case!(edge_after_a_part_was_read),
    case!(edge_of_room).slow(),
    case!(edge_of_room_only_after_full),
    case!(edge_of_the_end),
    case!(edge_of_a_reset),
    case!(one_shot),
    case!(one_shot_again),
    case!(exclusive_wakes_one),
    case!(nested),
    case!(modified),
    case!(nobody_spins_when_full).slow(),
    case!(nobody_spins_below_the_low_water_mark),
    case!(urgent),
];

const IN: EpollFlags = EpollFlags::EPOLLIN;
const OUT: EpollFlags = EpollFlags::EPOLLOUT;
const RDHUP: EpollFlags = EpollFlags::EPOLLRDHUP;
const PRI: EpollFlags = EpollFlags::EPOLLPRI;
const EDGE: EpollFlags = EpollFlags::EPOLLET;

/// An epoll set with one socket.
struct Watch(Epoll);

impl Watch {
    fn new(socket: &TcpStream, flags: EpollFlags) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        epoll.add(socket, EpollEvent::new(flags, 1))?;
        Ok(Self(epoll))
    }

    /// The events within `wait` milliseconds; 0 for none.
    fn events(&self, wait: u16) -> i32 {
        let mut events = [EpollEvent::empty()];
        match self.0.wait(&mut events, EpollTimeout::from(wait)) {
            Ok(0) | Err(_) => 0,
            Ok(_) => events[0].events().bits(),
        }
    }

    /// Notes the events that there are within a moment.
    fn now(&self, r: &Run, what: &str) {
        r.note(what, trace::events(self.events(20)));
    }

    /// Waits until the events have become all of `want`, which may take several edges; notes them together.
    fn until(&self, r: &Run, what: &str, want: EpollFlags) {
        let mut seen = 0;
        for _ in 0..10 {
            let events = self.events(3000);
            seen |= events;
            if events == 0 || seen & want.bits() == want.bits() {
                break;
            }
        }
        r.note(what, trace::events(seen));
    }

    /// Takes what there is, so that the next edge is a new one.
    fn quiet(&self) {
        a_moment();
        while self.events(5) != 0 {}
    }
}

fn level(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | OUT | RDHUP)?;
    watch.now(r, "idle");
    r.send("send", &client, b"hello", 0);
    watch.until(r, "bytes", IN | OUT);
    watch.now(r, "still");
    r.take("take", &server, 3);
    watch.now(r, "still");
    r.take("take", &server, 2);
    watch.now(r, "read");
    Ok(())
}

fn level_waits(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN)?;
    let waiter = Asleep::start(move || watch.events(10_000))?;
    r.note("came back early", waiter.finished());
    r.send("send", &client, b"hello", 0);
    r.note("events", trace::events(waiter.join()));
    Ok(())
}

fn level_all_ends(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | OUT | RDHUP)?;
    r.send("send", &client, b"last", 0);
    client.shutdown(Shutdown::Write)?;
    watch.until(r, "shut down by peer", IN | OUT | RDHUP);
    r.end("end", &server);
    watch.now(r, "read");
    server.shutdown(Shutdown::Write)?;
    watch.until(r, "shut down by both", EpollFlags::EPOLLHUP);
    Ok(())
}

fn edge(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | OUT | RDHUP | EDGE)?;
    watch.now(r, "first");
    watch.now(r, "nothing new");
    r.send("send", &client, b"hello", 0);
    watch.until(r, "bytes", IN | OUT);
    watch.quiet();
    r.take("take", &server, 5);
    watch.now(r, "reading is no edge");
    Ok(())
}

fn edge_of_bytes_added_later(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.arrived(&server, 6);
    let watch = Watch::new(&server, IN | EDGE)?;
    watch.until(r, "those before", IN);
    watch.now(r, "nothing new");
    r.send("send", &client, b"after", 0);
    watch.until(r, "those after", IN);
    r.arrived(&server, 11);
    Ok(())
}

fn edge_for_each_message(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | EDGE)?;
    for _ in 0..4 {
        r.send("send", &client, b"hello", 0);
        watch.until(r, "message", IN);
        watch.quiet();
    }
    r.arrived(&server, 20);
    Ok(())
}

fn edge_after_a_part_was_read(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | EDGE)?;
    r.send("send", &client, b"hello", 0);
    watch.until(r, "message", IN);
    watch.quiet();
    r.take("take", &server, 2);
    watch.now(r, "nothing new");
    r.send("send", &client, b"more", 0);
    watch.until(r, "more", IN);
    r.arrived(&server, 7);
    Ok(())
}

fn edge_of_room(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&client, OUT | EDGE)?;
    watch.until(r, "first", OUT);
    for _ in 0..2 {
        let sent = fill(&client);
        watch.quiet();
        r.send("full", &client, b"x", libc::MSG_DONTWAIT);
        r.note("all arrive", drain(&server, 0, sent));
        watch.until(r, "room", OUT);
    }
    Ok(())
}

fn edge_of_room_only_after_full(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&client, OUT | EDGE)?;
    watch.until(r, "first", OUT);
    for _ in 0..3 {
        r.send("send", &client, b"hello", 0);
        r.take("take", &server, 5);
        watch.now(r, "nothing new");
    }
    Ok(())
}

fn edge_of_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | RDHUP | EDGE)?;
    r.send("send", &client, b"hello", 0);
    watch.until(r, "bytes", IN);
    watch.quiet();
    client.shutdown(Shutdown::Write)?;
    watch.until(r, "end", IN | RDHUP);
    watch.quiet();
    r.end("end", &server);
    watch.now(r, "nothing new");
    Ok(())
}

fn edge_of_a_reset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | OUT | RDHUP | EDGE)?;
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    watch.quiet();
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    watch.until(r, "reset", EpollFlags::EPOLLERR);
    Ok(())
}

fn one_shot(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | EpollFlags::EPOLLONESHOT)?;
    r.send("send", &client, b"hello", 0);
    watch.until(r, "once", IN);
    watch.now(r, "not twice");
    r.send("send", &client, b"more", 0);
    r.arrived(&server, 9);
    watch.now(r, "not again");
    Ok(())
}

fn one_shot_again(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let flags = IN | EpollFlags::EPOLLONESHOT;
    let watch = Watch::new(&server, flags)?;
    for _ in 0..3 {
        r.send("send", &client, b"hello", 0);
        watch.until(r, "once", IN);
        watch.0.modify(&server, &mut EpollEvent::new(flags, 1))?;
    }
    watch.until(r, "armed with bytes there", IN);
    r.arrived(&server, 15);
    r.take("take", &server, 15);
    watch.0.modify(&server, &mut EpollEvent::new(flags, 1))?;
    watch.now(r, "armed with nothing there");
    Ok(())
}

fn exclusive_wakes_one(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let flags = IN | EpollFlags::EPOLLEXCLUSIVE;
    let watches = [Watch::new(&server, flags)?, Watch::new(&server, flags)?];
    let mut waiters = Vec::new();
    for watch in watches {
        waiters.push(Asleep::start(move || watch.events(30_000))?);
    }
    r.send("send", &client, b"hello", 0);
    let one = soon(|| waiters.iter().any(Asleep::finished));
    r.note("at least one woke", one);
    // Nobody may be left asleep with bytes there: the end wakes those whom the bytes did not.
    client.shutdown(Shutdown::Write)?;
    for waiter in waiters {
        r.note("events", trace::events(waiter.join()));
    }
    r.take("take", &server, 5);
    Ok(())
}

fn nested(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let inner = Watch::new(&server, IN | EDGE)?;
    let outer = Epoll::new(EpollCreateFlags::empty())?;
    outer.add(&inner.0.0, EpollEvent::new(IN, 2))?;
    let outer = Watch(outer);
    outer.now(r, "idle");
    let waiter = Asleep::start(move || (outer.events(10_000), outer))?;
    r.note("came back early", waiter.finished());
    r.send("send", &client, b"hello", 0);
    let (events, outer) = waiter.join();
    r.note("outer", trace::events(events));
    inner.until(r, "inner", IN);
    r.take("take", &server, 5);
    outer.now(r, "outer afterwards");
    Ok(())
}

fn modified(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, OUT | EDGE)?;
    watch.until(r, "room", OUT);
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    watch.quiet();
    watch
        .0
        .modify(&server, &mut EpollEvent::new(IN | EDGE, 1))?;
    watch.until(r, "bytes after modify", IN);
    watch.now(r, "nothing new");
    Ok(())
}

/// A writer that believes epoll: every OUT must let it send something.
fn nobody_spins_when_full(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&client, OUT)?;
    let (mut in_vain, mut sent) = (0, fill(&client));
    let rounds = 20;
    for _ in 0..rounds {
        watch.0.modify(&client, &mut EpollEvent::new(OUT, 1))?;
        if watch.events(10) != 0 {
            let more = tcp_splice_world::sys::send(&client, &[0; 100], libc::MSG_DONTWAIT);
            in_vain += usize::from(more.is_err());
            sent += more.unwrap_or(0);
        }
    }
    r.note("woken in vain", in_vain);
    r.note("some were sent", sent > 60_000);
    r.recv("first bytes", &server, 10, 0);
    Ok(())
}

fn nobody_spins_below_the_low_water_mark(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mark = (libc::SOL_SOCKET, libc::SO_RCVLOWAT);
    r.set("mark", &server, mark, 100);
    let watch = Watch::new(&server, IN)?;
    let mut woken = 0;
    for _ in 0..10 {
        r.send("send", &client, b"bit", 0);
        woken += usize::from(watch.events(5) != 0);
    }
    r.note("woken in vain", woken);
    Ok(())
}

fn urgent(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let watch = Watch::new(&server, IN | PRI)?;
    r.send("send", &client, b"ab", 0);
    watch.until(r, "bytes", IN);
    r.send("urgent", &client, b"!", libc::MSG_OOB);
    watch.until(r, "urgent", IN | PRI);
    r.recv("urgent", &server, 1, libc::MSG_OOB);
    watch.now(r, "urgent read");
    r.recv("recv", &server, 10, 0);
    watch.now(r, "all read");
    Ok(())
}
