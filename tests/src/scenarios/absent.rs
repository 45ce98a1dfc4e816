// SPDX-License-Identifier: GPL-2.0-only
//! Calls that are stuck in the middle of their buffer, in a page fault, while something happens to their connection.
//!
//! (splice(2) has no buffer, and vmsplice(2) waits for its pages before they come to a socket.)

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use socket2::SockRef;
use tcp_splice_world::absent::{Absent, PAGE};
use tcp_splice_world::asleep::Asleep;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::CTL;
use tcp_splice_world::program::run;
use tcp_splice_world::space::Space;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::some("stuck_receivers", stuck_receivers).limit(240),
    Scenario::some("stuck_senders", stuck_senders).limit(240),
    Scenario::some("killed_while_stuck", killed_while_stuck).limit(240),
    Scenario::one("connected_again_while_one_is_stuck", connected_again)
        .spliced_only()
        .limit(240),
    Scenario::one("given_up_while_one_is_stuck", given_up)
        .spliced_only()
        .limit(240),
    Scenario::one("others_go_while_one_is_stuck", others_go).spliced_only(),
];

const PATTERN: Pattern = Pattern::new(41);

/// What stands on each side of the gap.
const SIDE: usize = PAGE;
/// All of the memory.
const ALL_OF_IT: usize = 2 * SIDE + PAGE;

/// What happens to a connection while one end is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// The page comes after a while.
    None,
    /// The other end will not send any more.
    PeerShuts,
    PeerCloses,
    PeerResets,
    /// Another thread ends this end.
    OwnShutdown,
    /// Others send and receive at both ends.
    Traffic,
    Drain,
    /// The page never comes: EFAULT.
    Fault,
    /// The same while the module lets go of the socket.
    FaultInDrain,
}

const BLOWS: [Blow; 9] = [
    Blow::None,
    Blow::PeerShuts,
    Blow::PeerCloses,
    Blow::PeerResets,
    Blow::OwnShutdown,
    Blow::Traffic,
    Blow::Drain,
    Blow::Fault,
    Blow::FaultInDrain,
];

impl Blow {
    fn faults(self) -> bool {
        matches!(self, Self::Fault | Self::FaultInDrain)
    }
}

type Call = fn(&Absent, &TcpStream) -> io::Result<usize>;

/// A call that is stuck, in a thread of its own.
fn stuck(
    memory: &Arc<Absent>,
    socket: &TcpStream,
    call: Call,
) -> Result<Asleep<io::Result<usize>>> {
    let (theirs, socket) = (memory.clone(), socket.try_clone()?);
    let asleep = Asleep::start(move || call(&theirs, &socket))?;
    // Not only asleep: there, and nowhere else.
    wait_until("the call to touch the gap", || {
        ensure!(!asleep.finished(), "the call ended without the gap");
        Ok(memory.is_missed()?)
    })?;
    Ok(asleep)
}

/// A call that is stuck, its memory, and its connection.
pub type Stuck = (Conn, Arc<Absent>, Asleep<io::Result<usize>>);

/// A connection whose accepted end is stuck while it receives [`ALL_OF_IT`], until [`go_on`].
pub fn stuck_for_long(env: &Env) -> Result<Stuck> {
    let conn = env.conn()?;
    PATTERN.write(&conn.client, 0, ALL_OF_IT)?;
    let memory = Arc::new(Absent::between(SIDE, PAGE, SIDE)?);
    let call = stuck(&memory, &conn.server, |memory, socket| {
        memory.recv(socket, libc::MSG_WAITALL)
    })?;
    Ok((conn, memory, call))
}

/// Fills the memory; the call has to end well.
pub fn go_on((_conn, memory, call): Stuck) -> Result<()> {
    memory.fill(&[0; PAGE])?;
    ensure!(call.join()? == ALL_OF_IT, "the stuck call gave less");
    Ok(())
}

/// What goes on meanwhile and has to be through in the end.
type Others = Vec<Asleep<Result<()>>>;

