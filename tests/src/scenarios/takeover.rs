// SPDX-License-Identifier: GPL-2.0-only
//! Options that need TCP alone (kTLS, TCP_REPAIR, TCP-MD5, IPV6_ADDRFORM) on a connection that is spliced: what stands in the ring unread
//! comes out of TCP's queue, in its place.

use std::fs::File;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::sockopt::TlsCryptoInfo;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use tcp_splice_world::absent::Absent;
use tcp_splice_world::pattern::Pattern;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, SOON, wait_until};
use crate::link::Family;
use crate::scenario::Scenario;
use crate::scenarios::idle::into_pipe;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("ulp_keeps_unread_bytes", ulp_keeps_unread_bytes),
    Scenario::each("ulp_behind_start_up_bytes", ulp_behind_start_up_bytes),
    Scenario::each("ulp_between_segments", ulp_between_segments),
    Scenario::each("ulp_of_a_grown_ring", ulp_of_a_grown_ring),
    Scenario::each("ulp_after_the_end", ulp_after_the_end),
    Scenario::each("ulp_that_does_not_exist", ulp_that_does_not_exist),
    Scenario::each("ulp_wakes_writers", ulp_wakes_writers),
    Scenario::each(
        "ulp_while_the_other_end_is_stuck",
        ulp_while_the_other_end_is_stuck,
    ),
    Scenario::each("ulp_keeps_low_water_marks", ulp_keeps_low_water_marks),
    Scenario::each("ulp_splits_segments", ulp_splits_segments),
    Scenario::some("options_against_reconnect", options_against_reconnect),
    Scenario::some("ulp_under_load", ulp_under_load),
    Scenario::each("tls_records", tls_records),
    Scenario::each("tls_of_others", tls_of_others),
    Scenario::each("repair_keeps_unread_bytes", repair_keeps_unread_bytes),
    Scenario::each("md5_keeps_unread_bytes", md5_keeps_unread_bytes),
    Scenario::each("address_form", address_form),
    Scenario::one("accepts_afterwards", accepts_afterwards),
];

const PATTERN: Pattern = Pattern::new(41);
const PART: usize = 20_000;

fn use_tls(socket: &TcpStream) -> Result<()> {
    setsockopt(socket, sockopt::TcpUlp::default(), b"tls").context("failed to set TCP_ULP to tls")
}

/// The same key for both directions of a socket; good enough for bytes that everybody knows.
fn set_keys(socket: &TcpStream) -> Result<()> {
    let keys = TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
        info: libc::tls_crypto_info {
            version: libc::TLS_1_2_VERSION,
            cipher_type: libc::TLS_CIPHER_AES_GCM_128,
        },
        iv: [1; 8],
        key: [2; 16],
        salt: [3; 4],
        rec_seq: [0; 8],
    });
    setsockopt(socket, sockopt::TcpTlsTx, &keys).context("failed to set TLS_TX")?;
    setsockopt(socket, sockopt::TcpTlsRx, &keys).context("failed to set TLS_RX")
}

/// Both ends have unread bytes from the ring, then become kTLS sockets without keys, which pass bytes on as they are.
fn ulp_keeps_unread_bytes(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    PATTERN.write(&server, 0, PART)?;
    for socket in [&client, &server] {
        use_tls(socket)?;
        ensure!(
            sys::readable_bytes(socket)? == PART,
            "FIONREAD does not count what was in the ring"
        );
    }
    PATTERN.write(&client, PART as u64, PART)?;
    PATTERN.write(&server, PART as u64, PART)?;
    for socket in [&client, &server] {
        socket.shutdown(Shutdown::Write)?;
    }
    PATTERN.read_to_end(&client, 0, 2 * PART)?;
    PATTERN.read_to_end(&server, 0, 2 * PART)?;
    Ok(Claim::ring(2 * PART).tcp(2 * PART))
}

/// TCP's bytes from before the ring are unread as well, and come first.
fn ulp_behind_start_up_bytes(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    client.set_nodelay(true)?;
    PATTERN.write(&client, 0, PART)?;
    let (server, _) = listener.accept()?;
    let both = |length| {
        wait_until("bytes to arrive", || {
            Ok(sys::readable_bytes(&server)? == length)
        })
    };
    both(PART)?;
    PATTERN.write(&client, PART as u64, PART)?;
    both(2 * PART)?;
    use_tls(&server)?;
    ensure!(
        sys::readable_bytes(&server)? == 2 * PART,
        "bytes are missing"
    );
    PATTERN.write(&client, 2 * PART as u64, PART)?;
    drop(client);
    PATTERN.read_to_end(&server, 0, 3 * PART)?;
    Ok(Claim::ring(PART).tcp(2 * PART))
}

