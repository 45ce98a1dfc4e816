// SPDX-License-Identifier: GPL-2.0-only
//! Others who want the socket: kTLS, sockmap, repair, filters, mmap, MD5, IPV6_ADDRFORM.

use std::net::{Shutdown, TcpStream};

use anyhow::Result;
use libc::{IPPROTO_TCP, SOL_SOCKET, SOL_TLS, TCP_ULP};
use socket2::SockRef;
use tcp_splice_world::sys;

use crate::calls::{self, Control};
use crate::case::{Case, case};
use crate::observe::{DATA, a_moment};
use crate::run::{Pair, Run};
use crate::trace;

pub const ALL: &[Case] = &[
    case!(tls_set_up).lanes(),
    case!(tls_of_the_next_connection),
    case!(tls_data).lanes(),
    case!(tls_data_both_ways).lanes(),
    case!(tls_large).lanes(),
    case!(tls_after_plain_bytes),
    case!(tls_on_a_cold_connection).lanes(),
    case!(tls_end).lanes(),
    case!(tls_twice).lanes(),
    case!(sockmap_insert)
        .lanes()
        .known(&[("insert: done", "insert: EOPNOTSUPP")]),
    case!(repair).lanes(),
    case!(repair_queues).lanes(),
    case!(filter_that_passes),
    case!(filter_that_drops).slow(),
    case!(filter_locked).lanes(),
    case!(md5_key).lanes(),
    case!(md5_keys_at_both_ends),
    case!(map_of_the_socket).lanes(),
    case!(zero_copy_receive_of_little),
    case!(zero_copy_receive).known(&[(
        "nothing mapped: EINVAL",
        "nothing mapped: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
    )]),
    case!(address_form).lanes(),
    case!(fast_open_options).lanes(),
    case!(bind_to_device).lanes(),
];

/// TLS_TX or TLS_RX with AES-GCM-128 of TLS 1.2 and a fixed key for each direction.
fn set_key(socket: &TcpStream, receive: bool, direction: u8) -> std::io::Result<()> {
    const TLS_TX: i32 = 1;
    const TLS_RX: i32 = 2;
    let mut info = Vec::new();
    info.extend(0x0303_u16.to_ne_bytes()); // version
    info.extend(51_u16.to_ne_bytes()); // TLS_CIPHER_AES_GCM_128
    info.extend([direction; 8]); // iv
    info.extend([direction ^ 0x55; 16]); // key
    info.extend([direction; 4]); // salt
    info.extend([0; 8]); // sequence number
    let name = if receive { TLS_RX } else { TLS_TX };
    calls::set_bytes(socket, SOL_TLS, name, &info)
}

fn set_ulp(r: &Run, what: &str, socket: &TcpStream) {
    r.done(what, calls::set_bytes(socket, IPPROTO_TCP, TCP_ULP, b"tls"));
}

/// Makes both ends kTLS ends.
fn tls(r: &Run, pair: &Pair) {
    for (name, socket, direction) in [("client", &pair.client, 1), ("server", &pair.server, 2)] {
        set_ulp(r, name, socket);
        r.done(name, set_key(socket, false, direction));
        r.done(name, set_key(socket, true, 3 - direction));
    }
}

fn tls_set_up(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    set_ulp(r, "tls", &client);
    let name = calls::get_bytes(&client, IPPROTO_TCP, TCP_ULP, 16);
    r.result("name", name.map(|name| trace::bytes(&name)));
    r.done("transmit key", set_key(&client, false, 1));
    r.done("receive key", set_key(&client, true, 2));
    Ok(())
}

/// A socket that was spliced once, and is not any more, is asked what its upper layer protocol is, and gets one.
fn tls_of_the_next_connection(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"spliced", 0);
    r.take("take", &server, 7);
    r.done("disconnect", sys::disconnect(&client));
    let listener = r.link.listen()?;
    let address = r.link.address(&listener)?;
    r.done("connect", SockRef::from(&client).connect(&address.into()));
    let (server, _) = listener.accept()?;
    let name = calls::get_bytes(&client, IPPROTO_TCP, TCP_ULP, 16);
    r.result("name", name.map(|name| trace::bytes(&name)));
    r.send("send", &client, b"plain", 0);
    r.take("take", &server, 5);
    let pair = Pair { client, server };
    tls(r, &pair);
    r.send("send", &pair.client, b"secret", 0);
    r.take("take", &pair.server, 6);
    Ok(())
}

fn tls_data(r: &Run) -> Result<()> {
    let pair = r.warm()?;
    tls(r, &pair);
    let Pair { client, server } = &pair;
    r.send("send", client, b"secret", 0);
    r.take("take", server, 6);
    r.poll("poll", server);
    Ok(())
}

