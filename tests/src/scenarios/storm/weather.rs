// SPDX-License-Identifier: GPL-2.0-only
//! What happens to namespaces, policies, listeners and the module while they are in use.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use nix::sched::{CloneFlags, unshare};
use socket2::SockRef;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::netns::{Names, World};
use tcp_splice_world::policy::{self, CTL};
use tcp_splice_world::program::run;
use tcp_splice_world::{pace, shared};

use super::board::Board;
use super::deeds::Deed;
use super::pool::Marks;
use super::troupe::{self, Stage, Troupe};
use super::{LIMIT, SOME, begin, length, nothing_left, onlookers, verdict};
use crate::cgroup::Cgroup;
use crate::env::{Claim, Env};
use crate::link::{Family, Link};

/// What happens in any storm, however short and wherever.
pub const ESSENTIAL: &[Deed] = &[
    Deed::Connect,
    Deed::Accept,
    Deed::Send,
    Deed::Receive,
    Deed::SpliceOut,
    Deed::Close,
];

/// A FIN that nobody answers any more is sent again for minutes.
fn forget_soon(names: &[String]) -> Result<()> {
    let line = "echo 1 >/proc/sys/net/ipv4/tcp_orphan_retries";
    for name in names {
        run(&["ip", "netns", "exec", name, "sh", "-c", line])?;
    }
    Ok(())
}

/// Namespaces with devices between them, which are taken away, and lone ones that go with the processes in them.
pub fn namespaces_destroyed(env: &Env) -> Result<Claim> {
    let (mut rng, board) = begin()?;
    let mut walkers = Troupe::default();
    onlookers::look_on(env, board, &mut walkers, false)?;
    let end = Instant::now() + length()?;
    let mut rounds = 0;
    while rounds < 4 || Instant::now() < end {
        ensure_quiet(board)?;
        if rounds % 2 == 0 {
            a_world(rounds, board, &mut rng)?;
        } else {
            a_lone_one(&env.link, board, &mut rng)?;
        }
        rounds += 1;
    }
    walkers.end(board)?;
    verdict(board, ESSENTIAL)?;
    ensure!(
        board.times_inside() > 0,
        "nobody looked into a namespace: {board}"
    );
    nothing_left(env)?;
    Ok(Claim::ring(SOME as usize).pairs(10).any_tcp())
}

/// Nobody has told the others to stop.
fn ensure_quiet(board: Board) -> Result<()> {
    board.no_strangers()?;
    ensure!(!board.stopped(), "the storm ended early");
    Ok(())
}

/// How long there is traffic before something happens to it.
fn a_while(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(300..900)) * pace::count(1, 3) as u32
}

fn a_world(round: u32, board: Board, rng: &mut Rng) -> Result<()> {
    let names = Names::new(&format!(
        "{}{:x}",
        onlookers::WORLDS,
        std::process::id() % 0xffff
    ));
    let world = World::create(&names)?;
    forget_soon(&[names.client(), names.server()])?;
    let family = if round % 4 == 0 {
        Family::V4
    } else {
        Family::V6
    };
    let link = Link {
        family,
        names: Some(names),
    };
    let stage = Stage::new(&link, board, 2)?;
    let mut troupe = Troupe::default();
    troupe.enter(&stage, rng)?;
    troupe.play(&stage, a_while(rng), || true, rng)?;
    if rng.bool() {
        // The bridge goes first, and the ends go on without a device between them.
        drop(world);
        sleep(a_while(rng));
        troupe.kill_players(board)
    } else {
        troupe.kill_players(board)?;
        drop((stage, world));
        Ok(())
    }
}

/// It is destroyed when the last of the processes, and what they had, is gone.
fn a_lone_one(link: &Link, board: Board, rng: &mut Rng) -> Result<()> {
    let seed = rng.u64(..);
    let process = troupe::start("lone player", || {
        unshare(CloneFlags::CLONE_NEWNET).context("failed to make a network namespace")?;
        run(&["ip", "link", "set", "lo", "up"])?;
        let stage = Stage::new(link, board, 1)?;
        stage.play(0, seed)
    })?;
    sleep(a_while(rng));
    process.kill()
}

/// Until the board says stop. Leaves any policy behind.
pub fn change_policy(board: Board, port: u16, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let port = port.to_string();
    let kinds: [&[&str]; 5] = [
        &[],
        &["--loopback-only"],
        &["--ring-kbytes", "4"],
        &["--busy-poll-us", "30"],
        &["--ports", &port],
    ];
    let mut round = 0;
    while !board.stopped() {
        match round % 4 {
            0 => policy::enable(kinds[rng.usize(..kinds.len())])?,
            1 => in_a_cgroup(board, &mut rng)?,
            2 => policy::enable(&[])?,
            _ => policy::disable()?,
        }
        round += 1;
        board.meddled();
        sleep(Duration::from_millis(rng.u64(50..300)));
    }
    Ok(())
}

