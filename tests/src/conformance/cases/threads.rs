// SPDX-License-Identifier: GPL-2.0-only
//! Several threads on one socket, and writers that are ahead of their readers.

use std::collections::BTreeSet;
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::Result;
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_WAITALL};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::sys;

use crate::case::{Case, case};
use crate::observe::{DATA, drain, fill};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(messages_are_not_torn),
    case!(messages_of_vectors_are_not_torn),
    case!(several_readers_share_the_stream),
    case!(one_byte_wakes_one_reader),
    case!(shutdown_wakes_all_readers).lanes(),
    case!(reader_and_peeker),
    case!(reader_while_another_shuts_down).lanes(),
    case!(close_under_a_blocked_reader),
    case!(both_threads_both_ways),
    case!(nonblocking_beside_a_blocked_sender).slow(),
    case!(much_before_anybody_reads),
    case!(much_before_anybody_reads_on_both_sides),
    case!(a_megabyte_without_waiting).slow(),
    case!(slow_reader),
    case!(byte_by_byte_reader),
    case!(large_receive_buffer),
    case!(small_receive_buffer),
];

/// Two threads send messages whose bytes name them; whether each message came whole, and all of them. All together they fit in any
/// buffer: a TCP sender that has to wait for memory lets the other one in.
fn torn(r: &Run, send: fn(&TcpStream, &[u8]) -> std::io::Result<usize>) -> Result<()> {
    const SIZE: usize = 2000;
    const COUNT: usize = 10;
    let Pair { client, server } = r.warm()?;
    let writers: Vec<_> = [b'a', b'b']
        .into_iter()
        .map(|name| {
            let copy = client.try_clone();
            thread::spawn(move || {
                let copy = copy?;
                (0..COUNT).try_for_each(|_| match send(&copy, &[name; SIZE])? {
                    SIZE => Ok(()),
                    _ => Err(std::io::Error::from_raw_os_error(libc::EMSGSIZE)),
                })
            })
        })
        .collect();
    let (mut whole, mut buffer) = (0, vec![0; SIZE]);
    for _ in 0..2 * COUNT {
        sys::recv(&server, &mut buffer, MSG_WAITALL)?;
        whole += usize::from(buffer.iter().all(|byte| *byte == buffer[0]));
    }
    for writer in writers {
        r.done("writer", writer.join().expect("writer panicked"));
    }
    r.note("whole messages", whole);
    Ok(())
}

fn messages_are_not_torn(r: &Run) -> Result<()> {
    torn(r, |socket, bytes| sys::send(socket, bytes, 0))
}

fn messages_of_vectors_are_not_torn(r: &Run) -> Result<()> {
    torn(r, |socket, bytes| {
        let (one, other) = bytes.split_at(bytes.len() / 3);
        crate::calls::sendmsg(socket, &[one, other], &[], 0)
    })
}

fn several_readers_share_the_stream(r: &Run) -> Result<()> {
    const SIZE: usize = 500;
    const COUNT: usize = 60;
    let Pair { client, server } = r.warm()?;
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let copy = server.try_clone();
            thread::spawn(move || -> std::io::Result<usize> {
                let (copy, mut total, mut buffer) = (copy?, 0, vec![0; SIZE]);
                loop {
                    match sys::recv(&copy, &mut buffer, 0)? {
                        0 => return Ok(total),
                        count => total += count,
                    }
                }
            })
        })
        .collect();
    for at in 0..COUNT {
        DATA.write(&client, at as u64, SIZE)?;
    }
    client.shutdown(Shutdown::Write)?;
    let mut total = 0;
    for reader in readers {
        total += reader.join().expect("reader panicked")?;
    }
    r.note("bytes", total);
    Ok(())
}

/// A thread that receives once.
fn reader(socket: &TcpStream, flags: i32) -> Result<Asleep<String>> {
    let copy = socket.try_clone()?;
    Asleep::start(move || {
        let mut buffer = vec![0; 100];
        let count = sys::recv(&copy, &mut buffer, flags);
        trace::outcome(count.map(|count| trace::bytes(&buffer[..count])))
    })
}

fn one_byte_wakes_one_reader(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let readers = [reader(&server, 0)?, reader(&server, 0)?];
    r.send("send", &client, b"1", 0);
    crate::observe::soon(|| readers.iter().any(Asleep::finished));
    crate::observe::a_moment();
    r.note(
        "back",
        readers.iter().filter(|reader| reader.finished()).count(),
    );
    r.send("send", &client, b"2", 0);
    let got: BTreeSet<String> = readers.into_iter().map(Asleep::join).collect();
    r.note("both", format_args!("{got:?}"));
    Ok(())
}

fn shutdown_wakes_all_readers(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let readers = [
        reader(&server, 0)?,
        reader(&server, 0)?,
        reader(&server, 0)?,
    ];
    client.shutdown(Shutdown::Write)?;
    for reader in readers {
        r.note("recv", reader.join());
    }
    Ok(())
}

