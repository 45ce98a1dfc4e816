// SPDX-License-Identifier: GPL-2.0-only
//! How connections end: shutdown, close, linger, disconnect, SOCK_DESTROY.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libc::{MSG_DONTWAIT, POLLERR, POLLHUP, POLLIN, POLLRDHUP};
use socket2::{SockRef, Socket};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::{program, sys};

use crate::case::{Case, case};
use crate::observe::{DATA, fill};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(shutdown_of_writing),
    case!(shutdown_of_reading),
    case!(shutdown_of_both),
    case!(shutdown_twice),
    case!(shutdown_by_both_sides),
    case!(shutdown_wakes_own_reader).lanes(),
    case!(shutdown_wakes_other_reader).lanes(),
    case!(shutdown_ends_own_blocked_send).slow(),
    case!(close_with_all_read),
    case!(close_with_ring_bytes_unread),
    case!(close_with_start_up_bytes_unread),
    case!(close_with_bytes_unread_on_both_sides),
    case!(close_with_bytes_unread_after_a_shutdown),
    case!(close_with_data_in_flight),
    case!(close_right_after_connect).lanes(),
    case!(linger_zero).lanes(),
    case!(linger_zero_with_data_unread_there),
    case!(linger_waits_for_nothing),
    case!(fin_wait_with_unread_data),
    case!(half_closed_goes_on),
    case!(disconnect_and_reuse),
    case!(disconnect_of_server).lanes(),
    case!(disconnect_with_unread_data),
    case!(connect_again_without_disconnect).lanes(),
    case!(destroyed_by_ss).lanes(),
    case!(destroyed_by_ss_with_data_unread),
    case!(destroyed_by_ss_with_a_blocked_reader).lanes(),
    case!(listener_closed_with_children),
    case!(never_accepted),
];

fn shutdown_of_writing(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"last words", 0);
    r.done("shutdown", client.shutdown(Shutdown::Write));
    r.end("server", &server);
    r.send("server sends", &server, b"answer", 0);
    r.take("client", &client, 6);
    r.send("client sends", &client, b"x", 0);
    Ok(())
}

fn shutdown_of_reading(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"there before", 0);
    r.arrived(&server, 12);
    r.done("shutdown", server.shutdown(Shutdown::Read));
    r.recv("recv", &server, 100, 0);
    r.recv("recv", &server, 100, 0);
    r.send("send", &client, b"there after", 0);
    r.arrived(&server, 11);
    r.recv("recv", &server, 100, 0);
    r.recv("recv", &server, 100, 0);
    r.send("server sends", &server, b"answer", 0);
    r.take("client", &client, 6);
    Ok(())
}

fn shutdown_of_both(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("client sends", &client, b"to the server", 0);
    r.done("shutdown", client.shutdown(Shutdown::Both));
    r.end("server", &server);
    r.send("server sends", &server, b"nobody listens?", 0);
    r.end("server again", &server);
    r.recv("client", &client, 100, 0);
    r.send("client sends", &client, b"x", 0);
    Ok(())
}

fn shutdown_twice(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"once", 0);
    for how in [
        Shutdown::Write,
        Shutdown::Write,
        Shutdown::Read,
        Shutdown::Both,
    ] {
        r.done(&format!("{how:?}"), client.shutdown(how));
    }
    r.end("server", &server);
    r.done("server", server.shutdown(Shutdown::Both));
    r.poll_until("server", &server, POLLHUP);
    r.done("server again", server.shutdown(Shutdown::Both));
    Ok(())
}

fn shutdown_by_both_sides(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("client sends", &client, b"from the client", 0);
    r.send("server sends", &server, b"from the server", 0);
    client.shutdown(Shutdown::Write)?;
    server.shutdown(Shutdown::Write)?;
    r.end("client", &client);
    r.end("server", &server);
    r.poll_until("client", &client, POLLHUP);
    r.poll_until("server", &server, POLLHUP);
    Ok(())
}

/// What a blocked reader of `near` gets when `act` happens.
fn blocked_reader(r: &Run, near: &TcpStream, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let copy = near.try_clone()?;
    let reader = Asleep::start(move || sys::recv(&copy, &mut [0; 10], 0))?;
    r.note("came back early", reader.finished());
    act()?;
    r.result("recv", reader.join());
    r.recv("again", near, 10, MSG_DONTWAIT);
    Ok(())
}

fn shutdown_wakes_own_reader(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    blocked_reader(r, &server, || Ok(server.shutdown(Shutdown::Read)?))
}

fn shutdown_wakes_other_reader(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    blocked_reader(r, &server, || Ok(client.shutdown(Shutdown::Write)?))
}

