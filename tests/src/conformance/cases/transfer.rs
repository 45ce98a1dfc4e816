// SPDX-License-Identifier: GPL-2.0-only
//! splice, sendfile, vmsplice and tee, to and from the socket.

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use anyhow::Result;
use libc::{MSG_DONTWAIT, MSG_PEEK, SO_PEEK_OFF, SOL_SOCKET};
use nix::fcntl::{SpliceFFlags, splice, tee, vmsplice};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use nix::unistd::pipe;
use tcp_splice_world::asleep::Asleep;

use crate::case::{Case, case};
use crate::observe::DATA;
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(sendfile_whole),
    case!(sendfile_from_an_offset),
    case!(sendfile_large),
    case!(sendfile_when_full).slow(),
    case!(splice_to_socket),
    case!(splice_to_socket_with_more),
    case!(vmsplice_then_splice),
    case!(tee_then_splice),
    case!(splice_from_socket),
    case!(splice_from_socket_across_the_border),
    case!(splice_leaves_the_peek_offset),
    case!(splice_from_nothing).lanes(),
    case!(splice_waits),
    case!(splice_of_nothing_wanted).lanes(),
    case!(splice_at_the_end),
    case!(splice_end_wakes).lanes(),
    case!(splice_into_full_pipe),
    case!(splice_to_file),
    case!(splice_with_offset).lanes(),
    case!(splice_large),
    case!(sendfile_from_socket),
    case!(recv_after_splice),
    case!(proxy_as_go_does),
];

