// SPDX-License-Identifier: GPL-2.0-only
//! Plain receiving: how much, from where, into what.

use std::io::IoSliceMut;
use std::net::Shutdown;

use anyhow::Result;
use libc::{MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, MSG_TRUNC, MSG_WAITALL};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::sys::{self, Cliff};

use crate::calls;
use crate::case::{Case, case};
use crate::observe::DATA;
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(nothing_there).lanes(),
    case!(part_by_part),
    case!(several_sends_in_one),
    case!(more_than_a_ring),
    case!(blocked_until_bytes),
    case!(start_up_bytes_then_ring),
    case!(start_up_bytes_across_the_border),
    case!(wait_all),
    case!(wait_all_across_the_border),
    case!(wait_all_cut_by_the_end),
    case!(wait_all_does_not_wait),
    case!(truncated),
    case!(truncated_across_the_border),
    case!(zero_length),
    case!(into_many_small_buffers),
    case!(into_no_memory),
    case!(into_memory_that_ends),
    case!(into_memory_that_ends_within_the_border),
    case!(error_queue_is_empty),
    case!(no_urgent_byte),
    case!(many_messages),
    case!(many_messages_across_the_border),
    case!(from_gives_no_address),
    case!(after_a_leave_and_back),
];

fn nothing_there(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.recv("client, not waiting", &client, 10, MSG_DONTWAIT);
    r.recv("server, not waiting", &server, 10, MSG_DONTWAIT);
    server.set_nonblocking(true)?;
    r.recv("server, O_NONBLOCK", &server, 10, 0);
    r.recv("server, O_NONBLOCK, all", &server, 10, MSG_WAITALL);
    r.readable("FIONREAD", &server);
    Ok(())
}

fn part_by_part(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"the quick brown fox jumps", 0);
    r.arrived(&server, 25);
    for length in [1, 3, 6, 100, 100] {
        r.recv(&format!("recv {length}"), &server, length, MSG_DONTWAIT);
    }
    Ok(())
}

fn several_sends_in_one(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for word in ["one ", "two ", "three ", "four"] {
        r.send("send", &client, word.as_bytes(), 0);
    }
    r.arrived(&server, 18);
    r.recv("recv", &server, 100, 0);
    for size in [1, 100, 5000, 9000] {
        r.send("send", &server, &DATA.bytes(size, size as usize), 0);
    }
    r.arrived(&client, 14_101);
    r.recv("recv", &client, 20_000, 0);
    Ok(())
}

fn more_than_a_ring(r: &Run) -> Result<()> {
    const LENGTH: usize = 700_000;
    let Pair { client, server } = r.warm()?;
    let sender = std::thread::spawn(move || DATA.write(&client, 0, LENGTH).map(|()| client));
    r.take("take", &server, LENGTH);
    let _client = sender.join().expect("sender panicked")?;
    r.recv("then", &server, 1, MSG_DONTWAIT);
    Ok(())
}

fn blocked_until_bytes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for text in ["first", "second", "third"] {
        let copy = server.try_clone()?;
        let reader = Asleep::start(move || {
            let mut buffer = vec![0; 100];
            let count = sys::recv(&copy, &mut buffer, 0)?;
            std::io::Result::Ok(trace::bytes(&buffer[..count]))
        })?;
        r.note("came back early", reader.finished());
        r.send("send", &client, text.as_bytes(), 0);
        r.result("recv", reader.join());
    }
    Ok(())
}

fn start_up_bytes_then_ring(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    r.readable("FIONREAD", &server);
    r.recv("first part", &server, 9, 0);
    r.readable("FIONREAD", &server);
    r.recv("second part", &server, 100, 0);
    Ok(())
}

fn start_up_bytes_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    r.recv("in the middle", &server, 4, 0);
    r.recv("all the rest at once", &server, 100, 0);
    r.recv("nothing", &server, 100, MSG_DONTWAIT);
    Ok(())
}

