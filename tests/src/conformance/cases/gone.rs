// SPDX-License-Identifier: GPL-2.0-only
//! Sending to and receiving from a connection that has ended: EPIPE, ECONNRESET, SIGPIPE, and how they are used up.

use std::io::IoSlice;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::Result;
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, POLLERR, POLLRDHUP, SIGPIPE};
use nix::sys::sendfile::sendfile;
use socket2::SockRef;
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::sys;

use crate::calls;
use crate::case::{Case, case};
use crate::cases::transfer::file_with;
use crate::observe::{DATA, fill};
use crate::run::{Pair, Run};
use crate::signals;
use crate::trace;

pub const ALL: &[Case] = &[
    case!(send_after_shutdown),
    case!(writev_after_shutdown),
    case!(sendfile_after_shutdown),
    case!(send_after_peer_closed),
    case!(recv_after_reset),
    case!(send_after_reset),
    case!(error_option_after_reset),
    case!(poll_takes_no_error),
    case!(reset_with_data_unread),
    case!(reset_with_data_unread_then_send),
    case!(reset_ends_blocked_recv).lanes(),
    case!(reset_ends_blocked_send).slow(),
    case!(close_ends_blocked_send).slow(),
    case!(peek_after_reset),
    case!(splice_after_reset),
    case!(options_after_reset).lanes(),
    case!(shutdown_after_reset).lanes(),
];

/// Resets the connection from its server's side.
fn reset(server: TcpStream) -> Result<()> {
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    Ok(())
}

/// A connection over which some bytes went before its server reset it, and the client knows.
fn after_reset(r: &Run) -> Result<TcpStream> {
    let Pair { client, server } = r.warm()?;
    r.send("server sends", &server, b"hello", 0);
    r.take("client takes", &client, 5);
    reset(server)?;
    r.poll_until("reset", &client, POLLERR);
    signals::count_from_now(SIGPIPE)?;
    Ok(client)
}

/// send(2) that allows SIGPIPE.
fn noisy(r: &Run, socket: &TcpStream, flags: i32) {
    r.result(
        &format!("send, flags {flags:#x}"),
        sys::send(socket, b"late", flags),
    );
    r.signals("SIGPIPE", SIGPIPE);
}

fn send_after_shutdown(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGPIPE)?;
    r.send("send", &client, b"in time", 0);
    client.shutdown(Shutdown::Write)?;
    for flags in [0, MSG_NOSIGNAL, MSG_DONTWAIT, libc::MSG_MORE] {
        noisy(r, &client, flags);
    }
    r.error("SO_ERROR", &client);
    r.end("end", &server);
    Ok(())
}

fn writev_after_shutdown(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGPIPE)?;
    r.send("send", &client, b"in time", 0);
    client.shutdown(Shutdown::Write)?;
    let parts = [b"too", b"bad"].map(|part| IoSlice::new(part));
    r.result("writev", nix::sys::uio::writev(&client, &parts));
    r.signals("SIGPIPE", SIGPIPE);
    r.result("write", nix::unistd::write(&client, b"too late"));
    r.signals("SIGPIPE", SIGPIPE);
    let many = calls::sendmmsg(&client, &[b"too", b"late"], 0);
    r.result("sendmmsg", many.map(|sent| sent.len()));
    r.signals("SIGPIPE", SIGPIPE);
    r.end("end", &server);
    Ok(())
}

fn sendfile_after_shutdown(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGPIPE)?;
    r.send("send", &client, b"in time", 0);
    client.shutdown(Shutdown::Write)?;
    let file = file_with(b"0123456789")?;
    let mut offset = 0;
    r.result("sendfile", sendfile(&client, &file, Some(&mut offset), 10));
    r.note("offset", offset);
    r.signals("SIGPIPE", SIGPIPE);
    r.end("end", &server);
    Ok(())
}

fn send_after_peer_closed(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGPIPE)?;
    r.send("server sends", &server, b"bye", 0);
    r.take("client takes", &client, 3);
    drop(server);
    r.poll_until("closed", &client, POLLRDHUP);
    r.recv("end", &client, 10, 0);
    noisy(r, &client, 0);
    r.poll_until("answered by a reset", &client, POLLERR);
    for _ in 0..2 {
        noisy(r, &client, 0);
    }
    r.recv("recv", &client, 10, 0);
    r.error("SO_ERROR", &client);
    Ok(())
}

