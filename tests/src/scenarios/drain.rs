// SPDX-License-Identifier: GPL-2.0-only
//! `tcp-splice-ctl drain`: connections that are up become plain TCP, with whatever is under way on them, and the module can go.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::{setsockopt, sockopt};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pace;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::{self, CTL};
use tcp_splice_world::program::run;

use crate::asleep::Asleep;
use crate::cgroup::Cgroup;
use crate::env::{Claim, Conn, Env, SOON, wait_until};
use crate::scenario::Scenario;
use crate::scenarios::ready::Watch;
use crate::scenarios::start::{NEVER_PAUSING, never_pause};
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("unread_bytes", unread_bytes),
    Scenario::each("blocked_readers", blocked_readers),
    Scenario::each("blocked_writers", blocked_writers),
    Scenario::each("blocked_splice", blocked_splice),
    Scenario::each("pollers", pollers),
    Scenario::some("a_call_halfway_through", a_call_halfway_through).reconfigures(),
    Scenario::some("others_asleep", others_asleep).spliced_only(),
    Scenario::some("children_come_and_go", children_come_and_go).limit(120),
    Scenario::some("small_notsent_mark", small_notsent_mark),
    Scenario::some("send_times_out", send_times_out),
    Scenario::one("not_for_everybody", not_for_everybody).spliced_only(),
    Scenario::each("not_accepted_yet", not_accepted_yet),
    Scenario::each("closed_by_one_end", closed_by_one_end),
    Scenario::each("reset_with_unread_bytes", reset_with_unread_bytes),
    Scenario::each("after_shutdown", after_shutdown),
    Scenario::each("never_paired", never_paired).reconfigures(),
    Scenario::each("disconnected", disconnected),
    Scenario::each("with_tls", with_tls),
    Scenario::each("by_port", by_port).spliced_only(),
    Scenario::some("never_pausing", never_pausing),
    Scenario::each("under_load", under_load).limit(120),
    Scenario::some("module_goes_and_comes_back", module_goes_and_comes_back).reconfigures(),
    Scenario::one("nothing_to_drain", nothing_to_drain).reconfigures(),
];

const PATTERN: Pattern = Pattern::new(73);
const PART: usize = 20_000;

/// Drains, and proves that the module holds no socket any more. Over plain TCP there is nothing to do.
fn drain(env: &Env) -> Result<()> {
    drain_within("10", env)
}

/// The same, within so many seconds.
fn drain_within(seconds: &str, env: &Env) -> Result<()> {
    if env.spliced() {
        run(&[CTL, "drain", "--timeout", seconds])?;
        nothing_is_held()?;
    }
    Ok(())
}

/// Within a grace period.
fn nothing_is_held() -> Result<()> {
    wait_until("the module to hold no socket", || {
        let now = Counters::read()?;
        Ok(now.get("pairs_alive")? == 0 && now.get("endpoints_alive")? == 0)
    })
}

/// What is sent now goes over TCP, both ways.
fn exchange(conn: &Conn, position: u64) -> Result<()> {
    PATTERN.write(&conn.client, position, PART)?;
    PATTERN.read(&conn.server, position, PART)?;
    PATTERN.write(&conn.server, position, PART)?;
    PATTERN.read(&conn.client, position, PART)
}

fn unread_bytes(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    PATTERN.write(&conn.client, 0, PART)?;
    PATTERN.write(&conn.server, 0, PART)?;
    PATTERN.read(&conn.server, 0, 1000)?;
    let before = env.counters()?;
    drain(env)?;
    for (socket, there) in [(&conn.client, PART), (&conn.server, PART - 1000)] {
        ensure!(
            sys::readable_bytes(socket)? == there,
            "FIONREAD does not count what was in the ring"
        );
    }
    PATTERN.read(&conn.server, 1000, PART - 1000)?;
    PATTERN.read(&conn.client, 0, PART)?;
    exchange(&conn, PART as u64)?;
    ensure!(
        !env.since(&before)?.moved().contains_key("ring_bytes"),
        "bytes went through the ring after the drain"
    );
    Ok(Claim::ring(2 * PART))
}