fn wait_all(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, &DATA.bytes(0, 300), 0);
    let copy = server.try_clone()?;
    let reader = Asleep::start(move || {
        let mut buffer = vec![0; 1000];
        let count = sys::recv(&copy, &mut buffer, MSG_WAITALL)?;
        std::io::Result::Ok(trace::bytes(&buffer[..count]))
    })?;
    r.note("came back early", reader.finished());
    r.send("send", &client, &DATA.bytes(300, 300), 0);
    reader.settle()?;
    r.note("came back early", reader.finished());
    r.send("send", &client, &DATA.bytes(600, 600), 0);
    r.result("recv", reader.join());
    r.recv("rest", &server, 1000, 0);
    Ok(())
}

fn wait_all_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    let reader = Asleep::start(move || {
        let mut buffer = vec![0; 25];
        let count = sys::recv(&server, &mut buffer, MSG_WAITALL)?;
        std::io::Result::Ok(trace::bytes(&buffer[..count]))
    })?;
    r.note("came back early", reader.finished());
    r.send("send", &client, b"through ", 0);
    reader.settle()?;
    r.note("came back early", reader.finished());
    r.send("send", &client, b"the ring", 0);
    r.result("recv", reader.join());
    Ok(())
}

fn wait_all_cut_by_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"not enough", 0);
    client.shutdown(Shutdown::Write)?;
    r.recv("all of 100", &server, 100, MSG_WAITALL);
    r.recv("again", &server, 100, MSG_WAITALL);
    Ok(())
}

fn wait_all_does_not_wait(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"not enough", 0);
    r.arrived(&server, 10);
    r.recv("all of 100", &server, 100, MSG_WAITALL | MSG_DONTWAIT);
    r.recv("again", &server, 100, MSG_WAITALL | MSG_DONTWAIT);
    Ok(())
}

fn truncated(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"thrown away, kept, thrown away", 0);
    r.arrived(&server, 30);
    r.result("discard 13", sys::discard(&server, 13, 0));
    r.recv("recv 4", &server, 4, 0);
    r.recvmsg("recvmsg with a buffer", &server, 3, MSG_TRUNC);
    r.result("discard 100", sys::discard(&server, 100, 0));
    r.result("discard 100", sys::discard(&server, 100, MSG_DONTWAIT));
    r.readable("FIONREAD", &server);
    Ok(())
}

fn truncated_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    r.result("discard 17", sys::discard(&server, 17, 0));
    r.recv("rest", &server, 100, 0);
    Ok(())
}

fn zero_length(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send nothing", &client, b"", 0);
    r.recv("recv nothing, nothing there", &server, 0, MSG_DONTWAIT);
    r.result(
        "read nothing, nothing there",
        nix::unistd::read(&server, &mut []),
    );
    r.send("send", &client, b"x", 0);
    r.arrived(&server, 1);
    r.recv("recv nothing", &server, 0, 0);
    r.recv("recv nothing, all", &server, 0, MSG_WAITALL);
    r.result(
        "recvmsg nothing",
        calls::recvmsg(&server, &mut [], 0).map(|m| m.count),
    );
    r.recv("recv", &server, 10, 0);
    client.shutdown(Shutdown::Write)?;
    r.poll_until("poll", &server, libc::POLLRDHUP);
    r.recv("recv nothing at the end", &server, 0, 0);
    r.send("send nothing after shutdown", &client, b"", 0);
    Ok(())
}

fn into_many_small_buffers(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, &DATA.bytes(0, 3000), 0);
    r.arrived(&server, 3000);
    let mut buffer = vec![0; 3000];
    let mut parts: Vec<IoSliceMut> = buffer.chunks_mut(3).map(IoSliceMut::new).collect();
    let count = nix::sys::uio::readv(&server, &mut parts);
    drop(parts);
    r.result("readv of 1000 parts", count);
    r.note("bytes", trace::bytes(&buffer));
    r.send("send", &client, b"abcdefghij", 0);
    r.arrived(&server, 10);
    let (mut a, mut b, mut c) = ([0; 3], [0; 0], [0; 100]);
    let message = calls::recvmsg(&server, &mut [&mut a, &mut b, &mut c], 0)?;
    r.note("count", message.count);
    r.note("parts", format_args!("{:?} {:?}", a, &c[..7]));
    Ok(())
}

