// SPDX-License-Identifier: GPL-2.0-only
//! What comes beside the bytes: TCP_INQ, time stamps, zero-copy completions, the error queue.

use std::net::TcpStream;

use anyhow::Result;
use libc::{
    IPPROTO_TCP, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_ZEROCOPY, POLLERR, SO_TIMESTAMP, SO_TIMESTAMPING,
    SO_TIMESTAMPNS, SO_ZEROCOPY, SOL_SOCKET, TCP_INQ,
};
use tcp_splice_world::sys;

use crate::calls::{self, Message};
use crate::case::{Case, case};
use crate::observe::{DATA, a_moment, soon};
use crate::run::{Pair, Run};

pub const ALL: &[Case] = &[
    case!(inq),
    case!(inq_across_the_border),
    case!(inq_at_the_end),
    case!(inq_with_receive_time),
    case!(inq_beside_time_stamping),
    case!(inq_not_asked_for),
    case!(receive_time),
    case!(receive_time_in_nanoseconds),
    case!(receive_time_by_time_stamping),
    case!(receive_time_across_the_border),
    case!(receive_time_option_alone).lanes(),
    case!(transmit_time),
    case!(transmit_time_for_all_sends),
    case!(transmit_time_of_acknowledgement),
    case!(zero_copy).lanes(),
    case!(zero_copy_without_option),
    case!(zero_copy_of_nothing).lanes(),
    case!(zero_copy_several).lanes(),
    case!(zero_copy_between_others),
    case!(zero_copy_polled).lanes(),
    case!(zero_copy_large).lanes(),
];

/// The control messages' levels, types and lengths.
fn kinds(message: &Message) -> String {
    let word = |control: &calls::Control| {
        format!("{}/{}:{}", control.level, control.kind, control.data.len())
    };
    let words: Vec<String> = message.controls.iter().map(word).collect();
    if words.is_empty() {
        return "none".to_owned();
    }
    words.join(" ")
}

/// recvmsg(2), and the control messages without their values.
fn receive(r: &Run, socket: &TcpStream, length: usize) {
    if let Some(message) = r.recvmsg("recvmsg", socket, length, MSG_DONTWAIT) {
        r.note("control messages", kinds(&message));
    }
}

/// recvmsg(2), and what TCP_INQ says is left.
fn receive_inq(r: &Run, socket: &TcpStream, length: usize) {
    if let Some(message) = r.recvmsg("recvmsg", socket, length, MSG_DONTWAIT) {
        let left = message.control(IPPROTO_TCP, TCP_INQ);
        r.note(
            "left",
            format_args!("{:?}", left.and_then(calls::Control::number)),
        );
    }
}

fn inq(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("inq", &server, (IPPROTO_TCP, TCP_INQ), 1);
    r.option("inq", &server, IPPROTO_TCP, TCP_INQ);
    r.send("send", &client, &DATA.bytes(0, 5000), 0);
    r.arrived(&server, 5000);
    for length in [1, 999, 3000, 1000] {
        receive_inq(r, &server, length);
    }
    Ok(())
}

fn inq_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.set("inq", &server, (IPPROTO_TCP, TCP_INQ), 1);
    r.send("send", &client, b"through the ring, ", 0);
    r.result("stamped", sys::send_with_timestamp(&client, b"TCP again"));
    r.arrived(&server, 36);
    for length in [4, 8, 10, 8, 6] {
        receive_inq(r, &server, length);
    }
    Ok(())
}

fn inq_at_the_end(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("inq", &server, (IPPROTO_TCP, TCP_INQ), 1);
    r.send("send", &client, b"hello", 0);
    client.shutdown(std::net::Shutdown::Write)?;
    r.poll_until("poll", &server, libc::POLLRDHUP);
    for length in [2, 10, 10] {
        receive_inq(r, &server, length);
    }
    Ok(())
}

/// Both options share the control buffer: of ring bytes, of TCP's, and of both in one call.
fn inq_with_receive_time(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.set("inq", &server, (IPPROTO_TCP, TCP_INQ), 1);
    r.send("send", &client, b"through the ring, ", 0);
    r.set("option", &server, (SOL_SOCKET, SO_TIMESTAMP), 1);
    r.send("send", &client, b"TCP again", 0);
    r.arrived(&server, 36);
    for length in [4, 8, 10, 8, 6] {
        receive_inq(r, &server, length);
    }
    Ok(())
}