/// The ring segment has ended, and TCP's bytes stand behind it.
fn ulp_between_segments(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    sys::send_with_timestamp(&client, &PATTERN.bytes(PART as u64, 1000))?;
    wait_until("bytes to arrive", || {
        Ok(sys::readable_bytes(&server)? == PART + 1000)
    })?;
    PATTERN.read(&server, 0, 3000)?;
    use_tls(&server)?;
    PATTERN.write(&client, PART as u64 + 1000, PART)?;
    drop(client);
    PATTERN.read_to_end(&server, 3000, 2 * PART + 1000 - 3000)?;
    Ok(Claim::ring(PART).tcp(PART + 1000))
}

/// More than the ring's first size is unread.
fn ulp_of_a_grown_ring(env: &Env) -> Result<Claim> {
    const LONG: usize = 150_000;
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, LONG)?;
    use_tls(&server)?;
    PATTERN.write(&client, LONG as u64, PART)?;
    drop(client);
    PATTERN.read_to_end(&server, 0, LONG + PART)?;
    Ok(Claim::ring(LONG).tcp(PART))
}

/// The other end has sent everything and closed: unread bytes and the end of stream stay where they are.
fn ulp_after_the_end(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    drop(client);
    let end = libc::EPOLLRDHUP;
    Watch::level(&server, end)?.expect(end)?;
    let refused = setsockopt(&server, sockopt::TcpUlp::default(), b"tls");
    ensure!(
        refused == Err(nix::Error::ENOTCONN),
        "TCP_ULP after the end gave {refused:?}"
    );
    PATTERN.read_to_end(&server, 0, PART)?;
    Ok(Claim::ring(PART))
}

/// A refused takeover leaves a connection that works.
fn ulp_that_does_not_exist(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    let refused = setsockopt(&server, sockopt::TcpUlp::default(), b"no such");
    ensure!(
        refused == Err(nix::Error::ENOENT),
        "an unknown TCP_ULP gave {refused:?}"
    );
    PATTERN.write(&client, PART as u64, PART)?;
    PATTERN.write(&server, 0, PART)?;
    PATTERN.read(&client, 0, PART)?;
    use_tls(&server)?;
    drop(client);
    PATTERN.read_to_end(&server, 0, 2 * PART)?;
    Ok(Claim::ring(PART).tcp(2 * PART))
}

/// Sets TCP_ULP, again while TCP has joined neighbours at the border.
fn use_tls_patiently(socket: &TcpStream) -> Result<()> {
    let start = Instant::now();
    loop {
        match setsockopt(socket, sockopt::TcpUlp::default(), b"tls") {
            Ok(()) => return Ok(()),
            Err(nix::Error::EBUSY) if start.elapsed() < SOON => {}
            Err(error) => bail!("failed to set TCP_ULP under load: {error}"),
        }
    }
}

/// A sender that sleeps for space in the ring, and a poller, go on over TCP.
fn ulp_wakes_writers(env: &Env) -> Result<Claim> {
    const LONG: usize = 8 << 20;
    let Conn { client, server } = env.conn()?;
    let mut filled = 0;
    while let Ok(count) = sys::send(
        &server,
        &PATTERN.bytes(filled as u64, PART),
        libc::MSG_DONTWAIT,
    ) {
        filled += count;
    }
    let watch = Watch::level(&server, libc::EPOLLOUT)?;
    watch.expect_nothing()?;
    let to = client.try_clone()?;
    let writer = Asleep::start(move || PATTERN.write(to, 0, LONG))?;
    ensure!(!writer.finished(), "8 MiB went nowhere");
    use_tls(&client)?;
    use_tls(&server)?;
    let from = client.try_clone()?;
    let reader = thread::spawn(move || PATTERN.read(from, 0, filled));
    PATTERN.read(&server, 0, LONG)?;
    writer.join()?;
    reader.join().expect("reader panicked")?;
    watch.expect(libc::EPOLLOUT)?;
    Ok(Claim::ring(PART).tcp(2 * LONG))
}

