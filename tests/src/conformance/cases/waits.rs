// SPDX-License-Identifier: GPL-2.0-only
//! Calls that wait: timeouts, the low-water mark, signals.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use libc::{
    MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, POLLIN, POLLRDHUP, SIGUSR1, SO_RCVLOWAT, SO_RCVTIMEO,
    SO_SNDTIMEO, SOL_SOCKET,
};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::sys;

use crate::calls;
use crate::case::{Case, case};
use crate::observe::{DATA, fill, soon};
use crate::run::{Pair, Run};
use crate::signals;
use crate::trace;

pub const ALL: &[Case] = &[
    case!(receive_timeout).slow().lanes(),
    case!(receive_timeout_with_a_part).slow(),
    case!(receive_timeout_of_a_peek).slow().lanes(),
    case!(receive_timeout_not_needed),
    case!(send_timeout).slow(),
    case!(signal_ends_recv).lanes(),
    case!(signal_restarts_recv),
    case!(signal_ends_recv_with_timeout).lanes(),
    case!(signal_ends_wait_all_with_a_part),
    case!(signal_ends_send).slow(),
    case!(low_water_value).lanes(),
    case!(low_water_poll),
    case!(low_water_recv),
    case!(low_water_recv_of_less),
    case!(low_water_recv_now).slow(),
    case!(low_water_at_the_end),
    case!(low_water_across_the_border),
    case!(low_water_lowered),
    case!(low_water_above_everything),
    case!(low_water_peek),
];

const LOW_WATER: (i32, i32) = (SOL_SOCKET, SO_RCVLOWAT);
const WAIT: Duration = Duration::from_millis(300);

fn timeout(socket: &TcpStream, name: i32) -> Result<()> {
    Ok(sys::set_timeout(socket, name, WAIT.as_millis() as i64)?)
}

fn receive_timeout(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    timeout(&server, SO_RCVTIMEO)?;
    let begin = Instant::now();
    r.recv("recv", &server, 10, 0);
    r.elapsed("waited", begin, WAIT);
    Ok(())
}

fn receive_timeout_with_a_part(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    timeout(&server, SO_RCVTIMEO)?;
    r.send("send", &client, b"a part", 0);
    r.arrived(&server, 6);
    let begin = Instant::now();
    r.recv("all of 100", &server, 100, MSG_WAITALL);
    r.elapsed("waited", begin, WAIT);
    r.recv("again", &server, 100, MSG_WAITALL);
    Ok(())
}

fn receive_timeout_of_a_peek(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    timeout(&server, SO_RCVTIMEO)?;
    let begin = Instant::now();
    r.recv("peek", &server, 10, MSG_PEEK);
    r.elapsed("waited", begin, WAIT);
    Ok(())
}

fn receive_timeout_not_needed(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    sys::set_timeout(&server, SO_RCVTIMEO, 60_000)?;
    let copy = server.try_clone()?;
    let reader = Asleep::start(move || sys::recv(&copy, &mut [0; 10], 0))?;
    r.send("send", &client, b"hello", 0);
    r.result("recv", reader.join());
    Ok(())
}

fn send_timeout(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    timeout(&client, SO_SNDTIMEO)?;
    fill(&client);
    let begin = Instant::now();
    r.send("send", &client, b"one more", 0);
    r.elapsed("waited", begin, WAIT);
    r.recv("first bytes", &server, 10, 0);
    Ok(())
}

/// What a thread gets that sleeps in `call` when a signal comes.
fn interrupted(
    r: &Run,
    call: impl FnOnce() -> std::io::Result<String> + Send + 'static,
) -> Result<()> {
    signals::count_from_now(SIGUSR1)?;
    let thread = Asleep::start(call)?;
    r.note("came back early", thread.finished());
    sys::signal_thread(thread.id(), SIGUSR1)?;
    r.result("result", thread.join());
    r.signals("signals", SIGUSR1);
    Ok(())
}

fn received(socket: &TcpStream, length: usize, flags: i32) -> std::io::Result<String> {
    let mut buffer = vec![0; length];
    let count = sys::recv(socket, &mut buffer, flags)?;
    Ok(trace::bytes(&buffer[..count]))
}

fn signal_ends_recv(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    interrupted(r, move || received(&server, 10, 0))
}

fn signal_restarts_recv(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    sys::catch(SIGUSR1, true)?;
    let reader = Asleep::start(move || received(&server, 10, 0))?;
    sys::signal_thread(reader.id(), SIGUSR1)?;
    reader.settle()?;
    r.note("came back", reader.finished());
    r.send("send", &client, b"hello", 0);
    r.result("recv", reader.join());
    Ok(())
}

fn signal_ends_recv_with_timeout(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    sys::set_timeout(&server, SO_RCVTIMEO, 60_000)?;
    interrupted(r, move || received(&server, 10, 0))
}