/// They go on sleeping, and get what comes over TCP.
fn blocked_readers(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let reader = |socket: &TcpStream, flags| -> Result<_> {
        let socket = socket.try_clone()?;
        Asleep::start(move || {
            let mut buffer = vec![0; PART];
            sys::recv(&socket, &mut buffer, flags).map(|got| buffer[..got].to_vec())
        })
    };
    let all = reader(&conn.server, libc::MSG_WAITALL)?;
    let some = reader(&conn.client, 0)?;
    drain(env)?;
    all.settle()?;
    ensure!(
        !all.finished() && !some.finished(),
        "a blocked recv() ended with the drain"
    );
    PATTERN.write(&conn.client, 0, PART)?;
    PATTERN.write(&conn.server, 0, 100)?;
    PATTERN.check(0, &all.join()?)?;
    PATTERN.check(0, &some.join()?)?;
    Ok(Claim::ring(2))
}

/// They end with all that they were given, although nobody has read.
fn blocked_writers(env: &Env) -> Result<Claim> {
    const LONG: usize = 6 << 20;
    let conn = env.conn()?;
    for socket in [&conn.client, &conn.server] {
        setsockopt(socket, sockopt::RcvBuf, &65536)?;
        setsockopt(socket, sockopt::SndBuf, &65536)?;
    }
    let writer = |socket: &TcpStream| -> Result<_> {
        let socket = socket.try_clone()?;
        Asleep::start(move || sys::send(&socket, &PATTERN.bytes(0, LONG), 0))
    };
    let (forth, back) = (writer(&conn.client)?, writer(&conn.server)?);
    drain(env)?;
    let readers = [conn.client.try_clone()?, conn.server.try_clone()?]
        .map(|socket| thread::spawn(move || PATTERN.read(&socket, 0, LONG)));
    for reader in readers {
        reader.join().expect("a reader panicked")?;
    }
    for writer in [forth, back] {
        let sent = writer.join()?;
        ensure!(sent == LONG, "send() returned {sent} of {LONG}");
    }
    exchange(&conn, 0)?;
    Ok(Claim::ring(100_000).tcp(2 * LONG + 2 * PART))
}

fn blocked_splice(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let (from, to) = nix::unistd::pipe()?;
    let socket = conn.server.try_clone()?;
    let splicer =
        Asleep::start(move || splice(&socket, None, &to, None, PART, SpliceFFlags::empty()))?;
    drain(env)?;
    splicer.settle()?;
    ensure!(!splicer.finished(), "splice() ended with the drain");
    PATTERN.write(&conn.client, 0, 500)?;
    let moved = splicer.join()?;
    PATTERN.read(File::from(from), 0, moved)?;
    PATTERN.read(&conn.server, moved as u64, 500 - moved)?;
    Ok(Claim::ring(2))
}

/// Those that wait are woken by TCP from now on; those that have been told hear nothing new.
fn pollers(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let level = Watch::level(&conn.server, libc::EPOLLIN)?;
    let edge = Watch::edge(&conn.server, libc::EPOLLIN)?;
    level.expect_nothing()?;
    edge.expect_nothing()?;
    drain(env)?;
    level.expect_nothing()?;
    edge.expect_nothing()?;
    PATTERN.write(&conn.client, 0, PART)?;
    level.expect(libc::EPOLLIN)?;
    edge.expect(libc::EPOLLIN)?;
    PATTERN.read(&conn.server, 0, PART)?;
    level.expect_nothing()?;
    // A full socket becomes writeable when it is read.
    conn.client.set_nonblocking(true)?;
    let chunk = PATTERN.bytes(0, PART);
    // What TCP has under way makes room for a while.
    while (&conn.client).write(&chunk).is_ok() {
        while (&conn.client).write(&chunk).is_ok() {}
        sleep(Duration::from_millis(50));
    }
    let room = Watch::edge(&conn.client, libc::EPOLLOUT)?;
    room.expect_nothing()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = [0; 65536];
            while room.events(Duration::ZERO).is_ok_and(|events| events == 0) {
                let _ = (&conn.server).read(&mut rest);
            }
        });
    });
    Ok(Claim::ring(2))
}