fn reader_and_peeker(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let peeker = reader(&server, libc::MSG_PEEK)?;
    r.send("send", &client, b"hello", 0);
    r.note("peek", peeker.join());
    let reader = reader(&server, 0)?;
    r.note("recv", reader.join());
    Ok(())
}

fn reader_while_another_shuts_down(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    let reader = reader(&server, 0)?;
    r.note("came back early", reader.finished());
    server.shutdown(Shutdown::Both)?;
    r.note("recv", reader.join());
    r.send("send", &server, b"x", 0);
    Ok(())
}

/// close(2) of the number under which a thread sleeps wakes nobody; bytes still do.
fn close_under_a_blocked_reader(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&server);
    let reader = Asleep::start(move || {
        let mut buffer = [0; 100];
        let count = sys::recv(&number, &mut buffer, 0);
        trace::outcome(count.map(|count| trace::bytes(&buffer[..count])))
    })?;
    drop(server);
    reader.settle()?;
    r.note("came back early", reader.finished());
    r.send("send", &client, b"hello", 0);
    r.note("recv", reader.join());
    r.end("end", &client);
    Ok(())
}

fn both_threads_both_ways(r: &Run) -> Result<()> {
    const LENGTH: usize = 500_000;
    let Pair { client, server } = r.warm()?;
    let mut threads = Vec::new();
    for (near, seed) in [(&client, 0), (&server, 9)] {
        let (writer, reader) = (near.try_clone()?, near.try_clone()?);
        threads.push(thread::spawn(move || {
            DATA.write(&writer, seed, LENGTH).is_ok()
        }));
        threads.push(thread::spawn(move || {
            DATA.read(&reader, 9 - seed, LENGTH).is_ok()
        }));
    }
    for thread in threads {
        r.note("right", thread.join().expect("thread panicked"));
    }
    Ok(())
}

fn nonblocking_beside_a_blocked_sender(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let sent = fill(&client);
    let copy = client.try_clone()?;
    let sender = Asleep::start(move || sys::send(&copy, b"waits", MSG_NOSIGNAL))?;
    r.send("not waiting", &client, b"x", MSG_DONTWAIT);
    r.note("all arrive", drain(&server, 0, sent));
    r.result("send", sender.join());
    r.take("take", &server, 5);
    Ok(())
}

fn much_before_anybody_reads(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    DATA.write(&client, 0, 150_000)?;
    r.note("written", 150_000);
    r.take("take", &server, 150_000);
    Ok(())
}

fn much_before_anybody_reads_on_both_sides(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    DATA.write(&client, 0, 150_000)?;
    DATA.write(&server, 5, 150_000)?;
    r.note("written", 150_000);
    r.take("server", &server, 150_000);
    r.take("client", &client, 150_000);
    Ok(())
}

fn a_megabyte_without_waiting(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let (one, other) = (fill(&client), fill(&server));
    r.note("some", one > 60_000 && other > 60_000);
    r.note("server", drain(&server, 0, one));
    r.note("client", drain(&client, 0, other));
    Ok(())
}

fn slow_reader(r: &Run) -> Result<()> {
    const LENGTH: usize = 300_000;
    let Pair { client, server } = r.warm()?;
    let sender = thread::spawn(move || DATA.write(&client, 0, LENGTH).map(|()| client));
    for _ in 0..10 {
        crate::observe::a_moment();
        r.take("take", &server, LENGTH / 10);
    }
    let _client = sender.join().expect("sender panicked")?;
    Ok(())
}

fn byte_by_byte_reader(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    DATA.write(&client, 0, 2000)?;
    let mut all = Vec::new();
    for _ in 0..2000 {
        let mut byte = [0];
        sys::recv(&server, &mut byte, 0)?;
        all.extend(byte);
    }
    r.note("bytes", trace::bytes(&all));
    Ok(())
}

/// The receive buffer is set before the connection is made, as programs do that mean it.
fn with_receive_buffer(r: &Run, size: i32) -> Result<()> {
    let listener = r.listen()?;
    r.set(
        "SO_RCVBUF",
        &listener,
        (libc::SOL_SOCKET, libc::SO_RCVBUF),
        size,
    );
    let Pair { client, server } = r.warm_from(&listener)?;
    r.option("SO_RCVBUF", &server, libc::SOL_SOCKET, libc::SO_RCVBUF);
    let sender = thread::spawn(move || DATA.write(&client, 0, 100_000).map(|()| client));
    r.take("take", &server, 100_000);
    let _client = sender.join().expect("sender panicked")?;
    Ok(())
}

fn large_receive_buffer(r: &Run) -> Result<()> {
    with_receive_buffer(r, 200_000)
}

fn small_receive_buffer(r: &Run) -> Result<()> {
    with_receive_buffer(r, 8000)
}
