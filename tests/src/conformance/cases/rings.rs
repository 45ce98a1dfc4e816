// SPDX-License-Identifier: GPL-2.0-only
//! io_uring: send, receive, multishot, bundles, zero copy, poll, splice, cancelling.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};

use crate::case::{Case, case};
use crate::observe::{DATA, a_moment};
use crate::run::{Pair, Run};
use crate::trace;
use crate::uring::{Done, Ring};

pub const ALL: &[Case] = &[
    case!(send_and_receive),
    case!(receive_waits),
    case!(receive_not_waiting).lanes(),
    case!(receive_across_the_border),
    case!(receive_all),
    case!(receive_poll_first),
    case!(receive_peek),
    case!(receive_at_the_end),
    case!(receive_after_reset).lanes(),
    case!(receive_cancelled),
    case!(multishot),
    case!(multishot_ended_by_peer),
    case!(multishot_without_buffers),
    case!(bundle),
    case!(send_all_that_waits),
    case!(send_zero_copy).lanes(),
    case!(send_after_shutdown),
    case!(vectors),
    case!(poll_once),
    case!(poll_multishot),
    case!(splice_from_socket),
    case!(shutdown_and_close),
];

fn fd(socket: &TcpStream) -> Fd {
    Fd(socket.as_raw_fd())
}

/// How the flags of a completion read; the buffer's number is left out.
fn flags(done: &Done) -> String {
    let more = cqueue::more(done.flags);
    let full = cqueue::sock_nonempty(done.flags);
    let buffer = cqueue::buffer_select(done.flags).is_some();
    format!("more {more}, non-empty {full}, buffer {buffer}")
}

fn note(r: &Run, what: &str, done: Option<Done>) {
    let words = done.map(|done| format!("{}, {}", done.words(), flags(&done)));
    r.note(what, words.unwrap_or_else(|| "no completion".to_owned()));
}

fn receive_op(socket: &TcpStream, buffer: &mut [u8], flags: i32) -> squeue::Entry {
    let length = buffer.len() as u32;
    let operation = opcode::Recv::new(fd(socket), buffer.as_mut_ptr(), length).flags(flags);
    operation.build().user_data(2)
}

/// Receives once and notes result and bytes.
fn receive(r: &Run, ring: &mut Ring, socket: &TcpStream, length: usize, how: i32) -> Result<()> {
    let mut buffer = vec![0; length];
    let done = ring.run(&receive_op(socket, &mut buffer, how))?;
    note(r, "recv", Some(done));
    let count = usize::try_from(done.result).unwrap_or(0);
    r.note("bytes", trace::bytes(&buffer[..count]));
    Ok(())
}

fn send(r: &Run, ring: &mut Ring, socket: &TcpStream, bytes: &[u8]) -> Result<()> {
    let operation = opcode::Send::new(fd(socket), bytes.as_ptr(), bytes.len() as u32);
    let done = ring.run(&operation.build())?;
    r.note("send", done.words());
    Ok(())
}

fn send_and_receive(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    for text in ["hello", "and again"] {
        send(r, &mut ring, &client, text.as_bytes())?;
        r.arrived(&server, text.len());
        receive(r, &mut ring, &server, 3, 0)?;
        receive(r, &mut ring, &server, 100, 0)?;
    }
    Ok(())
}

fn receive_waits(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    for text in ["hello", "and again"] {
        let mut buffer = vec![0; 100];
        ring.submit(&receive_op(&server, &mut buffer, 0))?;
        a_moment();
        r.note("came early", ring.taken().is_some());
        r.send("send", &client, text.as_bytes(), 0);
        note(r, "recv", ring.next()?);
        r.note("bytes", trace::bytes(&buffer[..text.len()]));
    }
    Ok(())
}

fn receive_not_waiting(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    let mut ring = Ring::new()?;
    receive(r, &mut ring, &server, 10, libc::MSG_DONTWAIT)
}

fn receive_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    let mut ring = Ring::new()?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    receive(r, &mut ring, &server, 12, 0)?;
    receive(r, &mut ring, &server, 100, 0)
}

fn receive_all(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let mut buffer = vec![0; 10];
    ring.submit(&receive_op(&server, &mut buffer, libc::MSG_WAITALL))?;
    for text in ["hel", "lo w", "orld"] {
        a_moment();
        r.note("came early", ring.taken().is_some());
        r.send("send", &client, text.as_bytes(), 0);
    }
    note(r, "recv", ring.next()?);
    r.note("bytes", trace::bytes(&buffer));
    r.recv("rest", &server, 10, 0);
    Ok(())
}

fn receive_poll_first(r: &Run) -> Result<()> {
    const POLL_FIRST: u16 = 1;
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let mut buffer = vec![0; 100];
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    let operation = opcode::Recv::new(fd(&server), buffer.as_mut_ptr(), 100).ioprio(POLL_FIRST);
    let done = ring.run(&operation.build())?;
    note(r, "recv", Some(done));
    Ok(())
}