fn recv_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    for _ in 0..3 {
        r.recv("recv", &client, 10, 0);
    }
    r.error("SO_ERROR", &client);
    noisy(r, &client, 0);
    r.poll("poll", &client);
    Ok(())
}

fn send_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    for _ in 0..3 {
        noisy(r, &client, 0);
    }
    r.recv("recv", &client, 10, 0);
    r.error("SO_ERROR", &client);
    r.poll("poll", &client);
    Ok(())
}

fn error_option_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    r.error("SO_ERROR", &client);
    r.error("SO_ERROR again", &client);
    r.poll("poll", &client);
    r.recv("recv", &client, 10, 0);
    noisy(r, &client, 0);
    Ok(())
}

fn poll_takes_no_error(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    for _ in 0..3 {
        r.poll("poll", &client);
    }
    r.recv("recv", &client, 10, MSG_DONTWAIT);
    r.poll("poll", &client);
    Ok(())
}

fn reset_with_data_unread(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("server sends", &server, b"last words", 0);
    r.arrived(&client, 10);
    reset(server)?;
    r.poll_until("reset", &client, POLLERR);
    r.readable("FIONREAD", &client);
    r.recv("a part", &client, 4, 0);
    r.recv("the rest", &client, 10, 0);
    r.recv("error", &client, 10, 0);
    r.recv("end", &client, 10, 0);
    Ok(())
}

fn reset_with_data_unread_then_send(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGPIPE)?;
    r.send("server sends", &server, b"last words", 0);
    r.arrived(&client, 10);
    reset(server)?;
    r.poll_until("reset", &client, POLLERR);
    noisy(r, &client, 0);
    r.recv("data", &client, 4, 0);
    noisy(r, &client, 0);
    r.recv("data", &client, 10, 0);
    r.recv("end", &client, 10, 0);
    Ok(())
}

fn reset_ends_blocked_recv(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let copy = client.try_clone()?;
    let reader = Asleep::start(move || sys::recv(&copy, &mut [0; 10], 0))?;
    r.note("came back early", reader.finished());
    reset(server)?;
    r.result("recv", reader.join());
    r.recv("again", &client, 10, 0);
    Ok(())
}

/// A sender that sleeps because nobody reads when its peer resets or closes.
fn blocked_send(r: &Run, end: impl FnOnce(TcpStream) -> Result<()>) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGPIPE)?;
    fill(&client);
    let copy = client.try_clone()?;
    let sender = Asleep::start(move || sys::send(&copy, &DATA.bytes(0, 100), 0))?;
    r.note("came back early", sender.finished());
    end(server)?;
    r.result("send", sender.join());
    r.signals("SIGPIPE", SIGPIPE);
    noisy(r, &client, 0);
    r.recv("recv", &client, 10, 0);
    r.error("SO_ERROR", &client);
    Ok(())
}

fn reset_ends_blocked_send(r: &Run) -> Result<()> {
    blocked_send(r, reset)
}

fn close_ends_blocked_send(r: &Run) -> Result<()> {
    blocked_send(r, |server| {
        drop(server);
        Ok(())
    })
}

fn peek_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    r.recv("peek", &client, 10, MSG_PEEK);
    r.recv("peek", &client, 10, MSG_PEEK);
    r.recv("recv", &client, 10, 0);
    Ok(())
}

fn splice_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    let (_out, into) = nix::unistd::pipe()?;
    let flags = nix::fcntl::SpliceFFlags::empty();
    for _ in 0..2 {
        let count = nix::fcntl::splice(&client, None, &into, None, 10, flags);
        r.result("splice", count);
    }
    Ok(())
}

fn options_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    r.note("peer", trace::outcome(client.peer_addr().map(|_| "there")));
    r.note(
        "local",
        trace::outcome(client.local_addr().map(|_| "there")),
    );
    r.option("no delay", &client, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    r.readable("FIONREAD", &client);
    Ok(())
}

fn shutdown_after_reset(r: &Run) -> Result<()> {
    let client = after_reset(r)?;
    r.done("shutdown", client.shutdown(Shutdown::Write));
    r.done("shutdown", client.shutdown(Shutdown::Both));
    r.recv("recv", &client, 10, 0);
    Ok(())
}