fn tls_data_both_ways(r: &Run) -> Result<()> {
    let pair = r.warm()?;
    tls(r, &pair);
    let Pair { client, server } = &pair;
    for _ in 0..5 {
        r.send("client sends", client, b"question", 0);
        r.take("server", server, 8);
        r.send("server sends", server, b"answer", 0);
        r.take("client", client, 6);
    }
    Ok(())
}

fn tls_large(r: &Run) -> Result<()> {
    const LENGTH: usize = 300_000;
    let pair = r.warm()?;
    tls(r, &pair);
    let Pair { client, server } = pair;
    let sender = std::thread::spawn(move || DATA.write(&client, 0, LENGTH).map(|()| client));
    r.take("take", &server, LENGTH);
    let _client = sender.join().expect("sender panicked")?;
    Ok(())
}

/// As after a handshake in user space: bytes in both directions first, all read.
fn tls_after_plain_bytes(r: &Run) -> Result<()> {
    let pair = r.warm()?;
    DATA.write(&pair.client, 0, 3000)?;
    r.take("server", &pair.server, 3000);
    DATA.write(&pair.server, 0, 5000)?;
    r.take("client", &pair.client, 5000);
    tls(r, &pair);
    r.send("send", &pair.client, b"secret", 0);
    r.take("take", &pair.server, 6);
    Ok(())
}

fn tls_on_a_cold_connection(r: &Run) -> Result<()> {
    let first = r.warm()?;
    let pair = r.cold()?;
    tls(r, &pair);
    r.send("send", &pair.client, b"secret", 0);
    r.take("take", &pair.server, 6);
    drop(first);
    Ok(())
}

fn tls_end(r: &Run) -> Result<()> {
    let pair = r.warm()?;
    tls(r, &pair);
    let Pair { client, server } = pair;
    r.send("send", &client, b"last words", 0);
    client.shutdown(Shutdown::Write)?;
    r.end("end", &server);
    r.send("server sends", &server, b"answer", 0);
    drop(server);
    r.end("end", &client);
    Ok(())
}

fn tls_twice(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    set_ulp(r, "once", &client);
    set_ulp(r, "twice", &client);
    Ok(())
}

fn sockmap_insert(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let map = calls::sockmap()?;
    r.done("insert", calls::sockmap_insert(&map, &client));
    r.send("send", &server, b"hello", 0);
    r.take("take", &client, 5);
    r.send("send", &client, b"answer", 0);
    r.take("take", &server, 6);
    drop(map);
    r.send("send", &server, b"afterwards", 0);
    r.take("take", &client, 10);
    Ok(())
}

const REPAIR: (i32, i32) = (IPPROTO_TCP, libc::TCP_REPAIR);

fn repair(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.set("on", &client, REPAIR, 1);
    r.option("on", &client, IPPROTO_TCP, libc::TCP_REPAIR);
    r.set("off", &client, REPAIR, -1);
    r.option("off", &client, IPPROTO_TCP, libc::TCP_REPAIR);
    r.send("send", &client, b"goes on", 0);
    r.take("take", &server, 7);
    Ok(())
}

/// What a checkpoint program does: looks at the unread bytes through the queues.
fn repair_queues(r: &Run) -> Result<()> {
    const RECEIVE_QUEUE: i32 = 1;
    let Pair { client, server } = r.warm()?;
    r.send("send", &server, b"unread", 0);
    r.arrived(&client, 6);
    r.set("on", &client, REPAIR, 1);
    r.set(
        "queue",
        &client,
        (IPPROTO_TCP, libc::TCP_REPAIR_QUEUE),
        RECEIVE_QUEUE,
    );
    r.recv("peek", &client, 100, libc::MSG_PEEK | libc::MSG_DONTWAIT);
    r.set("off", &client, REPAIR, -1);
    r.recv("recv", &client, 100, libc::MSG_DONTWAIT);
    Ok(())
}

fn filter_that_passes(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.done("attach", calls::attach_filter(&server, u32::MAX));
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    r.set("detach", &server, (SOL_SOCKET, libc::SO_DETACH_FILTER), 0);
    r.set(
        "detach again",
        &server,
        (SOL_SOCKET, libc::SO_DETACH_FILTER),
        0,
    );
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    Ok(())
}

/// TCP delivers nothing while its socket's filter drops everything, and sends again what was dropped.
fn filter_that_drops(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before", 0);
    r.take("take", &server, 6);
    r.done("attach", calls::attach_filter(&server, 0));
    r.send("send", &client, b"dropped", 0);
    a_moment();
    r.recv("recv", &server, 100, libc::MSG_DONTWAIT);
    r.set("detach", &server, (SOL_SOCKET, libc::SO_DETACH_FILTER), 0);
    sys::set_timeout(&server, libc::SO_RCVTIMEO, 3000)?;
    r.take("sent again", &server, 7);
    Ok(())
}