/// A recv() with MSG_WAITALL that has got some of its bytes keeps the module, not the connection, and is not torn.
fn a_call_halfway_through(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    let socket = conn.server.try_clone()?;
    let reader = Asleep::start(move || {
        let mut buffer = vec![0; 2 * PART];
        sys::recv(&socket, &mut buffer, libc::MSG_WAITALL).map(|got| buffer[..got].to_vec())
    })?;
    PATTERN.write(&conn.client, 0, PART)?;
    reader.settle()?;
    run(&[CTL, "drain"])?;
    let error = run(&[CTL, "disable", "--drain", "--timeout", "1"])
        .err()
        .context("the tool says that nobody is in a call")?;
    ensure!(
        format!("{error:#}").contains("MSG_WAITALL"),
        "the tool does not say who keeps the module: {error:#}"
    );
    ensure!(!reader.finished(), "MSG_WAITALL was cut short");
    ensure!(
        run(&["rmmod", "tcp_splice"]).is_err(),
        "the module went while a call was in it"
    );
    PATTERN.write(&conn.client, PART as u64, PART)?;
    let got = reader.join()?;
    ensure!(got.len() == 2 * PART, "MSG_WAITALL returned {}", got.len());
    PATTERN.check(0, &got)?;
    run(&[CTL, "disable", "--drain"])?;
    run(&["rmmod", "tcp_splice"])?;
    policy::restore()?;
    Ok(Claim::untouched().after_reload())
}

/// Somebody asleep on a connection that stays spliced keeps nothing of those that are drained.
fn others_asleep(env: &Env) -> Result<Claim> {
    let (stays, goes) = (env.link.listen()?, env.link.listen()?);
    let (stays, goes) = (env.conn_from(&stays)?, (env.conn_from(&goes)?, goes));
    let socket = stays.server.try_clone()?;
    let reader = Asleep::start(move || sys::recv(&socket, &mut [0; 10], 0))?;
    let port = goes.1.local_addr()?.port().to_string();
    run(&[CTL, "drain", "--timeout", "1", "--ports", &port])?;
    wait_until("the drained pair to go", || {
        Ok(Counters::read()?.get("pairs_alive")? == 1)
    })?;
    PATTERN.write(&stays.client, 0, 5)?;
    ensure!(reader.join()? == 5, "the reader got something else");
    exchange(&goes.0, 0)?;
    Ok(Claim::ring(2).pairs(2).tcp(2 * PART))
}

/// The server finds in its accept queue what the client sent through TCP and the ring.
fn not_accepted_yet(env: &Env) -> Result<Claim> {
    let listener = env.link.listen()?;
    let client = env.link.connect(&listener)?;
    client.set_nodelay(true)?;
    let before = env.counters()?;
    for position in 0..50 {
        PATTERN.write(&client, position * 100, 100)?;
        sleep(Duration::from_millis(2));
    }
    let in_ring = env.since(&before)?.moved().contains_key("ring_bytes");
    ensure!(in_ring || !env.spliced(), "nothing went into the ring");
    drain(env)?;
    PATTERN.write(&client, 5000, 100)?;
    let (server, _) = listener.accept()?;
    PATTERN.read(&server, 0, 5100)?;
    PATTERN.write(&server, 0, PART)?;
    PATTERN.read(&client, 0, PART)?;
    Ok(Claim::ring(1).tcp(PART + 5100))
}

fn closed_by_one_end(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    drop(client);
    drain(env)?;
    PATTERN.read_to_end(&server, 0, PART)?;
    drop(server);
    Ok(Claim::ring(PART))
}

/// Bytes first, then the error, as ever.
fn reset_with_unread_bytes(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    setsockopt(
        &client,
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?;
    drop(client);
    wait_until("the reset", || {
        Ok(Watch::level(&server, 0)?.events(Duration::ZERO)? & libc::EPOLLERR != 0)
    })?;
    drain(env)?;
    PATTERN.read(&server, 0, PART)?;
    let error = (&server)
        .read(&mut [0])
        .err()
        .context("no error after a reset")?;
    ensure!(
        error.raw_os_error() == Some(libc::ECONNRESET),
        "after a reset recv() says {error}"
    );
    Ok(Claim::ring(PART))
}

fn after_shutdown(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, PART)?;
    client.shutdown(Shutdown::Write)?;
    PATTERN.write(&server, 0, PART)?;
    drain(env)?;
    PATTERN.read_to_end(&server, 0, PART)?;
    PATTERN.write(&server, PART as u64, PART)?;
    drop(server);
    PATTERN.read_to_end(&client, 0, 2 * PART)?;
    Ok(Claim::ring(2 * PART).tcp(PART))
}