/// The blow, as far as it need not wait for the stuck call; the rest is in threads.
fn strike(env: &Env, blow: Blow, own: &TcpStream, peer: &mut Option<TcpStream>) -> Result<Others> {
    let mut others = Others::new();
    let theirs = peer.as_ref().context("no other end")?;
    match blow {
        Blow::None | Blow::Fault => {}
        Blow::PeerShuts => theirs.shutdown(Shutdown::Write)?,
        Blow::PeerCloses => drop(peer.take()),
        Blow::PeerResets => {
            SockRef::from(theirs).set_linger(Some(Duration::ZERO))?;
            drop(peer.take());
        }
        Blow::OwnShutdown => {
            let own = own.try_clone()?;
            others.push(Asleep::start(move || Ok(own.shutdown(Shutdown::Both)?))?);
        }
        Blow::Traffic => {
            // Behind the stuck call's lock, or not: nobody may be harmed.
            for socket in [own, theirs] {
                let (reads, writes) = (socket.try_clone()?, socket.try_clone()?);
                others.push(Asleep::start(move || {
                    ignore(sys::recv(
                        &reads,
                        &mut [0; 100],
                        libc::MSG_PEEK | libc::MSG_DONTWAIT,
                    ))
                })?);
                others.push(Asleep::start(move || ignore(sys::readable_bytes(&writes)))?);
            }
        }
        Blow::Drain | Blow::FaultInDrain if env.spliced() => {
            meet_the_stuck_call()?;
            others.push(Asleep::start(|| run(&[CTL, "drain"]).map(drop))?);
        }
        Blow::Drain | Blow::FaultInDrain => {}
    }
    Ok(others)
}

/// A drain meets the stuck call: it lets go of the other end, and says each time that one is left.
fn meet_the_stuck_call() -> Result<()> {
    let before = Counters::read()?.get("drained")?;
    wait_until("the other end to be drained", || {
        let error = fs::write("/proc/net/tcp_splice_drain", "\n")
            .err()
            .context("a drain did not meet the stuck call")?;
        ensure!(
            error.kind() == ErrorKind::WouldBlock,
            "a drain that met a stuck call failed: {error}"
        );
        Ok(Counters::read()?.get("drained")? == before + 1)
    })
}

fn ignore(_: io::Result<usize>) -> Result<()> {
    Ok(())
}

/// Lets the stuck call go on, and waits for everybody.
fn release(
    blow: Blow,
    memory: &Absent,
    page: &[u8],
    call: Asleep<io::Result<usize>>,
    others: Others,
) -> Result<io::Result<usize>> {
    if blow.faults() {
        memory.forbid()?;
    } else {
        memory.fill(page)?;
    }
    let result = call.join();
    for other in others {
        other.join()?;
    }
    Ok(result)
}

fn stuck_receivers(env: &Env) -> Result<Claim> {
    let calls: [(&str, Call, bool); 4] = [
        ("recv", |memory, socket| memory.recv(socket, 0), true),
        ("readv", |memory, socket| memory.readv(socket), true),
        (
            "recv all",
            |memory, socket| memory.recv(socket, libc::MSG_WAITALL),
            true,
        ),
        (
            "peek",
            |memory, socket| memory.recv(socket, libc::MSG_PEEK),
            false,
        ),
    ];
    let mut pairs = 0;
    for (name, call, takes) in calls {
        for blow in BLOWS {
            stuck_receiver(env, call, takes, blow).with_context(|| format!("{name}, {blow:?}"))?;
            pairs += 1;
        }
    }
    Ok(Claim::ring(pairs * ALL_OF_IT)
        .pairs(pairs as u64)
        .tcp(pairs * ALL_OF_IT))
}