/// An open file with these bytes, at its beginning.
pub fn file_with(bytes: &[u8]) -> Result<File> {
    let mut file = File::from(memfd_create("file", MFdFlags::empty())?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

fn moved(
    from: &impl AsFd,
    to: &impl AsFd,
    length: usize,
    flags: SpliceFFlags,
) -> nix::Result<usize> {
    splice(from, None, to, None, length, flags)
}

const WAIT: SpliceFFlags = SpliceFFlags::empty();
const NOW: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK;

/// What is in the pipe, at most `length` bytes.
fn piped(r: &Run, what: &str, out: &OwnedFd, length: usize) {
    let mut buffer = vec![0; length];
    let count = nix::unistd::read(out, &mut buffer);
    r.result(what, count.map(|count| trace::bytes(&buffer[..count])));
}

fn sendfile_whole(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let file = file_with(b"the file's bytes")?;
    r.result("sendfile", sendfile(&client, &file, None, 100));
    r.result("sendfile at its end", sendfile(&client, &file, None, 100));
    r.arrived(&server, 16);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn sendfile_from_an_offset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let file = file_with(b"the file's bytes")?;
    let mut offset = 4;
    r.result("sendfile", sendfile(&client, &file, Some(&mut offset), 6));
    r.note("offset", offset);
    r.result("nothing", sendfile(&client, &file, Some(&mut offset), 0));
    r.arrived(&server, 6);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn sendfile_large(r: &Run) -> Result<()> {
    const LENGTH: usize = 1 << 20;
    let Pair { client, server } = r.warm()?;
    let file = file_with(&DATA.bytes(0, LENGTH))?;
    let sender = thread::spawn(move || -> nix::Result<usize> {
        let mut sent = 0;
        while sent < LENGTH {
            sent += sendfile(&client, &file, None, LENGTH - sent)?;
        }
        Ok(sent)
    });
    r.end("end", &server);
    r.result("sendfile", sender.join().expect("sender panicked"));
    Ok(())
}

fn sendfile_when_full(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let file = file_with(b"0123456789")?;
    let sent = crate::observe::fill(&client);
    client.set_nonblocking(true)?;
    r.result("sendfile", sendfile(&client, &file, None, 10));
    r.note("position", (&file).stream_position()?);
    r.note("all arrive", crate::observe::drain(&server, 0, sent));
    r.poll_until("room", &client, libc::POLLOUT);
    r.result("sendfile", sendfile(&client, &file, None, 10));
    r.take("take", &server, 10);
    Ok(())
}

fn splice_to_socket(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    nix::unistd::write(&into, b"out of a pipe")?;
    r.result("splice", moved(&out, &client, 100, WAIT));
    r.result("splice of nothing", moved(&out, &client, 100, NOW));
    drop(into);
    r.result("splice of the end", moved(&out, &client, 100, WAIT));
    r.arrived(&server, 13);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn splice_to_socket_with_more(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    nix::unistd::write(&into, b"out of a pipe")?;
    let more = SpliceFFlags::SPLICE_F_MORE;
    r.result("splice with more", moved(&out, &client, 6, more));
    r.result("splice", moved(&out, &client, 100, WAIT));
    r.arrived(&server, 13);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn vmsplice_then_splice(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    let bytes = DATA.bytes(0, 20_000);
    r.result("vmsplice", vmsplice(&into, &[IoSlice::new(&bytes)], WAIT));
    r.result("splice", moved(&out, &client, 20_000, WAIT));
    r.take("take", &server, 20_000);
    Ok(())
}

fn tee_then_splice(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    let (second_out, second_into) = pipe()?;
    r.send("send", &client, b"twice", 0);
    r.arrived(&server, 5);
    r.result("splice", moved(&server, &into, 100, WAIT));
    r.result("tee", tee(&out, &second_into, 100, WAIT));
    r.result("splice back", moved(&out, &server, 100, WAIT));
    piped(r, "second pipe", &second_out, 100);
    r.take("take", &client, 5);
    Ok(())
}

fn splice_from_socket(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    r.send("send", &client, b"into a pipe", 0);
    r.arrived(&server, 11);
    r.result("splice 4", moved(&server, &into, 4, WAIT));
    r.readable("FIONREAD", &server);
    r.result("splice", moved(&server, &into, 100, NOW));
    server.set_nonblocking(true)?;
    r.result("splice of nothing", moved(&server, &into, 100, WAIT));
    piped(r, "pipe", &out, 100);
    Ok(())
}

fn splice_from_socket_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    let (out, into) = pipe()?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    let mut left: usize = 25;
    while left > 0 {
        match moved(&server, &into, 100, NOW) {
            Ok(count @ 1..) => left = left.saturating_sub(count),
            other => {
                r.result("splice came to nothing", other);
                break;
            }
        }
    }
    server.set_nonblocking(true)?;
    r.result("splice of nothing", moved(&server, &into, 100, NOW));
    piped(r, "pipe", &out, 100);
    Ok(())
}

/// Unlike recv(), splice(2) does not take what it read off SO_PEEK_OFF: neither TCP's bytes nor the ring's.
fn splice_leaves_the_peek_offset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    let (out, into) = pipe()?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    r.set("offset 10", &server, (SOL_SOCKET, SO_PEEK_OFF), 10);
    r.result("splice 4 of TCP's", moved(&server, &into, 4, NOW));
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("peek", &server, 3, MSG_PEEK);
    r.result("splice the other 5", moved(&server, &into, 5, NOW));
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.result("splice 2 of the ring's", moved(&server, &into, 2, NOW));
    r.option("offset", &server, SOL_SOCKET, SO_PEEK_OFF);
    r.recv("peek", &server, 100, MSG_PEEK | MSG_DONTWAIT);
    piped(r, "pipe", &out, 100);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn splice_from_nothing(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    let (_out, into) = pipe()?;
    server.set_nonblocking(true)?;
    r.result("both", moved(&server, &into, 100, NOW));
    r.result("O_NONBLOCK", moved(&server, &into, 100, WAIT));
    Ok(())
}

fn splice_waits(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    let splicer = Asleep::start(move || moved(&server, &into, 100, WAIT).map(|n| (n, server)))?;
    r.note("came back early", splicer.finished());
    r.send("send", &client, b"hello", 0);
    let result = splicer.join();
    r.result(
        "splice",
        result.as_ref().map(|(count, _)| *count).map_err(|e| *e),
    );
    piped(r, "pipe", &out, 100);
    Ok(())
}

fn splice_of_nothing_wanted(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    let (_out, into) = pipe()?;
    r.result("splice 0", moved(&server, &into, 0, WAIT));
    server.set_nonblocking(true)?;
    r.result("splice 0 now", moved(&server, &into, 0, NOW));
    Ok(())
}

fn splice_at_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    r.send("send", &client, b"last", 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("poll", &server, libc::POLLRDHUP);
    for _ in 0..3 {
        r.result("splice", moved(&server, &into, 100, WAIT));
    }
    r.result("splice now", moved(&server, &into, 100, NOW));
    piped(r, "pipe", &out, 100);
    Ok(())
}

fn splice_end_wakes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (_out, into) = pipe()?;
    let splicer = Asleep::start(move || moved(&server, &into, 100, WAIT))?;
    r.note("came back early", splicer.finished());
    client.shutdown(Shutdown::Write)?;
    r.result("splice", splicer.join());
    Ok(())
}

fn splice_into_full_pipe(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    nix::fcntl::fcntl(&into, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))?;
    nix::unistd::write(&into, &[b'.'; 4096])?;
    r.send("send", &client, b"no room", 0);
    r.arrived(&server, 7);
    r.result("splice", moved(&server, &into, 100, NOW));
    r.readable("FIONREAD", &server);
    piped(r, "pipe", &out, 4096);
    r.result("splice", moved(&server, &into, 100, NOW));
    piped(r, "pipe", &out, 4096);
    Ok(())
}

fn splice_to_file(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    let mut file = file_with(b"")?;
    DATA.write(&client, 0, 10_000)?;
    r.arrived(&server, 10_000);
    let mut got = 0;
    while got < 10_000 {
        let count = moved(&server, &into, 10_000 - got, WAIT)?;
        let written = moved(&out, &file, count, WAIT)?;
        if written != count || count == 0 {
            r.note("short", format_args!("{written} of {count}"));
            break;
        }
        got += count;
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    r.note("file", trace::bytes(&bytes));
    Ok(())
}

fn splice_with_offset(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    let (_out, into) = pipe()?;
    let mut offset = 0;
    server.set_nonblocking(true)?;
    let result = splice(&server, Some(&mut offset), &into, None, 100, NOW);
    r.result("splice", result);
    Ok(())
}

fn splice_large(r: &Run) -> Result<()> {
    const LENGTH: usize = 1 << 20;
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    let sender = thread::spawn(move || DATA.write(client, 0, LENGTH).is_ok());
    let reader = thread::spawn(move || DATA.read_to_end(File::from(out), 0, LENGTH).is_ok());
    let mut total = 0;
    let last = loop {
        match moved(&server, &into, 1 << 16, WAIT) {
            Ok(count @ 1..) => total += count,
            other => break other,
        }
    };
    drop(into);
    r.note("total", total);
    r.result("last", last);
    r.note("sent", sender.join().expect("sender panicked"));
    r.note("read", reader.join().expect("reader panicked"));
    Ok(())
}

fn sendfile_from_socket(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let file = file_with(b"")?;
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    r.result("sendfile to a file", sendfile(&file, &server, None, 5));
    r.recv("recv", &server, 100, libc::MSG_DONTWAIT);
    Ok(())
}

fn recv_after_splice(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (out, into) = pipe()?;
    r.send("send", &client, &DATA.bytes(0, 9000), 0);
    r.arrived(&server, 9000);
    let count = moved(&server, &into, 100, WAIT)?;
    r.note("splice", count);
    r.recv("peek", &server, 100, libc::MSG_PEEK);
    r.recv("recv", &server, 1000, 0);
    r.result("splice", moved(&server, &into, 50, WAIT));
    r.take("take", &server, 9000 - 1150);
    piped(r, "pipe", &out, 200);
    Ok(())
}

/// Go's `io.Copy` between two connections: non-blocking sockets and pipe, poll when told so, until splice gives 0.
fn pump(from: &TcpStream, to: &TcpStream) -> Result<usize> {
    let (out, into) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK)?;
    let mut total = 0;
    loop {
        let count = match moved(from, &into, 1 << 20, NOW) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(nix::Error::EAGAIN) => {
                crate::calls::poll(from, libc::POLLIN | libc::POLLRDHUP, 10_000)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut left = count;
        while left > 0 {
            match moved(&out, to, left, NOW) {
                Ok(count) => left -= count,
                Err(nix::Error::EAGAIN) => {
                    crate::calls::poll(to, libc::POLLOUT, 10_000)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        total += count;
    }
}

fn proxy_as_go_does(r: &Run) -> Result<()> {
    const LENGTH: usize = 1 << 20;
    let (near, far) = (r.warm()?, r.warm()?);
    near.server.set_nonblocking(true)?;
    far.client.set_nonblocking(true)?;
    let sender = thread::spawn(move || DATA.write(near.client, 0, LENGTH).is_ok());
    let middle = thread::spawn(move || {
        let total = pump(&near.server, &far.client);
        let _ = far.client.shutdown(Shutdown::Write);
        total.map_err(|error| format!("{error:#}"))
    });
    r.end("end", &far.server);
    r.note("sent", sender.join().expect("sender panicked"));
    r.note(
        "pumped",
        format_args!("{:?}", middle.join().expect("pump panicked")),
    );
    Ok(())
}