/// Only the connecting end was offered. It loses its tables, too.
fn never_paired(env: &Env) -> Result<Claim> {
    let paired = env.conn()?;
    let cgroup = Cgroup::new("test")?;
    let listener = env.link.listen()?;
    policy::enable_for(cgroup.path(), &[])?;
    cgroup.enter()?;
    let conn = env.cold_from(&listener)?;
    cgroup.leave()?;
    wait_until("one pair and a socket beside it", || {
        let now = Counters::read()?;
        Ok(now.get("pairs_alive")? == 1 && now.get("endpoints_alive")? == 3)
    })?;
    sys::disconnect(&paired.client)?;
    drain(env)?;
    exchange(&conn, 0)?;
    policy::enable(&[])?;
    Ok(Claim::ring(2).tcp(2 * PART))
}

/// A socket that was disconnected has still been ours, may listen, and its children are strangers.
fn disconnected(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    drop(server);
    sys::disconnect(&client)?;
    drain(env)?;
    let conn = env.conn()?;
    exchange(&conn, 0)?;
    Ok(Claim::ring(2 * PART).pairs(2))
}

/// kTLS has the ULP slot, and the socket a hook for its end.
fn with_tls(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    PATTERN.write(&conn.client, 0, PART)?;
    setsockopt(&conn.server, sockopt::TcpUlp::default(), b"tls")?;
    drain(env)?;
    PATTERN.read(&conn.server, 0, PART)?;
    exchange(&conn, PART as u64)?;
    Ok(Claim::ring(PART).tcp(2 * PART))
}

/// Senders that wait, or are about to, until TCP has delivered what went before, so that they could use their rings.
fn never_pausing(env: &Env) -> Result<Claim> {
    const ROUNDS: u64 = 10;
    for round in 0..ROUNDS {
        let Conn { client, server } = env.conn()?;
        let sender = thread::spawn(move || -> Result<()> {
            PATTERN.write(&client, 0, PART)?;
            never_pause(&client, PATTERN, PART as u64)
        });
        let reader = thread::spawn(move || PATTERN.read(&server, 0, PART + NEVER_PAUSING));
        sleep(Duration::from_millis(20 + 5 * round));
        drain(env)?;
        // Where one fails, the other does as well.
        let sent = sender.join().expect("sender panicked");
        let read = reader.join().expect("reader panicked");
        ensure!(
            sent.is_ok() && read.is_ok(),
            "sender: {sent:?}, reader: {read:?}"
        );
    }
    Ok(Claim::ring(ROUNDS as usize * PART).pairs(ROUNDS).any_tcp())
}

fn by_port(env: &Env) -> Result<Claim> {
    let (one, other) = (env.link.listen()?, env.link.listen()?);
    let (conn_one, conn_other) = (env.conn_from(&one)?, env.conn_from(&other)?);
    let port = one.local_addr()?.port().to_string();
    let before = Counters::read()?;
    run(&[CTL, "drain", "--ports", &port])?;
    exchange(&conn_one, 0)?;
    let ring = |before| -> Result<u64> { Counters::read()?.since(before).get("ring_bytes") };
    ensure!(ring(&before)? == 0, "the drained connection uses its ring");
    exchange(&conn_other, 0)?;
    ensure!(
        ring(&before)? >= 2 * PART as u64,
        "the other connection was drained as well"
    );
    wait_until("the other connection alone to be held", || {
        Ok(Counters::read()?.get("endpoints_alive")? == 2)
    })?;
    Ok(Claim::ring(2 * PART).pairs(2).tcp(2 * PART))
}

/// Sends until it is `over`, in steps. How much.
fn send_until(over: &AtomicBool, to: &TcpStream, step: usize) -> Result<u64> {
    let mut sent = 0;
    while !over.load(Ordering::Relaxed) {
        PATTERN.write(to, sent, step)?;
        sent += step as u64;
    }
    to.shutdown(Shutdown::Write)?;
    Ok(sent)
}

/// Receives to the end, and says as it goes on how much all have `received`. How much.
fn receive_all(received: &AtomicU64, mut from: &TcpStream) -> Result<u64> {
    let mut buffer = vec![0; 2 * PART];
    let mut at = 0;
    loop {
        let got = from.read(&mut buffer).context("failed to receive")?;
        if got == 0 {
            return Ok(at);
        }
        PATTERN.check(at, &buffer[..got])?;
        at += got as u64;
        received.fetch_add(got as u64, Ordering::Relaxed);
    }
}