fn shutdown_ends_own_blocked_send(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    fill(&client);
    let copy = client.try_clone()?;
    let sender = Asleep::start(move || sys::send(&copy, &[0; 10], libc::MSG_NOSIGNAL))?;
    r.note("came back early", sender.finished());
    client.shutdown(Shutdown::Write)?;
    r.result("send", sender.join());
    r.recv("first bytes", &server, 10, 0);
    Ok(())
}

fn close_with_all_read(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    drop(client);
    r.poll_until("poll", &server, POLLRDHUP);
    r.end("end", &server);
    r.error("SO_ERROR", &server);
    Ok(())
}

/// What the client sees of a server that closed with bytes unread.
fn reset_seen(r: &Run, client: &TcpStream) {
    r.poll_until("reset", client, POLLERR);
    r.recv("recv", client, 100, 0);
    r.recv("recv", client, 100, 0);
    r.recv("recv", client, 100, 0);
    r.send("send", client, b"x", 0);
}

fn close_with_ring_bytes_unread(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"never read", 0);
    r.arrived(&server, 10);
    drop(server);
    reset_seen(r, &client);
    Ok(())
}

fn close_with_start_up_bytes_unread(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"ring", 0);
    r.arrived(&server, 13);
    r.take("take", &server, 3);
    drop(server);
    reset_seen(r, &client);
    Ok(())
}

fn close_with_bytes_unread_on_both_sides(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("client sends", &client, b"never read", 0);
    r.send("server sends", &server, b"read late", 0);
    r.arrived(&server, 10);
    r.arrived(&client, 9);
    drop(server);
    reset_seen(r, &client);
    Ok(())
}

fn close_with_bytes_unread_after_a_shutdown(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"never read", 0);
    r.arrived(&server, 10);
    server.shutdown(Shutdown::Write)?;
    r.poll_until("end", &client, POLLRDHUP);
    r.recv("recv", &client, 10, 0);
    drop(server);
    r.poll_until("after close", &client, POLLERR);
    r.recv("recv", &client, 10, 0);
    r.send("send", &client, b"x", 0);
    Ok(())
}

fn close_with_data_in_flight(r: &Run) -> Result<()> {
    const LENGTH: usize = 400_000;
    let Pair { client, server } = r.warm()?;
    let sender = std::thread::spawn(move || DATA.write(client, 0, LENGTH).is_ok());
    r.end("end", &server);
    r.note("sent", sender.join().expect("sender panicked"));
    Ok(())
}

fn close_right_after_connect(r: &Run) -> Result<()> {
    let listener = r.listen()?;
    let first = r.warm_from(&listener)?;
    let client = r.connect(&listener)?;
    drop(client);
    let (server, _) = listener.accept().context("failed to accept")?;
    r.end("end", &server);
    drop(first);
    Ok(())
}

fn linger_zero(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    reset_seen(r, &client);
    r.error("SO_ERROR", &client);
    Ok(())
}

fn linger_zero_with_data_unread_there(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("server sends", &server, b"still to be read", 0);
    r.arrived(&client, 16);
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    reset_seen(r, &client);
    Ok(())
}

/// close(2) with SO_LINGER does not wait when everything has arrived.
fn linger_waits_for_nothing(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"arrived", 0);
    r.arrived(&server, 7);
    SockRef::from(&client).set_linger(Some(Duration::from_secs(8)))?;
    let begin = Instant::now();
    drop(client);
    r.elapsed("close", begin, Duration::ZERO);
    r.end("end", &server);
    Ok(())
}

fn fin_wait_with_unread_data(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("server sends", &server, b"read in FIN_WAIT2", 0);
    r.arrived(&client, 17);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("server", &server, POLLRDHUP);
    r.send("server sends", &server, b", and more", 0);
    drop(server);
    r.poll_until("client", &client, POLLHUP);
    r.readable("FIONREAD", &client);
    r.end("client", &client);
    Ok(())
}

fn half_closed_goes_on(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    client.shutdown(Shutdown::Write)?;
    r.end("server", &server);
    for position in [0, 20_000, 40_000] {
        DATA.write(&server, position, 20_000)?;
        r.take("client", &client, 20_000);
    }
    drop(server);
    r.end("client", &client);
    Ok(())
}