/// All that is to be received is there before the blow, and none of it is lost.
fn stuck_receiver(env: &Env, call: Call, takes: bool, blow: Blow) -> Result<()> {
    const MORE: usize = 5000;
    let Conn { client, server } = env.conn()?;
    PATTERN.write(&client, 0, ALL_OF_IT + MORE)?;
    wait_until("the bytes to arrive", || {
        Ok(sys::readable_bytes(&server)? == ALL_OF_IT + MORE)
    })?;
    let memory = Arc::new(Absent::between(SIDE, PAGE, SIDE)?);
    let reader = stuck(&memory, &server, call)?;
    let mut peer = Some(client);
    let others = strike(env, blow, &server, &mut peer)?;
    let result = release(blow, &memory, &[0; PAGE], reader, others)?;
    let got = match result {
        Ok(got) => got,
        // TCP gives EFAULT if the packet in which it happened was the first; nothing is lost then.
        Err(error) if blow.faults() && error.raw_os_error() == Some(libc::EFAULT) => 0,
        Err(error) => return Err(error).context("the stuck call failed"),
    };
    let most = if blow.faults() { SIDE } else { ALL_OF_IT };
    ensure!(got <= most, "the stuck call gave {got} bytes");
    ensure!(got > 0 || blow.faults(), "the stuck call gave nothing");
    PATTERN.check(0, &memory.get(0, got))?;
    let next = if takes { got } else { 0 };
    PATTERN.read(&server, next as u64, ALL_OF_IT + MORE - next)?;
    let Some(client) = peer else {
        return ends(&server);
    };
    if blow == Blow::PeerShuts {
        ends(&server)?;
        PATTERN.write(&server, 0, 100)?;
        PATTERN.read(&client, 0, 100)?;
    } else if blow != Blow::OwnShutdown {
        PATTERN.write(&client, 3, 100)?;
        PATTERN.read(&server, 3, 100)?;
        PATTERN.write(&server, 5, 100)?;
        PATTERN.read(&client, 5, 100)?;
    }
    Ok(())
}

/// By the end of the stream or a reset.
fn ends(mut socket: &TcpStream) -> Result<()> {
    match socket.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(anyhow::anyhow!("instead of the end came {other:?}")),
    }
}

fn stuck_senders(env: &Env) -> Result<Claim> {
    let calls: [(&str, Call); 2] = [
        ("send", |memory, socket| {
            memory.send(socket, libc::MSG_NOSIGNAL)
        }),
        ("writev", |memory, socket| memory.writev(socket)),
    ];
    let mut pairs = 0;
    for (name, call) in calls {
        for blow in BLOWS {
            stuck_sender(env, call, blow).with_context(|| format!("{name}, {blow:?}"))?;
            pairs += 1;
        }
    }
    Ok(Claim::ring(pairs)
        .pairs(pairs as u64)
        .tcp(pairs * 2 * ALL_OF_IT))
}

/// What the call says that it sent is what arrives, and what is sent after it comes behind it.
fn stuck_sender(env: &Env, call: Call, blow: Blow) -> Result<()> {
    let Conn { client, server } = env.conn()?;
    let memory = Arc::new(Absent::between(SIDE, PAGE, SIDE)?);
    let bytes = PATTERN.bytes(0, ALL_OF_IT);
    memory.put(0, &bytes[..SIDE]);
    memory.put(SIDE + PAGE, &bytes[SIDE + PAGE..]);
    let writer = stuck(&memory, &client, call)?;
    let mut peer = Some(server);
    let others = strike(env, blow, &client, &mut peer)?;
    let page = &bytes[SIDE..SIDE + PAGE];
    let result = release(blow, &memory, page, writer, others)?;
    let sent = match (result, blow) {
        (Ok(sent), _) => sent,
        (Err(error), Blow::Fault | Blow::FaultInDrain)
            if error.raw_os_error() == Some(libc::EFAULT) =>
        {
            0
        }
        (Err(error), Blow::PeerCloses | Blow::PeerResets | Blow::OwnShutdown)
            if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) =>
        {
            0
        }
        (Err(error), _) => return Err(error).context("the stuck call failed"),
    };
    let Some(server) = peer else {
        return Ok(());
    };
    if blow.faults() {
        ensure!(sent <= SIDE, "the stuck call sent {sent} bytes");
    } else if blow != Blow::OwnShutdown {
        ensure!(sent == ALL_OF_IT, "the stuck call sent {sent} bytes");
    }
    if blow == Blow::OwnShutdown {
        return PATTERN.read_to_end(&server, 0, sent);
    }
    PATTERN.write(&client, sent as u64, 7000)?;
    PATTERN.read(&server, 0, sent + 7000)?;
    if blow != Blow::PeerShuts {
        PATTERN.write(&server, 5, 100)?;
        PATTERN.read(&client, 5, 100)?;
    }
    Ok(())
}