/// Both ends of all connections send and receive with all their might when it happens, and go on for a while.
fn under_load(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 8;
    /// Bytes of all, before and after.
    const SOME: u64 = 2 << 20;
    // In seconds: who owns a socket, or a lane, may wait for a processor for long.
    let long = pace::count(100, 300).to_string();
    let conns = env.many(CONNECTIONS)?;
    let (received, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (received, over) = (&received, &over);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, conn) in conns.iter().enumerate() {
            // Large and small messages: full rings and empty ones.
            let step = [PART, 64, 3000, 200_000][index % 4];
            for (from, to) in [(&conn.client, &conn.server), (&conn.server, &conn.client)] {
                // Nobody waits for one who has failed.
                let told = move |result: Result<u64>| {
                    if result.is_err() {
                        over.store(true, Ordering::Relaxed);
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    }
                    result
                };
                let sender = scope.spawn(move || told(send_until(over, from, step)));
                let receiver = scope.spawn(move || told(receive_all(received, to)));
                threads.push((sender, receiver));
            }
        }
        let more = |than: u64| {
            wait_until("bytes to arrive", || {
                let failed = over.load(Ordering::Relaxed);
                Ok(failed || received.load(Ordering::Relaxed) >= than)
            })
        };
        let drained = more(SOME).and_then(|()| drain_within(&long, env));
        let went_on = more(received.load(Ordering::Relaxed) + SOME);
        over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = threads
            .into_iter()
            .map(|(sender, receiver)| {
                let sent = sender.join().expect("a sender panicked");
                (sent, receiver.join().expect("a receiver panicked"))
            })
            .collect();
        for (sent, got) in ended {
            // What a receiver says against the bytes comes before what its sender felt of it.
            let (got, sent) = (got?, sent?);
            ensure!(got == sent, "{got} bytes of {sent} arrived");
        }
        drained.and(went_on)
    })?;
    Ok(Claim::ring(SOME as usize / 2)
        .pairs(CONNECTIONS as u64)
        .any_tcp())
}

/// With a connection up, a reader asleep on it and bytes unread; what is loaded then takes new connections.
fn module_goes_and_comes_back(env: &Env) -> Result<Claim> {
    let old = env.conn()?;
    PATTERN.write(&old.client, 0, PART)?;
    let socket = old.client.try_clone()?;
    let reader = Asleep::start(move || {
        let mut buffer = [0; 100];
        sys::recv(&socket, &mut buffer, 0).map(|got| buffer[..got].to_vec())
    })?;
    run(&[CTL, "disable", "--drain"])?;
    policy::unload(SOON)?;
    ensure!(!policy::loaded(), "the module is there after rmmod");
    reader.settle()?;
    ensure!(!reader.finished(), "a blocked recv() ended with the module");
    PATTERN.read(&old.server, 0, PART)?;
    PATTERN.write(&old.server, 0, 100)?;
    PATTERN.check(0, &reader.join()?)?;
    policy::restore()?;
    exchange(&old, PART as u64)?;
    let new = env.conn()?;
    exchange(&new, 0)?;
    exchange(&old, 2 * PART as u64)?;
    Ok(Claim::untouched().after_reload())
}

fn nothing_to_drain(_: &Env) -> Result<Claim> {
    run(&[CTL, "drain"])?;
    run(&[CTL, "disable", "--drain"])?;
    policy::unload(SOON)?;
    let error = run(&[CTL, "drain"])
        .err()
        .context("drained without the module")?;
    ensure!(
        error.to_string().contains("modprobe tcp_splice"),
        "without the module, drain says {error:#}"
    );
    run(&[CTL, "disable", "--drain"])?;
    policy::restore()?;
    Ok(Claim::untouched().after_reload())
}