/// The other end is in the middle of a send() or this one in the middle of a recv(), whose memory does not come: nobody else waits.
fn ulp_while_the_other_end_is_stuck(env: &Env) -> Result<Claim> {
    const PAGE: usize = 4096;
    let Conn { client, server } = env.conn()?;
    let memory = Arc::new(Absent::new(PAGE)?);
    let (theirs, to) = (memory.clone(), client.try_clone()?);
    PATTERN.write(&client, 0, PART)?;
    let stuck = Asleep::start(move || theirs.send(&to, 0))?;
    use_tls(&server)?;
    PATTERN.read(&server, 0, PART)?;
    memory.fill(&PATTERN.bytes(PART as u64, PAGE))?;
    ensure!(stuck.join()? == PAGE, "the stuck send() was cut short");
    PATTERN.read(&server, PART as u64, PAGE)?;

    let other = env.conn()?;
    PATTERN.write(&other.client, 0, PART)?;
    let memory = Arc::new(Absent::new(PAGE)?);
    let (theirs, from) = (memory.clone(), other.server.try_clone()?);
    let stuck = Asleep::start(move || theirs.recv(&from, 0))?;
    let taker = other.server.try_clone()?;
    let taker = Asleep::start(move || use_tls(&taker))?;
    let sent = sys::send(
        &other.client,
        &PATTERN.bytes(PART as u64, 1000),
        libc::MSG_DONTWAIT,
    )?;
    ensure!(sent == 1000, "a send() gave {sent} of 1000");
    memory.fill(&[0; PAGE])?;
    ensure!(stuck.join()? == PAGE, "the stuck recv() was cut short");
    taker.join()?;
    PATTERN.read(&other.server, PAGE as u64, PART + 1000 - PAGE)?;
    Ok(Claim::ring(PART).pairs(2).tcp(2 * PAGE))
}

/// TCP has bytes on both sides of the ring's, and joined them to one segment. A reader that waits for more than there is gets it.
fn ulp_keeps_low_water_marks(env: &Env) -> Result<Claim> {
    const STAMPED: usize = 500;
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    client.set_nodelay(true)?;
    PATTERN.write(&client, 0, 100)?;
    let (server, _) = listener.accept()?;
    wait_until("bytes to arrive", || {
        Ok(sys::readable_bytes(&server)? == 100)
    })?;
    PATTERN.write(&client, 100, PART)?;
    sys::send_with_timestamp(&client, &PATTERN.bytes(100 + PART as u64, STAMPED))?;
    let there = 100 + PART + STAMPED;
    wait_until("bytes to arrive", || {
        Ok(sys::readable_bytes(&server)? == there)
    })?;
    sys::set_option(
        &server,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        there as i32 + 50,
    )?;
    let from = server.try_clone()?;
    let reader = Asleep::start(move || {
        let mut buffer = vec![0; there + 1000];
        let count = sys::recv(&from, &mut buffer, 0)?;
        PATTERN.check(0, &buffer[..count])?;
        anyhow::Ok(count)
    })?;
    use_tls(&server)?;
    // As much as TCP wakes a reader for, if there were nothing else.
    let more = there + 1000;
    PATTERN.write(&client, there as u64, more)?;
    let got = reader.join()?;
    ensure!(got >= there, "recv() gave {got} of {there}");
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)?;
    drop(client);
    PATTERN.read_to_end(&server, got as u64, there + more - got)?;
    Ok(Claim::ring(PART).tcp(more + 1000))
}

/// Bytes on both sides of those in the ring came over TCP, which joined them: a FIN, or more bytes, of which it has read nothing, or all before the
/// ring's.
fn ulp_splits_segments(env: &Env) -> Result<Claim> {
    const FIRST: usize = 100;
    for (behind, read) in [(0, 0), (0, FIRST), (700, 0), (700, FIRST)] {
        let Conn { client, server } = env.cold()?;
        sys::send_by_tcp(&client, &PATTERN.bytes(0, FIRST))?;
        wait_until("bytes to arrive, and to be acknowledged", || {
            let acknowledged = sys::unacknowledged_bytes(&client)? == 0;
            Ok(acknowledged && sys::readable_bytes(&server)? == FIRST)
        })?;
        PATTERN.write(&client, FIRST as u64, PART)?;
        let mut there = FIRST + PART;
        if behind > 0 {
            sys::send_by_tcp(&client, &PATTERN.bytes(there as u64, behind))?;
            there += behind;
        }
        client.shutdown(Shutdown::Write)?;
        let watch = Watch::level(&server, libc::EPOLLRDHUP)?;
        watch.expect(libc::EPOLLRDHUP)?;
        PATTERN.read(&server, 0, read)?;
        // kTLS does not want a stream that has ended.
        setsockopt(&server, sockopt::TcpRepair, &1).context("failed to set TCP_REPAIR")?;
        setsockopt(&server, sockopt::TcpRepair, &0).context("failed to clear TCP_REPAIR")?;
        let left = there - read;
        ensure!(sys::readable_bytes(&server)? == left, "bytes are missing");
        PATTERN.read_to_end(&server, read as u64, left)?;
    }
    Ok(Claim::ring(4 * PART).pairs(4).tcp(2000))
}