fn inq_not_asked_for(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    receive(r, &server, 10);
    Ok(())
}

/// Waits until the kernel stamps packets, which it begins in the background when somebody asks for the first time.
fn stamping() {
    for _ in 0..5 {
        a_moment();
    }
}

fn received_with(r: &Run, name: i32, value: i32) -> Result<()> {
    received_by(r, &r.warm()?, name, value)
}

fn received_by(r: &Run, pair: &Pair, name: i32, value: i32) -> Result<()> {
    let Pair { client, server } = pair;
    r.send("send", client, b"before", 0);
    r.arrived(server, 6);
    receive(r, server, 10);
    r.set("option", server, (SOL_SOCKET, name), value);
    stamping();
    for text in ["hello", "again"] {
        r.send("send", client, text.as_bytes(), 0);
        r.arrived(server, 5);
        receive(r, server, 3);
        receive(r, server, 10);
    }
    Ok(())
}

fn receive_time(r: &Run) -> Result<()> {
    received_with(r, SO_TIMESTAMP, 1)
}

fn receive_time_in_nanoseconds(r: &Run) -> Result<()> {
    received_with(r, SO_TIMESTAMPNS, 1)
}

fn receive_time_by_time_stamping(r: &Run) -> Result<()> {
    let flags = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    received_with(r, SO_TIMESTAMPING, flags as i32)
}

/// SO_TIMESTAMPING sets no flag of the socket, but tells its times in the control buffer as well.
fn inq_beside_time_stamping(r: &Run) -> Result<()> {
    let pair = r.warm()?;
    let flags = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;
    r.set("inq", &pair.server, (IPPROTO_TCP, TCP_INQ), 1);
    received_by(r, &pair, SO_TIMESTAMPING, flags as i32)
}

fn receive_time_across_the_border(r: &Run) -> Result<()> {
    let Pair { client, server } = r.half(b"over TCP ")?;
    r.send("send", &client, b"ring ", 0);
    r.arrived(&server, 14);
    r.set("option", &server, (SOL_SOCKET, SO_TIMESTAMP), 1);
    stamping();
    r.send("send", &client, b"TCP again", 0);
    r.arrived(&server, 23);
    // The first bytes came before anybody asked, so whether they have a time is chance.
    r.take("take", &server, 14);
    receive(r, &server, 10);
    Ok(())
}

fn receive_time_option_alone(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    for name in [SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING] {
        r.set("set", &server, (SOL_SOCKET, name), 1);
        for other in [SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING] {
            r.option("get", &server, SOL_SOCKET, other);
        }
    }
    Ok(())
}

/// Takes `count` messages from the error queue: their control messages, and of the extended error all that is no time or address.
fn error_queue(r: &Run, socket: &TcpStream, count: usize) {
    for _ in 0..count {
        soon(|| calls::poll(socket, 0, 0).is_ok_and(|events| events & POLLERR != 0));
        let Some(message) = r.recvmsg("error queue", socket, 100, MSG_ERRQUEUE) else {
            return;
        };
        r.note("control messages", kinds(&message));
        let levels = [
            (libc::SOL_IP, libc::IP_RECVERR),
            (libc::SOL_IPV6, libc::IPV6_RECVERR),
        ];
        let error = levels
            .iter()
            .find_map(|(level, kind)| message.control(*level, *kind));
        if let Some(error) = error {
            r.note("extended error", format_args!("{:?}", &error.data[..16]));
        }
    }
}

const SIOCOUTQ: libc::Ioctl = 0x5411;
const REPORT: u32 = libc::SOF_TIMESTAMPING_SOFTWARE
    | libc::SOF_TIMESTAMPING_OPT_TSONLY
    | libc::SOF_TIMESTAMPING_OPT_ID;

/// A connection on which all is acknowledged, from where SOF_TIMESTAMPING_OPT_ID begins to count.
fn counted_from_here(r: &Run) -> Result<Pair> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.take("take", &server, 6);
    // The numbers count from the first byte that is not acknowledged.
    soon(|| calls::ioctl(&client, SIOCOUTQ).is_ok_and(|count| count == 0));
    Ok(Pair { client, server })
}