/// Accepted and closed at once, or never accepted because the listener goes, while drains run all the time.
fn children_come_and_go(env: &Env) -> Result<Claim> {
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| -> Result<u64> {
        let drainer = scope.spawn(|| {
            let mut rounds = 0;
            while env.spliced() && !stop.load(Ordering::Relaxed) {
                let _ = run(&[CTL, "drain", "--timeout", "5"]);
                rounds += 1;
            }
            rounds
        });
        let result = (0..60).try_for_each(|round| {
            let listener = env.link.listen()?;
            let clients = (0..20)
                .map(|_| env.link.connect(&listener))
                .collect::<Result<Vec<_>>>()?;
            for client in &clients {
                PATTERN.write(client, 0, 2000)?;
            }
            for client in clients.iter().take(20 - round % 20) {
                let (server, _) = listener.accept()?;
                PATTERN.write(client, 2000, 2000)?;
                PATTERN.read(&server, 0, 4000)?;
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let rounds = drainer.join().expect("the draining thread panicked");
        result.map(|()| rounds)
    })?;
    ensure!(
        rounds > 3 || !env.spliced(),
        "there were only {rounds} drains"
    );
    Ok(Claim::ring(0).pairs(100).tcp(60 * 20 * 4000))
}

/// What TCP_NOTSENT_LOWAT keeps out of TCP's buffer does not keep a call in the module.
fn small_notsent_mark(env: &Env) -> Result<Claim> {
    const LONG: usize = 3 << 20;
    let conn = env.conn()?;
    // A fixed size, or the ring would grow to hold it all.
    setsockopt(&conn.server, sockopt::RcvBuf, &65536)?;
    setsockopt(&conn.client, sockopt::SndBuf, &65536)?;
    sys::set_option(
        &conn.client,
        libc::IPPROTO_TCP,
        libc::TCP_NOTSENT_LOWAT,
        10_000,
    )?;
    let socket = conn.client.try_clone()?;
    let writer = Asleep::start(move || sys::send(&socket, &PATTERN.bytes(0, LONG), 0))?;
    drain(env)?;
    PATTERN.read(&conn.server, 0, LONG)?;
    ensure!(writer.join()? == LONG, "send() was cut short");
    exchange(&conn, 0)?;
    Ok(Claim::ring(50_000).tcp(LONG + 2 * PART))
}

/// With nothing sent it says EAGAIN when the time is over, drained or not.
fn send_times_out(env: &Env) -> Result<Claim> {
    let conn = env.conn()?;
    for socket in [&conn.client, &conn.server] {
        setsockopt(socket, sockopt::RcvBuf, &20_000)?;
        setsockopt(socket, sockopt::SndBuf, &20_000)?;
    }
    conn.client.set_nonblocking(true)?;
    let chunk = PATTERN.bytes(0, PART);
    while (&conn.client).write(&chunk).is_ok() {}
    conn.client.set_nonblocking(false)?;
    sys::set_timeout(&conn.client, libc::SO_SNDTIMEO, 300)?;
    let socket = conn.client.try_clone()?;
    let writer =
        Asleep::start(move || (&socket).write(&[0]).map_err(|error| error.raw_os_error()))?;
    drain(env)?;
    // Over TCP there may be room for that byte.
    let result = writer.join();
    ensure!(
        matches!(result, Ok(1) | Err(Some(libc::EAGAIN))),
        "a send() with a timeout returned {result:?}"
    );
    Ok(Claim::ring(2).tcp(1 << 20))
}

/// Root without CAP_NET_ADMIN may not, and wrong words change nothing.
fn not_for_everybody(env: &Env) -> Result<Claim> {
    const FILE: &str = "/proc/net/tcp_splice_drain";
    let conn = env.conn()?;
    for wrong in [
        "ports=",
        "ports=0",
        "ports=1,,2",
        "ports=70000",
        "before=x",
        "everything",
        "before=1 else",
        "ports=1\0",
        &"x".repeat(600),
    ] {
        let error = std::fs::write(FILE, wrong)
            .err()
            .with_context(|| format!("{FILE} took {wrong:?}"))?;
        let errno = error.raw_os_error();
        ensure!(
            [Some(libc::EINVAL), Some(libc::ERANGE)].contains(&errno),
            "{FILE} refused {wrong:?} with {error}"
        );
    }
    let error = run(&[
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        CTL,
        "drain",
    ])
    .err()
    .context("drained without CAP_NET_ADMIN")?;
    ensure!(
        format!("{error:#}").contains("permitted"),
        "without CAP_NET_ADMIN, drain says {error:#}"
    );
    let before = Counters::read()?;
    exchange(&conn, 0)?;
    ensure!(
        Counters::read()?.since(&before).get("ring_bytes")? == 2 * PART as u64,
        "the connection was drained"
    );
    Ok(Claim::ring(2 * PART))
}