/// One thread takes the socket over while another one gives it a new connection: bytes of the old one never show in the new one.
fn options_against_reconnect(env: &Env) -> Result<Claim> {
    const ROUNDS: u64 = 150;
    let listener = env.link.listen()?;
    let target = env.link.address(&listener)?;
    for round in 0..ROUNDS {
        let old = env.conn_from(&listener)?;
        PATTERN.write(&old.server, 1_000_000, PART)?;
        let socket = old.client.try_clone()?;
        let taker = thread::spawn(move || {
            thread::sleep(std::time::Duration::from_micros(round % 30 * 10));
            // Too short for a key: refused, but by TCP.
            let refused = sys::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, 0);
            assert!(refused.is_err(), "an empty key was taken");
        });
        sys::disconnect(&old.client)?;
        socket2::SockRef::from(&old.client).connect(&target.into())?;
        let (server, _) = listener.accept()?;
        PATTERN.write(&server, 0, 2000)?;
        taker.join().expect("taker panicked");
        PATTERN.write(&server, 2000, 2000)?;
        drop(server);
        PATTERN.read_to_end(&old.client, 0, 4000)?;
    }
    Ok(Claim::ring(PART).pairs(ROUNDS).tcp(usize::MAX / 2))
}

/// Threads read and write at both ends while both become kTLS sockets.
fn ulp_under_load(env: &Env) -> Result<Claim> {
    const LENGTH: usize = 1 << 20;
    const CONNECTIONS: usize = 8;
    for round in 0..CONNECTIONS {
        let Conn { client, server } = env.conn()?;
        let mut threads = Vec::new();
        for socket in [&client, &server] {
            let (reader, writer) = (socket.try_clone()?, socket.try_clone()?);
            threads.push(thread::spawn(move || PATTERN.read(reader, 0, LENGTH)));
            threads.push(thread::spawn(move || PATTERN.write(writer, 0, LENGTH)));
        }
        thread::sleep(std::time::Duration::from_millis(round as u64));
        use_tls_patiently(&server)?;
        use_tls_patiently(&client)?;
        for thread in threads {
            thread.join().expect("reader or writer panicked")?;
        }
    }
    Ok(Claim::ring(CONNECTIONS).tcp(2 * CONNECTIONS * LENGTH))
}

/// Real kTLS on a connection that was spliced.
fn tls_records(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    PATTERN.read(&server, 0, PART)?;
    for socket in [&client, &server] {
        use_tls(socket)?;
        set_keys(socket)?;
    }
    exchange(&client, &server)?;
    Ok(Claim::ring(PART).tcp(4 * PART))
}

fn exchange(client: &TcpStream, server: &TcpStream) -> Result<()> {
    for (from, to) in [(client, server), (server, client)] {
        PATTERN.write(from, 0, PART)?;
        PATTERN.read(to, 0, PART)?;
    }
    Ok(())
}

/// kTLS sockets that were there before do not notice that a spliced one becomes one, or tries to.
fn tls_of_others(env: &Env) -> Result<Claim> {
    let before = env.cold()?;
    for socket in [&before.client, &before.server] {
        use_tls(socket)?;
        set_keys(socket)?;
    }
    exchange(&before.client, &before.server)?;
    let Conn { client, server } = env.conn()?;
    exchange(&client, &server)?;
    use_tls(&client)?;
    exchange(&before.client, &before.server)?;
    drop(server);
    // Not connected in both directions any more: refused.
    wait_until(
        "end of stream",
        || Ok(sys::recv(&client, &mut [0], 0)? == 0),
    )?;
    exchange(&before.client, &before.server)?;
    drop(client);
    let after = env.conn()?;
    exchange(&after.client, &after.server)?;
    exchange(&before.client, &before.server)?;
    Ok(Claim::ring(4 * PART).pairs(2).tcp(8 * PART))
}

