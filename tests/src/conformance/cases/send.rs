// SPDX-License-Identifier: GPL-2.0-only
//! Sending: how much, with which flags, from which memory.

use std::io::IoSlice;
use std::thread;

use anyhow::Result;
use libc::{
    IPPROTO_TCP, MSG_CONFIRM, MSG_DONTROUTE, MSG_DONTWAIT, MSG_EOR, MSG_FASTOPEN, MSG_MORE,
    MSG_NOSIGNAL, POLLOUT, SOL_SOCKET, TCP_CORK, TCP_NODELAY,
};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::sys::{self, Cliff};

use crate::calls::{self, Control};
use crate::case::{Case, case};
use crate::observe::{DATA, a_moment, drain, fill};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(until_full).slow(),
    case!(blocked_until_room).slow(),
    case!(room_is_told).slow(),
    case!(short_count),
    case!(more),
    case!(cork),
    case!(without_nodelay),
    case!(other_flags),
    case!(fast_open_flag).lanes(),
    case!(vectors),
    case!(no_vectors).lanes(),
    case!(with_an_address),
    case!(from_no_memory),
    case!(from_memory_that_ends),
    case!(from_vectors_of_which_one_is_bad),
    case!(large_from_memory_that_ends),
    case!(control_message_time_stamp),
    case!(control_message_mark),
    case!(control_message_unknown),
    case!(control_message_of_another_family),
    case!(many_small),
    case!(both_directions_at_once),
    case!(send_buffer_of_least_size).slow(),
];

const CORK: (i32, i32) = (IPPROTO_TCP, TCP_CORK);
const NODELAY: (i32, i32) = (IPPROTO_TCP, TCP_NODELAY);

fn until_full(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let sent = fill(&client);
    r.note("some were sent", sent > 60_000);
    r.send("full", &client, b"x", MSG_DONTWAIT);
    client.set_nonblocking(true)?;
    r.send("full, O_NONBLOCK", &client, b"x", 0);
    r.poll("poll", &client);
    r.note("all arrive", drain(&server, 0, sent));
    r.poll_until("poll after reading", &client, POLLOUT);
    r.send("send after reading", &client, b"x", 0);
    Ok(())
}

fn blocked_until_room(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let sent = fill(&client);
    let copy = client.try_clone()?;
    let sender = Asleep::start(move || sys::send(&copy, b"at last", 0))?;
    r.note("came back early", sender.finished());
    r.note("all arrive", drain(&server, 0, sent));
    r.take("and then", &server, 7);
    r.result("send", sender.join());
    Ok(())
}

fn room_is_told(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let sent = fill(&client);
    let copy = client.try_clone()?;
    let poller = Asleep::start(move || calls::poll(&copy, POLLOUT, 10_000))?;
    r.note("came back early", poller.finished());
    r.note("all arrive", drain(&server, 0, sent));
    let events = poller.join().map(|events| trace::events(events.into()));
    r.result("poll", events);
    Ok(())
}

/// One call with more than fits.
fn short_count(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let all = DATA.bytes(0, 32 << 20);
    let sent = sys::send(&client, &all, MSG_DONTWAIT)?;
    r.note("short", sent > 0 && sent < all.len());
    let mut got = vec![0; sent];
    let reader = thread::spawn(move || {
        let result = std::io::Read::read_exact(&mut (&server), &mut got);
        (result.is_ok(), got, server)
    });
    let (complete, got, _server) = reader.join().expect("reader panicked");
    r.note("all arrive", complete && got == all[..sent]);
    Ok(())
}

fn more(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("more", &client, b"to be ", MSG_MORE);
    r.send("more", &client, b"conti", MSG_MORE);
    r.send("last", &client, b"nued", 0);
    r.arrived(&server, 15);
    r.recv("recv", &server, 100, 0);
    r.send("more and nothing else", &client, b"late", MSG_MORE);
    r.take("take", &server, 4);
    Ok(())
}

fn cork(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("cork", &client, CORK, 1);
    r.option("corked", &client, IPPROTO_TCP, TCP_CORK);
    r.send("send", &client, b"one ", 0);
    r.send("send", &client, b"two", 0);
    r.set("uncork", &client, CORK, 0);
    r.arrived(&server, 7);
    r.recv("recv", &server, 100, 0);
    r.set("cork", &client, CORK, 1);
    r.send("send", &client, b"three", 0);
    client.shutdown(std::net::Shutdown::Write)?;
    r.end("end", &server);
    Ok(())
}

fn without_nodelay(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("delay", &client, NODELAY, 0);
    for _ in 0..5 {
        r.send("send", &client, b"little ", 0);
    }
    r.arrived(&server, 35);
    r.recv("recv", &server, 100, 0);
    r.option("no delay", &client, IPPROTO_TCP, TCP_NODELAY);
    Ok(())
}

fn other_flags(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for flag in [MSG_EOR, MSG_CONFIRM, MSG_DONTROUTE, libc::MSG_RST, 0x10] {
        r.send(&format!("flag {flag:#x}"), &client, b"abc", flag);
    }
    r.arrived(&server, 15);
    r.recvmsg("recvmsg", &server, 100, 0);
    Ok(())
}

fn fast_open_flag(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("fast open", &client, b"abc", MSG_FASTOPEN);
    a_moment();
    r.recv("recv", &server, 100, MSG_DONTWAIT);
    Ok(())
}