/// What a socket leaves behind with each connection waits for calls. A stuck one of somebody else keeps so much, and no more.
fn connected_again(env: &Env) -> Result<Claim> {
    /// `TS_RETIRED_MAX` of kmod/main.c.
    const LIMIT: u64 = 1024;
    const BEYOND: u64 = 50;
    const RESETS: u64 = 20;
    let stuck = stuck_for_long(env)?;
    let before = Counters::read()?;
    let since = |name: &str| -> Result<u64> { Counters::read()?.since(&before).get(name) };
    let alive = || -> Result<u64> {
        let gone = since("endpoints_gone")?;
        Ok(since("endpoints_made")?.saturating_sub(gone))
    };
    let listener = env.link.listen()?;
    let address = env.link.address(&listener)?;
    for _ in 0..RESETS {
        let conn = env.conn_from(&listener)?;
        SockRef::from(&conn.client).set_linger(Some(Duration::ZERO))?;
    }
    wait_until("those to go that were reset", || Ok(alive()? == 0))?;
    let mut again = env.conn_from(&listener)?;
    for round in 0..LIMIT + BEYOND {
        if round == LIMIT {
            // None has come through for longer than a second.
            thread::sleep(Duration::from_secs(2));
        }
        sys::disconnect(&again.client)?;
        SockRef::from(&again.client).connect(&address.into())?;
        again.server = listener.accept()?.0;
    }
    let refused = since("refused_held_up")?;
    ensure!(refused >= BEYOND, "{refused} were refused");
    wait_until("what no call can keep to go", || Ok(alive()? <= LIMIT + 1))?;
    ensure!(alive()? >= LIMIT / 2, "the stuck call keeps {}", alive()?);
    PATTERN.write(&again.client, 0, 1000)?;
    PATTERN.read(&again.server, 0, 1000)?;
    drop(again);
    go_on(stuck)?;
    wait_until("all to go", || Ok(alive()? == 0))?;
    let conn = env.conn()?;
    PATTERN.write(&conn.client, 0, 1000)?;
    PATTERN.read(&conn.server, 0, 1000)?;
    Ok(Claim::ring(ALL_OF_IT + 1000).pairs(LIMIT / 2).tcp(5000))
}

/// Is the module's upper layer protocol on this socket of this namespace? (getsockopt() does not say.)
fn is_ours(socket: &TcpStream) -> Result<bool> {
    let filter = format!("sport = :{}", socket.local_addr()?.port());
    Ok(run(&["ss", "-tinH", &filter])?.contains("tcp-ulp-tcp_splice"))
}

/// Two clients whose servers were not offered, while so much waits for a stuck call that the module's worker pauses (`ts_retired_are_many()` of
/// kmod/main.c): the one that is used lets go of its end by itself, the idle one keeps it.
fn given_up(env: &Env) -> Result<Claim> {
    /// More than half of `TS_RETIRED_MAX`.
    const MANY: u64 = 600;
    let stuck = stuck_for_long(env)?;
    let before = Counters::read()?;
    let since = |name: &str| -> Result<u64> { Counters::read()?.since(&before).get(name) };
    let listener = env.link.listen()?;
    let address = env.link.address(&listener)?;
    let mut again = env.cold_from(&listener)?;
    for _ in 0..MANY {
        sys::disconnect(&again.client)?;
        SockRef::from(&again.client).connect(&address.into())?;
        again.server = listener.accept()?.0;
    }
    sys::attach_filter(&listener, u32::MAX)?;
    let (used, idle) = (env.cold_from(&listener)?, env.cold_from(&listener)?);
    let refused = since("refused_packet_policy")?;
    ensure!(refused == 2, "{refused} of 2 servers' ends were refused");
    for conn in [&used, &idle] {
        ensure!(is_ours(&conn.client)?, "a client was not offered");
    }
    let mut sent = 0;
    wait_until("the module to let go of a socket in use", || {
        PATTERN.write(&used.client, sent, 100)?;
        PATTERN.read(&used.server, sent, 100)?;
        sent += 100;
        Ok(!is_ours(&used.client)?)
    })?;
    ensure!(is_ours(&idle.client)?, "the worker did not pause");
    drop(again);
    go_on(stuck)?;
    wait_until("the worker to go on", || Ok(!is_ours(&idle.client)?))?;
    PATTERN.write(&idle.client, 0, 1000)?;
    PATTERN.read(&idle.server, 0, 1000)?;
    Ok(Claim::ring(ALL_OF_IT).pairs(MANY / 2).any_tcp())
}