fn filter_locked(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.done("attach", calls::attach_filter(&server, u32::MAX));
    r.set("lock", &server, (SOL_SOCKET, libc::SO_LOCK_FILTER), 1);
    r.set("detach", &server, (SOL_SOCKET, libc::SO_DETACH_FILTER), 0);
    r.done("attach", calls::attach_filter(&server, u32::MAX));
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    Ok(())
}

fn md5_key(r: &Run) -> Result<()> {
    const LENGTH: usize = 216;
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    let mut key = vec![0; LENGTH];
    // No address: refused, but by whom?
    r.done(
        "no address",
        calls::set_bytes(&client, IPPROTO_TCP, libc::TCP_MD5SIG, &key),
    );
    r.done(
        "too short",
        calls::set_bytes(&client, IPPROTO_TCP, libc::TCP_MD5SIG, &key[..8]),
    );
    key[0] = libc::AF_INET as u8;
    r.done(
        "another address",
        calls::set_bytes(&client, IPPROTO_TCP, libc::TCP_MD5SIG, &key),
    );
    Ok(())
}

/// From then on each segment carries a signature, also of the bytes that follow.
fn md5_keys_at_both_ends(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, b"before, unread, ", 0);
    r.arrived(&server, 16);
    let keyed = |socket: &TcpStream| {
        socket
            .peer_addr()
            .and_then(|peer| sys::set_md5(socket, &peer))
    };
    r.done("client", keyed(&client));
    r.done("server", keyed(&server));
    r.send("send", &client, b"after", 0);
    r.take("take", &server, 21);
    r.send("answer", &server, b"signed", 0);
    r.take("take", &client, 6);
    Ok(())
}

fn map_of_the_socket(r: &Run) -> Result<()> {
    let Pair {
        client: _client,
        server,
    } = r.warm()?;
    r.result("mmap", calls::map(&server, 65536).map(|_| "mapped"));
    Ok(())
}

/// The option alone, without a mapping: TCP says how much is to be read with recv().
fn zero_copy_receive(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    r.send("send", &client, &DATA.bytes(0, 10_000), 0);
    r.arrived(&server, 10_000);
    let argument = calls::get_bytes(&server, IPPROTO_TCP, libc::TCP_ZEROCOPY_RECEIVE, 64);
    r.result(
        "nothing mapped",
        argument.map(|bytes| format!("{:x?}", &bytes[..16.min(bytes.len())])),
    );
    r.take("take", &server, 10_000);
    Ok(())
}

/// Less than a page is never mapped.
fn zero_copy_receive_of_little(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let ask = |what: &str| {
        let got = calls::get_bytes(&server, IPPROTO_TCP, libc::TCP_ZEROCOPY_RECEIVE, 64);
        r.result(what, got.map(|bytes| format!("{:x?}", &bytes[..16])));
    };
    ask("nothing there");
    r.send("send", &client, b"hello", 0);
    r.arrived(&server, 5);
    ask("5 bytes");
    r.take("take", &server, 5);
    client.shutdown(Shutdown::Write)?;
    r.end("end", &server);
    ask("at the end");
    Ok(())
}

/// Only a v4-mapped socket may become an IPv4 one.
fn address_form(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let form = (libc::IPPROTO_IPV6, 1 /* IPV6_ADDRFORM */);
    r.set("address form", &server, form, libc::AF_INET);
    let domain = calls::get(&server, SOL_SOCKET, libc::SO_DOMAIN);
    r.result("domain", domain);
    r.send("send", &client, b"hello", 0);
    r.take("take", &server, 5);
    r.send("send", &server, b"answer", 0);
    r.take("take", &client, 6);
    Ok(())
}

fn fast_open_options(r: &Run) -> Result<()> {
    let Pair {
        client,
        server: _server,
    } = r.warm()?;
    for name in [
        libc::TCP_FASTOPEN,
        libc::TCP_FASTOPEN_CONNECT,
        libc::TCP_FASTOPEN_NO_COOKIE,
    ] {
        r.set(&format!("set {name}"), &client, (IPPROTO_TCP, name), 1);
        r.option(&format!("get {name}"), &client, IPPROTO_TCP, name);
    }
    Ok(())
}

fn bind_to_device(r: &Run) -> Result<()> {
    let Pair { client, server } = r.warm()?;
    let name = calls::set_bytes(&client, SOL_SOCKET, libc::SO_BINDTODEVICE, b"nowhere");
    r.done("no such device", name);
    let controls = [Control::word(SOL_SOCKET, libc::SO_MARK, 1)];
    r.result("marked", calls::sendmsg(&client, &[b"hello"], &controls, 0));
    r.take("take", &server, 5);
    r.result("stamped", sys::send_with_timestamp(&client, b"hello"));
    r.take("take", &server, 5);
    Ok(())
}
