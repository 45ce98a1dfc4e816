// SPDX-License-Identifier: GPL-2.0-only
//! MSG_PEEK and SO_PEEK_OFF.

use std::net::Shutdown;

use anyhow::Result;
use libc::{MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, SO_PEEK_OFF, SOL_SOCKET};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::sys;

use crate::case::{Case, case};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(now),
    case!(blocks),
    case!(across_the_border),
    case!(across_a_leave),
    case!(at_the_end),
    case!(with_reads_between),
    case!(wait_all),
    case!(truncated),
    case!(offset),
    case!(offset_across_the_border),
    case!(offset_goes_back_as_bytes_are_read),
    case!(offset_behind_all_bytes),
    case!(offset_blocks),
];

const OFFSET: (i32, i32) = (SOL_SOCKET, SO_PEEK_OFF);

fn now(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.recv("nothing there", &server, 10, MSG_PEEK | MSG_DONTWAIT);
    r.send("send", &client, b"hello world", 0);
    r.arrived(&server, 11);
    r.recv("peek 5", &server, 5, MSG_PEEK);
    r.recv("peek 100", &server, 100, MSG_PEEK);
    r.recv("peek 0", &server, 0, MSG_PEEK);
    r.recv("recv", &server, 100, 0);
    r.recv("nothing there", &server, 10, MSG_PEEK | MSG_DONTWAIT);
    Ok(())
}

/// A peek that waits, on a thread of its own.
fn waiting(server: &std::net::TcpStream) -> Result<Asleep<std::io::Result<String>>> {
    let copy = server.try_clone()?;
    Asleep::start(move || {
        let mut buffer = [0; 100];
        let count = sys::recv(&copy, &mut buffer, MSG_PEEK)?;
        Ok(trace::bytes(&buffer[..count]))
    })
}

fn blocks(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let peeker = waiting(&server)?;
    r.note("came back early", peeker.finished());
    r.send("send", &client, b"hello", 0);
    r.result("peek", peeker.join());
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.recv("before the ring", &server, 100, MSG_PEEK);
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    r.recv("peek 5", &server, 5, MSG_PEEK);
    r.recv("peek 12", &server, 12, MSG_PEEK);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.recv("recv 12", &server, 12, 0);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn across_a_leave(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"ring, ", 0);
    r.result("stamped", sys::send_with_timestamp(&client, b"then TCP, "));
    r.send("send", &client, b"then what fits", 0);
    r.arrived(&server, 30);
    r.recv("peek 3", &server, 3, MSG_PEEK);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.recv("recv 8", &server, 8, 0);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn at_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"last words", 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("poll", &server, libc::POLLRDHUP);
    r.recv("peek", &server, 100, MSG_PEEK);
    r.recv("recv", &server, 100, 0);
    r.recv("peek at the end", &server, 100, MSG_PEEK);
    r.recv("peek at the end, all", &server, 100, MSG_PEEK | MSG_WAITALL);
    r.recv("end", &server, 100, 0);
    Ok(())
}

fn with_reads_between(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"abcdefghijklmnop", 0);
    r.arrived(&server, 16);
    for _ in 0..3 {
        r.recv("peek", &server, 4, MSG_PEEK);
        r.recv("recv", &server, 2, 0);
    }
    r.send("send", &client, b"qrst", 0);
    r.arrived(&server, 14);
    r.recv("peek", &server, 100, MSG_PEEK);
    Ok(())
}

fn wait_all(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"part ", 0);
    let copy = server.try_clone()?;
    let peeker = Asleep::start(move || {
        let mut buffer = [0; 10];
        let count = sys::recv(&copy, &mut buffer, MSG_PEEK | MSG_WAITALL)?;
        std::io::Result::Ok(trace::bytes(&buffer[..count]))
    })?;
    r.note("came back early", peeker.finished());
    r.send("send", &client, b"and whole", 0);
    r.result("peek all of 10", peeker.join());
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn truncated(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    r.result("peek and truncate", sys::discard(&server, 3, MSG_PEEK));
    r.result("peek and truncate", sys::discard(&server, 100, MSG_PEEK));
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn offset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.set("offset 0", &server, OFFSET, 0);
    r.send("send", &client, b"abcdefghij", 0);
    r.arrived(&server, 10);
    r.recv("peek 3", &server, 3, MSG_PEEK);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("peek 3", &server, 3, MSG_PEEK);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.set("offset 2", &server, OFFSET, 2);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.set("no offset", &server, OFFSET, -1);
    r.recv("peek all", &server, 100, MSG_PEEK);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn offset_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    r.set("offset 5", &server, OFFSET, 5);
    r.recv("peek 2", &server, 2, MSG_PEEK);
    r.recv("peek 8", &server, 8, MSG_PEEK);
    r.recv("peek 4", &server, 4, MSG_PEEK);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("recv 11", &server, 11, 0);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("peek", &server, 100, MSG_PEEK);
    Ok(())
}

fn offset_goes_back_as_bytes_are_read(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"abcdefghij", 0);
    r.arrived(&server, 10);
    r.set("offset 6", &server, OFFSET, 6);
    r.recv("recv 4", &server, 4, 0);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("peek", &server, 2, MSG_PEEK);
    r.result("discard 5", sys::discard(&server, 5, 0));
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("recv", &server, 100, MSG_TRUNC);
    Ok(())
}

fn offset_behind_all_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"abc", 0);
    r.arrived(&server, 3);
    r.set("offset 50", &server, OFFSET, 50);
    r.recv("peek", &server, 100, MSG_PEEK | MSG_DONTWAIT);
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn offset_blocks(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"abc", 0);
    r.arrived(&server, 3);
    r.set("offset 3", &server, OFFSET, 3);
    let peeker = waiting(&server)?;
    r.note("came back early", peeker.finished());
    r.send("send", &client, b"def", 0);
    r.result("peek", peeker.join());
    r.recv("recv", &server, 100, 0);
    Ok(())
}