fn vectors(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let parts = [&b"a"[..], b"", b"bc", b"def"].map(IoSlice::new);
    r.result("writev", nix::sys::uio::writev(&client, &parts));
    r.arrived(&server, 6);
    r.recv("recv", &server, 100, 0);
    let bytes = DATA.bytes(0, 5000);
    let parts: Vec<IoSlice> = bytes.chunks(5).map(IoSlice::new).collect();
    r.result("writev of 1000", nix::sys::uio::writev(&client, &parts));
    r.take("take", &server, 5000);
    Ok(())
}

fn no_vectors(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.result("no vector", calls::sendmsg(&client, &[], &[], 0));
    r.result(
        "empty vectors",
        calls::sendmsg(&client, &[b"", b""], &[], 0),
    );
    r.recv("recv", &server, 100, MSG_DONTWAIT);
    Ok(())
}

fn with_an_address(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let address = socket2::SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 9], 9)));
    let socket = socket2::SockRef::from(&client);
    r.result("sendto", socket.send_to(b"hello", &address));
    r.arrived(&server, 5);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn from_no_memory(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for length in [1, 1000, 100_000] {
        let what = format!("{length} from nowhere");
        r.result(&what, sys::send_nowhere(&client, length));
    }
    r.send("send", &client, b"next", 0);
    r.arrived(&server, 4);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn from_memory_that_ends(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut cliff = Cliff::new(8192)?;
    cliff.last(8).copy_from_slice(b"12345678");
    r.result("8 of 20", cliff.send(&client, 8, 20));
    r.send("send", &client, b"next", 0);
    r.poll_until("poll", &server, libc::POLLIN);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn from_vectors_of_which_one_is_bad(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let good = b"good";
    let parts = [(good.as_ptr(), 4), (std::ptr::without_provenance(8), 4)];
    r.result(
        "good, bad",
        calls::send_vectors(&client, &parts, MSG_NOSIGNAL),
    );
    r.send("send", &client, b"next", 0);
    r.poll_until("poll", &server, libc::POLLIN);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

/// What was counted as sent arrives, and what follows it comes next.
fn large_from_memory_that_ends(r: &Run) -> Result<()> {
    const THERE: usize = 100_000;
    let Pair { client, server } = r.warm()?;
    let sender = thread::spawn(move || {
        let mut cliff = Cliff::new(1 << 17).expect("memory");
        DATA.fill(0, cliff.last(THERE));
        let sent = cliff.send(&client, THERE, THERE + 1000);
        let next = sys::send(&client, b"next", MSG_NOSIGNAL);
        (sent, next, client)
    });
    let mut got = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !got.ends_with(b"next") {
        let count = sys::recv(&server, &mut buffer, 0)?;
        got.extend_from_slice(&buffer[..count]);
    }
    let (sent, next, _client) = sender.join().expect("sender panicked");
    let sent = sent.unwrap_or(0);
    r.note("most were sent", (30_000..=THERE).contains(&sent));
    r.note("these arrived", got[..got.len() - 4] == DATA.bytes(0, sent));
    r.result("next", next);
    Ok(())
}

fn control_message_time_stamp(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before, ", 0);
    r.result("stamped", sys::send_with_timestamp(&client, b"stamped, "));
    r.send("send", &client, b"after", 0);
    r.arrived(&server, 22);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

/// Sends with one control message between two sends without.
fn with_control(r: &Run, control: Control) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before, ", 0);
    r.result(
        "sendmsg",
        calls::sendmsg(&client, &[b"with, "], &[control], 0),
    );
    r.send("send", &client, b"after", 0);
    client.shutdown(std::net::Shutdown::Write)?;
    r.end("end", &server);
    Ok(())
}

fn control_message_mark(r: &Run) -> Result<()> {
    with_control(r, Control::word(SOL_SOCKET, libc::SO_MARK, 7))
}

fn control_message_unknown(r: &Run) -> Result<()> {
    with_control(r, Control::word(SOL_SOCKET, 9999, 7))
}

fn control_message_of_another_family(r: &Run) -> Result<()> {
    with_control(r, Control::word(IPPROTO_TCP, 1, 7))
}

fn many_small(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let reader = thread::spawn(move || DATA.read(&server, 0, 5000).is_ok());
    for position in 0..5000 {
        DATA.write(&client, position, 1)?;
    }
    r.note("all arrive", reader.join().expect("reader panicked"));
    Ok(())
}

/// Both sides write more than any start size of a buffer before they read.
fn both_directions_at_once(r: &Run) -> Result<()> {
    const LENGTH: usize = 150_000;
    let Pair { client, server } = r.warm()?;
    let other = thread::spawn(move || {
        let fine = DATA.write(&server, 7, LENGTH).is_ok();
        fine && DATA.read(&server, 0, LENGTH).is_ok()
    });
    DATA.write(&client, 0, LENGTH)?;
    r.note("client", DATA.read(&client, 7, LENGTH).is_ok());
    r.note("server", other.join().expect("server panicked"));
    Ok(())
}

fn send_buffer_of_least_size(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("SO_SNDBUF", &client, (SOL_SOCKET, libc::SO_SNDBUF), 1);
    r.set("SO_RCVBUF", &server, (SOL_SOCKET, libc::SO_RCVBUF), 1);
    r.option("SO_SNDBUF", &client, SOL_SOCKET, libc::SO_SNDBUF);
    r.option("SO_RCVBUF", &server, SOL_SOCKET, libc::SO_RCVBUF);
    let sender = thread::spawn(move || DATA.write(&client, 0, 20_000).map(|()| client));
    r.take("take", &server, 20_000);
    let _client = sender.join().expect("sender panicked")?;
    Ok(())
}