/// A checkpoint finds the ring's bytes in the receive queue.
fn repair_keeps_unread_bytes(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    setsockopt(&server, sockopt::TcpRepair, &1).context("failed to set TCP_REPAIR")?;
    ensure!(
        sys::readable_bytes(&server)? == PART,
        "a checkpoint would miss bytes"
    );
    setsockopt(&server, sockopt::TcpRepair, &0).context("failed to clear TCP_REPAIR")?;
    PATTERN.write(&client, PART as u64, PART)?;
    PATTERN.write(&server, 0, PART)?;
    PATTERN.read(&client, 0, PART)?;
    drop(client);
    PATTERN.read_to_end(&server, 0, 2 * PART)?;
    Ok(Claim::ring(PART).tcp(2 * PART))
}

fn md5_keeps_unread_bytes(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    sys::set_md5(&server, &server.peer_addr()?)?;
    sys::set_md5(&client, &client.peer_addr()?)?;
    PATTERN.write(&client, PART as u64, PART)?;
    PATTERN.write(&server, 0, PART)?;
    PATTERN.read(&client, 0, PART)?;
    drop(client);
    PATTERN.read_to_end(&server, 0, 2 * PART)?;
    Ok(Claim::ring(PART).tcp(2 * PART))
}

/// An IPv6 socket with an IPv4 peer becomes an IPv4 socket; others are refused, and go on.
fn address_form(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    PATTERN.write(&server, 0, PART)?;
    let (level, option) = (libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM);
    let done = sys::set_option(&server, level, option, libc::AF_INET);
    match env.link.family {
        Family::Mapped => {
            done.context("failed to set IPV6_ADDRFORM")?;
            ensure!(server.peer_addr()?.is_ipv4(), "the socket is not of IPv4");
        }
        Family::V6 => ensure!(
            done.as_ref()
                .is_err_and(|error| error.raw_os_error() == Some(libc::EADDRNOTAVAIL)),
            "IPV6_ADDRFORM gave {done:?}"
        ),
        Family::V4 => ensure!(done.is_err(), "IPV6_ADDRFORM succeeded on IPv4"),
    }
    PATTERN.write(&client, PART as u64, PART)?;
    PATTERN.write(&server, PART as u64, PART)?;
    PATTERN.read(&client, 0, 2 * PART)?;
    drop(client);
    PATTERN.read_to_end(&server, 0, 2 * PART)?;
    Ok(Claim::ring(2 * PART).tcp(2 * PART))
}

/// A thread is in accept() when a spliced socket is disconnected and listens: the child is an ordinary one, which may be spliced itself. (Whether accept()
/// still had the spliced socket's table is a matter of time, and not seen here.)
fn accepts_afterwards(env: &Env) -> Result<Claim> {
    const ROUNDS: usize = 50;
    for round in 0..ROUNDS {
        let Conn { client, .. } = env.conn()?;
        let listener = TcpListener::from(OwnedFd::from(client));
        let waiting = listener.try_clone()?;
        // It does not listen yet.
        let accepting = thread::spawn(move || {
            loop {
                match waiting.accept() {
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                    accepted => return accepted,
                }
            }
        });
        sys::disconnect(&listener)?;
        SockRef::from(&listener).listen(1)?;
        let conn = env.warm(|| {
            let client = env.link.connect(&listener)?;
            let accepted = accepting.join().expect("accept() panicked");
            let (server, _) = accepted.context("failed to accept")?;
            Ok(Conn { client, server })
        });
        let conn = conn.with_context(|| format!("round {round}"))?;
        let (out, into) = into_pipe(&conn, PATTERN, PART)?;
        drop(into);
        PATTERN.read_to_end(File::from(out), 0, PART)?;
        use_tls(&conn.server)?;
        PATTERN.write(&conn.client, 5, PART)?;
        PATTERN.read(&conn.server, 5, PART)?;
    }
    Ok(Claim::ring(ROUNDS * PART)
        .pairs(2 * ROUNDS as u64)
        .any_tcp())
}