fn transmit_time(r: &Run) -> Result<()> {
    let Pair { client, server } = counted_from_here(r)?;
    r.set(
        "report",
        &client,
        (SOL_SOCKET, SO_TIMESTAMPING),
        REPORT as i32,
    );
    r.send("send", &client, b"before", 0);
    r.result("stamped", sys::send_with_timestamp(&client, b"stamped"));
    r.take("take", &server, 13);
    error_queue(r, &client, 1);
    r.recvmsg("error queue", &client, 100, MSG_ERRQUEUE);
    Ok(())
}

fn transmit_time_for_all_sends(r: &Run) -> Result<()> {
    let Pair { client, server } = counted_from_here(r)?;
    let flags = REPORT | libc::SOF_TIMESTAMPING_TX_SOFTWARE;
    r.set(
        "report",
        &client,
        (SOL_SOCKET, SO_TIMESTAMPING),
        flags as i32,
    );
    for _ in 0..3 {
        r.send("send", &client, b"hello", 0);
        r.take("take", &server, 5);
        error_queue(r, &client, 1);
    }
    Ok(())
}

fn transmit_time_of_acknowledgement(r: &Run) -> Result<()> {
    let Pair { client, server } = counted_from_here(r)?;
    let flags = REPORT | libc::SOF_TIMESTAMPING_TX_ACK;
    r.set(
        "report",
        &client,
        (SOL_SOCKET, SO_TIMESTAMPING),
        flags as i32,
    );
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    error_queue(r, &client, 1);
    Ok(())
}

fn zero_copy(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("SO_ZEROCOPY", &client, (SOL_SOCKET, SO_ZEROCOPY), 1);
    r.send("send", &client, &DATA.bytes(0, 5000), MSG_ZEROCOPY);
    r.take("take", &server, 5000);
    error_queue(r, &client, 1);
    r.poll("poll", &client);
    Ok(())
}

fn zero_copy_without_option(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"hello", MSG_ZEROCOPY);
    r.take("take", &server, 5);
    r.recvmsg("error queue", &client, 100, MSG_ERRQUEUE);
    Ok(())
}

fn zero_copy_of_nothing(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("SO_ZEROCOPY", &client, (SOL_SOCKET, SO_ZEROCOPY), 1);
    r.send("send nothing", &client, b"", MSG_ZEROCOPY);
    a_moment();
    r.recvmsg("error queue", &client, 100, MSG_ERRQUEUE);
    r.send("send", &client, b"hello", MSG_ZEROCOPY);
    r.take("take", &server, 5);
    error_queue(r, &client, 1);
    Ok(())
}

/// Completions that were not taken yet are joined, so the numbers are read as one range at the end.
fn zero_copy_several(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("SO_ZEROCOPY", &client, (SOL_SOCKET, SO_ZEROCOPY), 1);
    for position in [0, 3000, 6000] {
        r.send("send", &client, &DATA.bytes(position, 3000), MSG_ZEROCOPY);
        r.take("take", &server, 3000);
        error_queue(r, &client, 1);
    }
    Ok(())
}

fn zero_copy_between_others(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("SO_ZEROCOPY", &client, (SOL_SOCKET, SO_ZEROCOPY), 1);
    for _ in 0..3 {
        r.send("send", &client, b"before, ", 0);
        r.send("send", &client, b"pinned, ", MSG_ZEROCOPY);
        r.send("send", &client, b"after", 0);
        r.take("take", &server, 21);
        error_queue(r, &client, 1);
    }
    Ok(())
}

fn zero_copy_polled(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("SO_ZEROCOPY", &client, (SOL_SOCKET, SO_ZEROCOPY), 1);
    r.poll("before", &client);
    r.send("send", &client, b"hello", MSG_ZEROCOPY);
    r.take("take", &server, 5);
    r.poll_until("completion", &client, POLLERR);
    r.error("no error", &client);
    r.recv("nothing to read", &client, 10, MSG_DONTWAIT);
    error_queue(r, &client, 1);
    r.poll("after", &client);
    Ok(())
}

fn zero_copy_large(r: &Run) -> Result<()> {
    const LENGTH: usize = 300_000;
    let Pair { client, server } = r.warm()?;
    r.set("SO_ZEROCOPY", &client, (SOL_SOCKET, SO_ZEROCOPY), 1);
    let copy = client.try_clone()?;
    let sender = std::thread::spawn(move || sys::send(&copy, &DATA.bytes(0, LENGTH), MSG_ZEROCOPY));
    r.take("take", &server, LENGTH);
    r.result("send", sender.join().expect("sender panicked"));
    error_queue(r, &client, 1);
    Ok(())
}