fn receive_peek(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    receive(r, &mut ring, &server, 3, libc::MSG_PEEK)?;
    receive(r, &mut ring, &server, 10, 0)
}

fn receive_at_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    r.send("send", &client, b"hello", 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("poll", &server, libc::POLLRDHUP);
    for _ in 0..3 {
        receive(r, &mut ring, &server, 10, 0)?;
    }
    Ok(())
}

fn receive_after_reset(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let mut buffer = vec![0; 10];
    ring.submit(&receive_op(&server, &mut buffer, 0))?;
    a_moment();
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO))?;
    drop(client);
    note(r, "recv", ring.next()?);
    receive(r, &mut ring, &server, 10, 0)
}

fn receive_cancelled(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let mut buffer = vec![0; 10];
    ring.submit(&receive_op(&server, &mut buffer, 0))?;
    a_moment();
    ring.submit(&opcode::AsyncCancel::new(2).build().user_data(3))?;
    let mut words = Vec::new();
    for _ in 0..2 {
        let done = ring.next()?.context("no completion")?;
        words.push(format!("{}: {}", done.user_data, done.words()));
    }
    words.sort();
    r.note("completions", words.join(", "));
    r.send("send", &client, b"not lost", 0);
    r.take("take", &server, 8);
    Ok(())
}

const GROUP: u16 = 7;

/// Gives the kernel `count` buffers of `size` bytes, one behind another; they have to live as long as the ring.
fn provide(ring: &mut Ring, memory: &mut [u8], size: usize) -> Result<()> {
    let count = (memory.len() / size) as u16;
    let start = memory.as_mut_ptr();
    let operation = opcode::ProvideBuffers::new(start, size as i32, count, GROUP, 0);
    let done = ring.run(&operation.build())?;
    anyhow::ensure!(
        done.result >= 0,
        "failed to provide buffers: {}",
        done.words()
    );
    Ok(())
}

/// Takes completions of a multishot receive until `want` bytes came or it ended; notes the bytes, and how it ended if it did.
fn shots(r: &Run, ring: &mut Ring, memory: &[u8], size: usize, want: usize) -> Result<bool> {
    let mut all = Vec::new();
    let more = loop {
        let Some(done) = ring.next()? else {
            r.note("stalled after", trace::bytes(&all));
            return Ok(false);
        };
        let count = usize::try_from(done.result).unwrap_or(0);
        if let Some(id) = cqueue::buffer_select(done.flags) {
            let start = usize::from(id) * size;
            all.extend_from_slice(&memory[start..start + count]);
        }
        if !cqueue::more(done.flags) {
            r.note("last", done.words());
            break false;
        }
        if all.len() >= want {
            break true;
        }
    };
    r.note("shots", trace::bytes(&all));
    Ok(more)
}

fn multishot(r: &Run) -> Result<()> {
    const SIZE: usize = 64;
    let Pair { client, server } = r.warm()?;
    let mut memory = vec![0; 16 * SIZE];
    let mut ring = Ring::new()?;
    provide(&mut ring, &mut memory, SIZE)?;
    ring.submit(&opcode::RecvMulti::new(fd(&server), GROUP).build())?;
    for text in ["first", "second", "third"] {
        r.send("send", &client, text.as_bytes(), 0);
        r.note("goes on", shots(r, &mut ring, &memory, SIZE, text.len())?);
    }
    r.send("send", &client, &DATA.bytes(0, 500), 0);
    r.note("goes on", shots(r, &mut ring, &memory, SIZE, 500)?);
    Ok(())
}

fn multishot_ended_by_peer(r: &Run) -> Result<()> {
    const SIZE: usize = 64;
    let Pair { client, server } = r.warm()?;
    let mut memory = vec![0; 16 * SIZE];
    let mut ring = Ring::new()?;
    provide(&mut ring, &mut memory, SIZE)?;
    ring.submit(&opcode::RecvMulti::new(fd(&server), GROUP).build())?;
    r.send("send", &client, b"last", 0);
    client.shutdown(Shutdown::Write)?;
    r.note("goes on", shots(r, &mut ring, &memory, SIZE, 1000)?);
    Ok(())
}

fn multishot_without_buffers(r: &Run) -> Result<()> {
    const SIZE: usize = 64;
    let Pair { client, server } = r.warm()?;
    let mut memory = vec![0; 2 * SIZE];
    let mut ring = Ring::new()?;
    provide(&mut ring, &mut memory, SIZE)?;
    r.send("send", &client, &DATA.bytes(0, 4 * SIZE), 0);
    r.arrived(&server, 4 * SIZE);
    ring.submit(&opcode::RecvMulti::new(fd(&server), GROUP).build())?;
    r.note("goes on", shots(r, &mut ring, &memory, SIZE, 4 * SIZE)?);
    r.recv("rest", &server, 1000, 0);
    Ok(())
}

