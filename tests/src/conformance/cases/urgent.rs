// SPDX-License-Identifier: GPL-2.0-only
//! Urgent data: MSG_OOB, SO_OOBINLINE, SIOCATMARK, EPOLLPRI, SIGURG.

use std::net::{Shutdown, TcpStream};

use anyhow::Result;
use libc::{MSG_DONTWAIT, MSG_OOB, MSG_PEEK, POLLIN, POLLPRI, SIGURG, SO_OOBINLINE, SOL_SOCKET};

use crate::calls;
use crate::case::{Case, case};
use crate::observe::soon;
use crate::run::{Pair, Run};
use crate::signals;

pub const ALL: &[Case] = &[
    case!(alone).lanes(),
    case!(between),
    case!(between_reads_stop_at_the_mark),
    case!(inline),
    case!(inline_last),
    case!(peeked),
    case!(two).known(&[(
        "end: 7 \"one!two\", then end",
        "end: 6 \"onetwo\", then end",
    )]),
    case!(longer_than_a_byte),
    case!(at_mark),
    case!(signal),
    case!(end_behind_it),
    case!(polled_for_reading),
    case!(option_after_it_came),
    case!(discarded_by_reading_on),
    case!(from_the_server),
    case!(goes_on_afterwards),
    case!(cold).lanes(),
];

const INLINE: (i32, i32) = (SOL_SOCKET, SO_OOBINLINE);
const SIOCATMARK: libc::Ioctl = 0x8905;

/// Waits until the urgent byte can be read.
fn urgent(r: &Run, socket: &TcpStream) {
    r.poll_until("urgent", socket, POLLPRI);
}

fn at_mark_now(r: &Run, socket: &TcpStream) {
    r.result("at mark", calls::ioctl(socket, SIOCATMARK));
}

fn alone(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.recv("recv", &server, 10, MSG_DONTWAIT);
    r.recv("urgent", &server, 10, MSG_OOB);
    r.recv("urgent again", &server, 10, MSG_OOB);
    r.poll("poll", &server);
    Ok(())
}

fn between(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    r.send("send", &client, b"after", 0);
    urgent(r, &server);
    r.recv("urgent", &server, 10, MSG_OOB);
    client.shutdown(Shutdown::Write)?;
    r.end("end", &server);
    Ok(())
}