/// For one cgroup, which takes the players in and is removed while its policy is in force.
fn in_a_cgroup(board: Board, rng: &mut Rng) -> Result<()> {
    let cgroup = Cgroup::new("storm")?;
    policy::enable_for(cgroup.path(), &[])?;
    let players = board.players();
    for &player in &players {
        // It may have been killed by now.
        let _ = cgroup.take(player);
    }
    sleep(Duration::from_millis(rng.u64(100..400)));
    // Those that were forked inside meanwhile belong there, too.
    let deadline = Instant::now() + crate::env::SOON;
    while fs::remove_dir(cgroup.path()).is_err() {
        ensure!(Instant::now() < deadline, "the cgroup cannot be removed");
        for process in cgroup.processes()? {
            let _ = cgroup.give_back(process);
        }
    }
    Ok(())
}

/// Unloads the module as soon as it lets itself be unloaded, and loads it again, until the board says stop.
pub fn come_and_go(board: Board) -> Result<()> {
    while !board.stopped() {
        sleep(Duration::from_millis(400) * pace::count(1, 3) as u32);
        ensure!(
            run(&["rmmod", "tcp_splice"]).is_err(),
            "the module went while a policy was in force"
        );
        let bytes = Counters::read()?.get("ring_bytes")?;
        // Who is in the middle of a call may keep it for a while.
        if run(&[CTL, "disable", "--drain", "--timeout", "10"]).is_ok() {
            policy::unload(crate::env::SOON)?;
            board.add_ring_bytes(bytes);
            board.meddled();
        }
        policy::load()?;
        policy::enable(&[])?;
    }
    Ok(())
}

/// Connections made at a time.
const BATCH: usize = 10;

/// Makes listeners with connections that are accepted, aborted before, or never accepted because the listener goes; all have sent something,
/// through the ring or not.
pub fn short_connections(env: &Env) -> Result<Claim> {
    const MAKERS: u64 = 2;
    let (mut rng, board) = begin()?;
    // For both links together.
    let wanted = pace::count(10_000, 2_000) / 2;
    let made = &shared::words(1)?[0];
    let mut troupe = Troupe::default();
    onlookers::look_on(env, board, &mut troupe, false)?;
    if env.spliced() {
        onlookers::drain_often(board, &mut troupe)?;
    }
    let mut makers = Troupe::default();
    let end = pace::seconds()?.map(|length| Instant::now() + length);
    for _ in 0..MAKERS {
        let seed = rng.u64(..);
        makers.add("maker of connections", || {
            let work = |seed| {
                let mut rng = Rng::with_seed(seed);
                while !board.stopped()
                    && (made.load(Ordering::Relaxed) < wanted
                        || end.is_some_and(|end| Instant::now() < end))
                {
                    batch(&env.link, board, &mut rng)?;
                    made.fetch_add(BATCH as u64, Ordering::Relaxed);
                }
                Ok(())
            };
            thread::scope(|scope| {
                let other = scope.spawn(|| work(seed));
                work(!seed)?;
                other.join().expect("a maker panicked")
            })
        })?;
    }
    makers.wait(Duration::from_secs(LIMIT) + pace::allowance())?;
    troupe.end(board)?;
    verdict(
        board,
        &[Deed::Connect, Deed::Accept, Deed::Reset, Deed::Close],
    )?;
    let made = made.load(Ordering::Relaxed);
    nothing_left(env)?;
    Ok(Claim::ring(SOME as usize).pairs(made / 2).any_tcp())
}

fn batch(link: &Link, board: Board, rng: &mut Rng) -> Result<()> {
    let listener = link.listen()?;
    listener.set_nonblocking(true)?;
    let mut clients = Vec::new();
    for _ in 0..BATCH {
        let client = link.connect(&listener)?;
        client.set_nodelay(true)?;
        board.did(Deed::Connect);
        clients.push(client);
    }
    // The first message goes over TCP, those after it through the ring.
    for _ in 0..3 {
        for client in &clients {
            say(client, Marks::client(client.local_addr()?.port()), rng)?;
        }
    }
    for client in clients.split_off(rng.usize(BATCH / 2..BATCH)) {
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        board.did(Deed::Reset);
    }
    for _ in 0..rng.usize(..BATCH) {
        // One that was aborted is there, or not, as the kernel likes.
        if let Ok((server, from)) = listener.accept() {
            serve(&server, Marks::server(from.port()), board, rng)?;
            board.did(Deed::Accept);
        }
    }
    if rng.bool() {
        drop(listener);
    }
    for client in clients {
        hear(&client, Marks::client(client.local_addr()?.port()), board)?;
        board.did(Deed::Close);
    }
    Ok(())
}

/// Some bytes, if they can still be sent.
fn say(mut socket: &TcpStream, marks: Marks, rng: &mut Rng) -> Result<()> {
    socket.set_nonblocking(true)?;
    let _ = socket.write(&vec![marks.ours; rng.usize(1..3000)]);
    Ok(())
}

fn serve(socket: &TcpStream, marks: Marks, board: Board, rng: &mut Rng) -> Result<()> {
    hear(socket, marks, board)?;
    say(socket, marks, rng)?;
    if rng.bool() {
        // Its client may have aborted.
        let _ = socket.shutdown(Shutdown::Write);
    }
    Ok(())
}

/// What is there now.
fn hear(mut socket: &TcpStream, marks: Marks, board: Board) -> Result<()> {
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 10_000];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        if let Some(&stranger) = buffer[..count].iter().find(|&&byte| byte != marks.theirs) {
            board.found(Deed::Receive, marks.theirs, stranger);
            break;
        }
    }
    Ok(())
}