fn signal_ends_wait_all_with_a_part(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"a part", 0);
    r.arrived(&server, 6);
    interrupted(r, move || received(&server, 100, MSG_WAITALL))
}

fn signal_ends_send(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    fill(&client);
    let sender = move || sys::send(&client, b"x", 0).map(|count| count.to_string());
    interrupted(r, sender)?;
    r.recv("first bytes", &server, 10, 0);
    Ok(())
}

fn low_water_value(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    for value in [0, 1, 2, 1000, 30_000, 50_000_000, i32::MAX, -1] {
        r.set(&format!("set {value}"), &client, LOW_WATER, value);
        if value < 100_000 {
            r.option("get", &client, SOL_SOCKET, SO_RCVLOWAT);
        }
    }
    Ok(())
}

fn low_water_poll(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 10);
    r.send("send", &client, b"123456789", 0);
    r.arrived(&server, 9);
    r.poll("below", &server);
    r.send("send", &client, b"0", 0);
    r.arrived(&server, 10);
    r.poll_until("at the mark", &server, POLLIN);
    r.recv("recv 1", &server, 1, 0);
    r.poll("below again", &server);
    r.set("no mark", &server, LOW_WATER, 1);
    r.poll("without a mark", &server);
    Ok(())
}

fn low_water_recv(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 10);
    let copy = server.try_clone()?;
    let reader = Asleep::start(move || received(&copy, 100, 0))?;
    r.send("send", &client, b"123456789", 0);
    reader.settle()?;
    r.note("came back below", reader.finished());
    r.send("send", &client, b"0abcdefghij", 0);
    r.result("recv", reader.join());
    Ok(())
}

fn low_water_recv_of_less(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 10);
    r.send("send", &client, b"12345", 0);
    r.arrived(&server, 5);
    r.recv("recv 5 of 5", &server, 5, 0);
    r.send("send", &client, b"67890", 0);
    r.arrived(&server, 5);
    r.recv("recv 3 of 5", &server, 3, 0);
    Ok(())
}

fn low_water_recv_now(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 10);
    r.send("send", &client, b"12345", 0);
    r.arrived(&server, 5);
    r.recv("recv", &server, 100, MSG_DONTWAIT);
    r.recv("recv", &server, 100, MSG_DONTWAIT);
    timeout(&server, SO_RCVTIMEO)?;
    r.send("send", &client, b"67890", 0);
    r.arrived(&server, 5);
    let begin = Instant::now();
    r.recv("recv until the timeout", &server, 100, 0);
    r.elapsed("waited", begin, WAIT);
    Ok(())
}

fn low_water_at_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 1000);
    r.send("send", &client, b"12345", 0);
    r.arrived(&server, 5);
    r.poll("below", &server);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("at the end", &server, POLLRDHUP);
    r.recv("recv", &server, 2000, 0);
    r.recv("end", &server, 2000, 0);
    Ok(())
}

fn low_water_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.set("mark", &server, LOW_WATER, 12);
    r.poll("below", &server);
    r.send("send", &client, b"th", 0);
    r.arrived(&server, 11);
    r.poll("below", &server);
    r.send("send", &client, b"rough the ring", 0);
    r.poll_until("above", &server, POLLIN);
    r.arrived(&server, 25);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn low_water_lowered(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 1000);
    r.send("send", &client, &DATA.bytes(0, 600), 0);
    r.arrived(&server, 600);
    let copy = server.try_clone()?;
    let poller = Asleep::start(move || calls::poll(&copy, POLLIN, 10_000))?;
    r.note("came back early", poller.finished());
    r.set("lower mark", &server, LOW_WATER, 500);
    let events = poller.join().map(|events| trace::events(events.into()));
    r.result("poll", events);
    r.recv("recv", &server, 1000, 0);
    Ok(())
}

/// A mark that can never be reached: bytes come all the same when no more can come in.
fn low_water_above_everything(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 150_000);
    let sender = std::thread::spawn(move || DATA.write(&client, 0, 150_000).map(|()| client));
    let there = soon(|| calls::poll(&server, POLLIN, 100).is_ok_and(|events| events != 0));
    r.note("poll", there);
    // TCP does not wake a reader that has a part already for less than the mark.
    r.set("no mark", &server, LOW_WATER, 1);
    r.take("take", &server, 150_000);
    let _client = sender.join().expect("sender panicked")?;
    Ok(())
}

fn low_water_peek(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("mark", &server, LOW_WATER, 10);
    r.send("send", &client, b"12345", 0);
    r.arrived(&server, 5);
    r.recv("peek 5", &server, 5, MSG_PEEK);
    r.recv("peek now", &server, 100, MSG_PEEK | MSG_DONTWAIT);
    let copy = server.try_clone()?;
    let peeker = Asleep::start(move || received(&copy, 100, MSG_PEEK))?;
    r.note("came back below", peeker.finished());
    r.send("send", &client, b"67890", 0);
    r.result("peek", peeker.join());
    Ok(())
}