fn into_no_memory(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.result("nothing there", sys::recv_nowhere(&server, 10));
    r.send("send", &client, b"not lost", 0);
    r.arrived(&server, 8);
    r.result("to nowhere", sys::recv_nowhere(&server, 5));
    r.result("to nowhere, more", sys::recv_nowhere(&server, 100_000));
    r.readable("FIONREAD", &server);
    r.recv("recv", &server, 100, 0);
    Ok(())
}

fn into_memory_that_ends(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let mut cliff = Cliff::new(8192)?;
    r.send("send", &client, &DATA.bytes(0, 3000), 0);
    r.arrived(&server, 3000);
    r.result("room for 100 of 500", cliff.recv(&server, 100, 500));
    r.readable("FIONREAD", &server);
    let left = sys::readable_bytes(&server)?;
    r.take("all that is left", &server, left);
    Ok(())
}

fn into_memory_that_ends_within_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    let mut cliff = Cliff::new(8192)?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    // The first 9, or EFAULT where TCP merged both sends into one packet: in any case the rest begins where the call ended.
    let got = cliff.recv(&server, 9, 25).unwrap_or(0);
    r.note("no more than there was room for", got <= 9);
    let mut rest = [0; 100];
    let left = sys::recv(&server, &mut rest, 0)?;
    let all = b"over TCP through the ring";
    r.note("no byte is lost or doubled", rest[..left] == all[got..]);
    Ok(())
}

fn error_queue_is_empty(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.recv("nothing there", &server, 10, MSG_ERRQUEUE);
    r.send("send", &client, b"data", 0);
    r.arrived(&server, 4);
    r.recv("error queue", &server, 10, MSG_ERRQUEUE);
    r.recv("recv", &server, 10, 0);
    Ok(())
}

fn no_urgent_byte(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.recv("nothing there", &server, 1, MSG_OOB);
    r.send("send", &client, b"data", 0);
    r.arrived(&server, 4);
    r.recv("urgent", &server, 1, MSG_OOB);
    r.recv("urgent, not waiting", &server, 1, MSG_OOB | MSG_DONTWAIT);
    r.recv("recv", &server, 10, 0);
    Ok(())
}

fn many_messages(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let sent = calls::sendmmsg(&client, &[b"first ", b"second ", b"third"], 0)?;
    r.note("sendmmsg", format_args!("{sent:?}"));
    r.arrived(&server, 18);
    let mut buffers = vec![vec![0; 5]; 6];
    let got = calls::recvmmsg(&server, &mut buffers, MSG_DONTWAIT)?;
    r.note("recvmmsg", format_args!("{got:?}"));
    r.note("bytes", trace::bytes(&buffers.concat()));
    let none = calls::recvmmsg(&server, &mut buffers, MSG_DONTWAIT);
    r.result("again", none.map(|got| got.len()));
    Ok(())
}

fn many_messages_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"through the ring", 0);
    r.arrived(&server, 25);
    let mut buffers = vec![vec![0; 6]; 5];
    let got = calls::recvmmsg(&server, &mut buffers, MSG_DONTWAIT)?;
    r.note("recvmmsg", format_args!("{got:?}"));
    r.note("bytes", trace::bytes(&buffers.concat()[..25]));
    Ok(())
}

fn from_gives_no_address(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    let mut buffer = [0; 10];
    let from = nix::sys::socket::recvfrom::<nix::sys::socket::SockaddrStorage>(
        std::os::fd::AsRawFd::as_raw_fd(&server),
        &mut buffer,
    );
    let words = from.map(|(count, address)| format!("{count}, address {}", address.is_some()));
    r.result("recvfrom", words);
    Ok(())
}

fn after_a_leave_and_back(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    for round in 0..4 {
        r.send("send", &client, format!("ring {round}, ").as_bytes(), 0);
        r.result("stamped", sys::send_with_timestamp(&client, b"TCP, "));
        r.send("send", &client, b"either", 0);
        r.arrived(&server, 19);
        r.recv("recv", &server, 100, 0);
    }
    Ok(())
}