fn between_reads_stop_at_the_mark(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    r.send("send", &client, b"after", 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("end", &server, libc::POLLRDHUP);
    r.recv("up to the mark", &server, 100, 0);
    at_mark_now(r, &server);
    r.recv("behind it", &server, 100, 0);
    r.recv("urgent", &server, 10, MSG_OOB);
    Ok(())
}

fn inline(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("inline", &server, INLINE, 1);
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    r.send("send", &client, b"after", 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("end", &server, libc::POLLRDHUP);
    r.recv("urgent", &server, 10, MSG_OOB);
    r.recv("up to the mark", &server, 100, 0);
    at_mark_now(r, &server);
    r.recv("from it on", &server, 100, 0);
    Ok(())
}

fn inline_last(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("inline", &server, INLINE, 1);
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.recv("up to the mark", &server, 100, 0);
    r.recv("from it on", &server, 100, 0);
    r.recv("nothing", &server, 100, MSG_DONTWAIT);
    Ok(())
}

fn peeked(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.recv("peek urgent", &server, 10, MSG_OOB | MSG_PEEK);
    r.recvmsg("urgent", &server, 10, MSG_OOB);
    r.recv("peek", &server, 10, MSG_PEEK);
    r.recv("recv", &server, 10, 0);
    Ok(())
}

fn two(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"one", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.send("send", &client, b"two", 0);
    r.send("urgent", &client, b"?", MSG_OOB);
    soon(|| {
        let mut byte = [0];
        let peek = MSG_OOB | MSG_PEEK;
        tcp_splice_world::sys::recv(&server, &mut byte, peek).is_ok() && byte == *b"?"
    });
    r.recv("urgent", &server, 10, MSG_OOB);
    client.shutdown(Shutdown::Write)?;
    r.end("end", &server);
    Ok(())
}

fn longer_than_a_byte(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"abc!", MSG_OOB);
    urgent(r, &server);
    r.recv("urgent", &server, 10, MSG_OOB);
    client.shutdown(Shutdown::Write)?;
    r.end("end", &server);
    Ok(())
}

fn at_mark(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    at_mark_now(r, &server);
    r.send("send", &client, b"ab", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    at_mark_now(r, &server);
    for _ in 0..2 {
        r.recv("recv 1", &server, 1, 0);
        at_mark_now(r, &server);
    }
    r.readable("FIONREAD", &server);
    r.send("send", &client, b"cd", 0);
    r.poll_until("poll", &server, POLLIN);
    r.recv("recv", &server, 10, 0);
    at_mark_now(r, &server);
    Ok(())
}

fn signal(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    signals::count_from_now(SIGURG)?;
    r.result(
        "own",
        calls::fcntl(&server, libc::F_SETOWN, std::process::id() as i32).map(|_| 0),
    );
    r.send("send", &client, b"before", 0);
    r.arrived(&server, 6);
    r.signals("signals", SIGURG);
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.signals("signals", SIGURG);
    r.recv("recv", &server, 10, 0);
    Ok(())
}

fn end_behind_it(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    drop(client);
    r.poll_until("end", &server, libc::POLLRDHUP);
    r.recv("recv", &server, 100, 0);
    r.recv("urgent", &server, 10, MSG_OOB);
    r.recv("end", &server, 100, 0);
    Ok(())
}

fn polled_for_reading(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.recv("recv", &server, 100, 0);
    r.poll("only the urgent byte is left", &server);
    r.readable("FIONREAD", &server);
    r.recv("urgent", &server, 10, MSG_OOB);
    r.poll("nothing is left", &server);
    r.readable("FIONREAD", &server);
    Ok(())
}

fn option_after_it_came(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.send("urgent", &client, b"!", MSG_OOB);
    r.send("send", &client, b"after", 0);
    urgent(r, &server);
    r.set("inline", &server, INLINE, 1);
    client.shutdown(Shutdown::Write)?;
    r.end("end", &server);
    Ok(())
}

fn discarded_by_reading_on(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.send("send", &client, b"after", 0);
    r.take("take", &server, 5);
    r.recv("urgent", &server, 10, MSG_OOB);
    r.poll("poll", &server);
    r.send("send", &server, b"answer", 0);
    r.take("take", &client, 6);
    Ok(())
}

fn from_the_server(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &server, b"before", 0);
    r.send("urgent", &server, b"!", MSG_OOB);
    urgent(r, &client);
    r.recv("urgent", &client, 10, MSG_OOB);
    r.recv("recv", &client, 10, 0);
    Ok(())
}

fn goes_on_afterwards(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for round in 0..3 {
        r.send("urgent", &client, b"!", MSG_OOB);
        urgent(r, &server);
        r.recv("urgent", &server, 10, MSG_OOB);
        for _ in 0..3 {
            r.send("send", &client, format!("round {round}").as_bytes(), 0);
            r.take("take", &server, 7);
            r.send("send", &server, b"answer", 0);
            r.take("take", &client, 6);
        }
    }
    Ok(())
}

fn cold(r: &Run) -> Result<()> {
    let Pair { client, server } = r.cold()?;
    r.send("urgent", &client, b"!", MSG_OOB);
    urgent(r, &server);
    r.recv("urgent", &server, 10, MSG_OOB);
    for _ in 0..3 {
        r.send("send", &client, b"after", 0);
        r.take("take", &server, 5);
        r.send("send", &server, b"answer", 0);
        r.take("take", &client, 6);
    }
    Ok(())
}