fn disconnect_and_reuse(r: &Run) -> Result<()> {
    let listener = r.listen()?;
    let Pair { client, server } = r.warm_from(&listener)?;
    r.send("server sends", &server, b"never read", 0);
    r.arrived(&client, 10);
    r.done("disconnect", sys::disconnect(&client));
    r.poll_until("server", &server, POLLERR);
    r.recv("server", &server, 10, 0);
    r.recv("client", &client, 10, MSG_DONTWAIT);
    r.error("client", &client);
    let socket = Socket::from(client);
    let address = r.link.address(&listener)?;
    r.done("connect", socket.connect(&address.into()));
    let client = TcpStream::from(socket);
    let (server, _) = listener.accept()?;
    for _ in 0..3 {
        r.send("client sends", &client, b"hello", 0);
        r.take("server", &server, 5);
        r.send("server sends", &server, b"again", 0);
        r.take("client", &client, 5);
    }
    Ok(())
}

fn disconnect_of_server(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.done("disconnect", sys::disconnect(&server));
    r.poll_until("client", &client, POLLERR);
    r.recv("client", &client, 10, 0);
    r.poll("server", &server);
    r.recv("server", &server, 10, 0);
    r.recv("server", &server, 10, 0);
    r.send("server", &server, b"x", 0);
    Ok(())
}

fn disconnect_with_unread_data(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("server sends", &server, b"gone", 0);
    r.arrived(&client, 4);
    r.done("disconnect", sys::disconnect(&client));
    r.readable("FIONREAD", &client);
    r.recv("client", &client, 10, MSG_DONTWAIT);
    r.recv("client", &client, 10, MSG_DONTWAIT);
    Ok(())
}

fn connect_again_without_disconnect(r: &Run) -> Result<()> {
    let listener = r.listen()?;
    let Pair {
        client,
        server: _server,
    } = r.warm_from(&listener)?;
    let address = r.link.address(&listener)?;
    let socket = Socket::from(client);
    r.done("connect", socket.connect(&address.into()));
    r.done("listen", socket.listen(1));
    r.done("bind", socket.bind(&address.into()));
    Ok(())
}

/// Destroys the client's socket from outside.
fn destroy(r: &Run, client: &TcpStream) -> Result<()> {
    let (own, peer) = (client.local_addr()?.port(), client.peer_addr()?.port());
    let mut words = r.link.client_words();
    let (own, peer) = (format!(":{own}"), format!(":{peer}"));
    let ss = [
        "ss", "-K", "-t", "-n", "sport", "=", &own, "and", "dport", "=", &peer,
    ];
    words.extend(ss.map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = program::run(&words)?;
    r.note("destroyed", said.contains(&own));
    Ok(())
}

fn destroyed_by_ss(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    destroy(r, &client)?;
    r.poll_until("client", &client, POLLERR);
    r.recv("client", &client, 10, 0);
    r.recv("client", &client, 10, 0);
    r.poll_until("server", &server, POLLERR);
    r.recv("server", &server, 10, 0);
    r.send("client sends", &client, b"x", 0);
    Ok(())
}

fn destroyed_by_ss_with_data_unread(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("client sends", &client, b"for the server", 0);
    r.send("server sends", &server, b"for the client", 0);
    r.arrived(&client, 14);
    r.arrived(&server, 14);
    destroy(r, &client)?;
    r.poll_until("client", &client, POLLERR);
    r.poll_until("server", &server, POLLERR);
    for (name, socket) in [("client", &client), ("server", &server)] {
        r.readable(name, socket);
        r.recv(name, socket, 100, 0);
        r.recv(name, socket, 100, 0);
    }
    Ok(())
}

fn destroyed_by_ss_with_a_blocked_reader(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    blocked_reader(r, &client, || destroy(r, &client))
}

/// Connections that nobody accepted are reset when their listener goes.
fn listener_closed_with_children(r: &Run) -> Result<()> {
    let listener = r.listen()?;
    let first = r.warm_from(&listener)?;
    let waiting = r.connect(&listener)?;
    (&waiting).write_all(b"never accepted")?;
    drop(listener);
    r.poll_until("waiting", &waiting, POLLERR);
    r.recv("waiting", &waiting, 10, 0);
    r.send("first goes on", &first.client, b"hello", 0);
    r.take("first goes on", &first.server, 5);
    Ok(())
}

fn never_accepted(r: &Run) -> Result<()> {
    let listener = r.listen()?;
    let waiting = r.connect(&listener)?;
    for text in ["one ", "two ", "three"] {
        r.send("send", &waiting, text.as_bytes(), 0);
    }
    r.poll("waiting", &waiting);
    let Pair { client, server } = r.accept(&listener, waiting)?;
    r.arrived(&server, 13);
    r.recv("recv", &server, 100, 0);
    r.send("answer", &server, b"at last", 0);
    r.poll_until("client", &client, POLLIN);
    r.recv("client", &client, 100, 0);
    r.note("bytes", trace::bytes(b"done"));
    Ok(())
}