/// A call that is stuck keeps what another socket was drained of, but neither that socket nor its namespace.
fn others_go(env: &Env) -> Result<Claim> {
    /// Goes with its other end, and that with its namespace.
    const DEVICE: &str = "ts-absent";
    let stuck = stuck_for_long(env)?;
    let space = Space::new()?;
    run(&[
        "ip",
        "link",
        "add",
        DEVICE,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        &space.path(),
    ])?;
    let gone = || !Path::new("/sys/class/net").join(DEVICE).exists();
    ensure!(!gone(), "{DEVICE} is not there");
    space.ip("link set lo up")?;
    // RCU takes its time with those of earlier tests.
    let alive = || -> Result<u64> {
        let now = Counters::read()?;
        Ok(now
            .get("endpoints_made")?
            .saturating_sub(now.get("endpoints_gone")?))
    };
    wait_until("the stuck connection to be the only one", || {
        Ok(alive()? == 2)
    })?;
    let drained = Counters::read()?.get("drained")?;
    let listener = space.listen((Ipv4Addr::LOCALHOST, 0).into(), false)?;
    let address = listener.local_addr()?;
    let other = env.warm(|| {
        let client = space.connect(address)?;
        let server = listener.accept()?.0;
        Ok(Conn { client, server })
    })?;
    run(&[CTL, "drain", "--ports", &address.port().to_string()])?;
    let drained = Counters::read()?.get("drained")? - drained;
    ensure!(drained == 2, "{drained} ends were drained");
    drop((other, listener, space));
    wait_until("a drained socket's namespace to go", || Ok(gone()))?;
    ensure!(
        alive()? == 4,
        "the stuck call kept nothing: this shows nothing"
    );
    go_on(stuck)?;
    // The stuck connection as well, perhaps at the same moment.
    wait_until("all to go", || Ok(alive()? == 0))?;
    Ok(Claim::ring(ALL_OF_IT).pairs(2))
}

/// A process whose threads are stuck, and wait for stuck ones, dies when it is killed, and its connection ends.
fn killed_while_stuck(env: &Env) -> Result<Claim> {
    const ROUNDS: usize = 6;
    for round in 0..ROUNDS {
        let Conn { client, server } = env.conn()?;
        PATTERN.write(&client, 0, ALL_OF_IT)?;
        let (told, tell) = nix::unistd::pipe()?;
        let client = Some(client);
        let child = sys::fork(|| {
            let all = || -> Result<()> {
                let memory = Arc::new(Absent::between(SIDE, PAGE, SIDE)?);
                let receives = round % 2 == 0;
                let call: Call = if receives {
                    |memory, socket| memory.recv(socket, 0)
                } else {
                    |memory, socket| memory.send(socket, libc::MSG_NOSIGNAL)
                };
                let _stuck = stuck(&memory, &server, call)?;
                let mut behind = Vec::new();
                for _ in 0..2 {
                    let (socket, memory) = (server.try_clone()?, memory.clone());
                    behind.push(Asleep::start(move || call(&memory, &socket))?);
                }
                nix::unistd::write(&tell, b"x")?;
                loop {
                    nix::unistd::pause();
                }
            };
            all().is_ok()
        })?;
        drop((server, tell));
        let mut byte = [0];
        let count = nix::unistd::read(&told, &mut byte)?;
        ensure!(count == 1, "the process did not get stuck");
        kill(child, Signal::SIGKILL)?;
        gone(child)?;
        let client = client.context("no other end")?;
        // The bytes that were not read, or the FIN: in any case the other end learns it.
        wait_until("the other end to learn it", || {
            let mut rest = [0; 2 * ALL_OF_IT];
            client.set_nonblocking(true)?;
            match (&client).read(&mut rest) {
                Ok(0) => Ok(true),
                Ok(count) => PATTERN
                    .check(0, &rest[..count])
                    .map(|()| false)
                    .or(Ok(false)),
                Err(error) => Ok(error.kind() == ErrorKind::ConnectionReset),
            }
        })?;
    }
    Ok(Claim::ring(ROUNDS * ALL_OF_IT)
        .pairs(ROUNDS as u64)
        .tcp(ROUNDS * ALL_OF_IT))
}

fn gone(process: Pid) -> Result<()> {
    wait_until("a killed process to go", || {
        let status = waitpid(process, Some(WaitPidFlag::WNOHANG))?;
        let alive = status == WaitStatus::StillAlive;
        ensure!(
            alive || matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            "the process: {status:?}"
        );
        Ok(!alive)
    })
}