/// One completion fills several buffers.
fn bundle(r: &Run) -> Result<()> {
    const SIZE: usize = 64;
    let Pair { client, server } = r.warm()?;
    let mut memory = vec![0; 16 * SIZE];
    let mut ring = Ring::new()?;
    provide(&mut ring, &mut memory, SIZE)?;
    r.send("send", &client, &DATA.bytes(0, 300), 0);
    r.arrived(&server, 300);
    let operation = opcode::RecvBundle::new(fd(&server), GROUP).build();
    let mut got = 0;
    while got < 300 {
        let done = ring.run(&operation)?;
        match usize::try_from(done.result) {
            Ok(count @ 1..) => got += count,
            _ => {
                r.note("bundle", done.words());
                break;
            }
        }
    }
    r.note("bytes", trace::bytes(&memory[..got]));
    Ok(())
}

fn send_all_that_waits(r: &Run) -> Result<()> {
    const LENGTH: usize = 8 << 20;
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let bytes = DATA.bytes(0, LENGTH);
    let operation = opcode::Send::new(fd(&client), bytes.as_ptr(), LENGTH as u32);
    ring.submit(&operation.flags(libc::MSG_WAITALL).build())?;
    let reader = std::thread::spawn(move || DATA.read(&server, 0, LENGTH).is_ok());
    note(r, "send", ring.next()?);
    r.note("all arrive", reader.join().expect("reader panicked"));
    Ok(())
}

fn send_zero_copy(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let bytes = DATA.bytes(0, 5000);
    for _ in 0..2 {
        let operation = opcode::SendZc::new(fd(&client), bytes.as_ptr(), 5000);
        note(r, "send", Some(ring.run(&operation.build())?));
        r.take("take", &server, 5000);
        let done = ring.next()?;
        let notified = done.map(|done| (done.words(), cqueue::notif(done.flags)));
        r.note("notification", format_args!("{notified:?}"));
    }
    Ok(())
}

fn send_after_shutdown(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    crate::signals::count_from_now(libc::SIGPIPE)?;
    r.send("send", &client, b"hello", 0);
    client.shutdown(Shutdown::Write)?;
    send(r, &mut ring, &client, b"late")?;
    r.signals("SIGPIPE", libc::SIGPIPE);
    r.end("end", &server);
    Ok(())
}

fn vectors(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let texts = [b"hello", b"world"];
    let parts = texts.map(|text| libc::iovec {
        iov_base: text.as_ptr().cast_mut().cast(),
        iov_len: 5,
    });
    let write = opcode::Writev::new(fd(&client), parts.as_ptr(), 2).build();
    note(r, "writev", Some(ring.run(&write)?));
    r.arrived(&server, 10);
    let mut buffer = [0; 10];
    let start = buffer.as_mut_ptr();
    let parts = [0, 3].map(|at: usize| libc::iovec {
        iov_base: start.wrapping_add(at).cast(),
        iov_len: if at == 0 { 3 } else { 7 },
    });
    let read = opcode::Readv::new(fd(&server), parts.as_ptr(), 2).build();
    note(r, "readv", Some(ring.run(&read)?));
    r.note("bytes", trace::bytes(&buffer));
    Ok(())
}

fn poll_once(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
    ring.submit(&opcode::PollAdd::new(fd(&server), events).build())?;
    a_moment();
    r.note("came early", ring.taken().is_some());
    r.send("send", &client, b"hello", 0);
    let events = ring.next()?.map(|done| trace::events(done.result));
    r.note("events", format_args!("{events:?}"));
    Ok(())
}

fn poll_multishot(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let operation = opcode::PollAdd::new(fd(&server), libc::POLLIN as u32).multi(true);
    ring.submit(&operation.build())?;
    for text in ["first", "again"] {
        r.send("send", &client, text.as_bytes(), 0);
        let events = ring.next()?.map(|done| trace::events(done.result));
        r.note("events", format_args!("{events:?}"));
        r.take("take", &server, 5);
        a_moment();
        while ring.taken().is_some() {}
    }
    Ok(())
}

fn splice_from_socket(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    let (out, into) = nix::unistd::pipe()?;
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    let operation = opcode::Splice::new(fd(&server), -1, Fd(into.as_raw_fd()), -1, 100);
    note(r, "splice", Some(ring.run(&operation.build())?));
    let mut buffer = [0; 10];
    let count = nix::unistd::read(&out, &mut buffer);
    r.result("pipe", count.map(|count| trace::bytes(&buffer[..count])));
    Ok(())
}

fn shutdown_and_close(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut ring = Ring::new()?;
    r.send("send", &client, b"hello", 0);
    let operation = opcode::Shutdown::new(fd(&client), libc::SHUT_WR).build();
    note(r, "shutdown", Some(ring.run(&operation)?));
    r.end("end", &server);
    let descriptor = std::os::fd::IntoRawFd::into_raw_fd(server);
    let operation = opcode::Close::new(Fd(descriptor)).build();
    note(r, "close", Some(ring.run(&operation)?));
    r.poll_until("poll", &client, libc::POLLHUP);
    r.recv("end", &client, 10, 0);
    Ok(())
}
