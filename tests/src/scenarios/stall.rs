// SPDX-License-Identifier: GPL-2.0-only
//! Nobody sleeps for ever: ends that wait in every way there is, pauses and sizes at random, and a watchdog that looks for those who sleep
//! although what they wait for is there.
//!
//! `TCP_SPLICE_ROUND_TRIPS=N` and `TCP_SPLICE_SECONDS=N` in the environment say how far it goes; whichever is first.

use std::fs;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, SO_BUSY_POLL, SOL_SOCKET};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity, sched_yield};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use tcp_splice_world::pace;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy::RING_KBYTES;

use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::some("ping_pong", ping_pong).limit(300),
    Scenario::one("full_and_empty", full_and_empty)
        .reconfigures()
        .limit(300),
];

/// Whoever sleeps for so long although what it waits for is there was not woken.
const OVERDUE: Duration = Duration::from_secs(2);

/// Whoever waits for so long for what was sent will never see it.
const LOST: Duration = Duration::from_secs(60);

/// Most bytes of a message are fewer than one of these.
const SIZES: [usize; 5] = [1, 16, 200, 1500, 6000];

/// How an end waits.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// In recv() or send().
    Call,
    /// In recv(), after spinning.
    Busy,
    Poll,
    Level,
    Edge,
}

const WAYS: [Way; 5] = [Way::Call, Way::Poll, Way::Edge, Way::Level, Way::Busy];

/// A thread that waits now and then, as the watchdog sees it.
#[derive(Debug, Default)]
struct Waiter {
    /// Its id while it waits, else 0.
    thread: AtomicI32,
    /// Messages, or bytes, that it was through with.
    done: AtomicU64,
}

impl Waiter {
    fn wait<T>(&self, call: impl FnOnce() -> T) -> T {
        self.thread.store(sys::thread_id(), Ordering::SeqCst);
        let result = call();
        self.thread.store(0, Ordering::SeqCst);
        result
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    fn did(&self, count: u64) {
        self.done.fetch_add(count, Ordering::SeqCst);
    }
}

/// One end's socket and how it waits there.
struct End {
    socket: TcpStream,
    way: Way,
    events: PollFlags,
    epoll: Epoll,
    waiter: Arc<Waiter>,
}

impl End {
    /// To wait for bytes (`POLLIN`) or for room (`POLLOUT`).
    fn new(socket: &TcpStream, way: Way, events: PollFlags) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut flags = EpollFlags::from_bits_truncate(events.bits().into());
        if matches!(way, Way::Edge) {
            flags |= EpollFlags::EPOLLET;
        }
        epoll.add(socket, EpollEvent::new(flags, 0))?;
        if matches!(way, Way::Busy) {
            sys::set_option(socket, SOL_SOCKET, SO_BUSY_POLL, 20)?;
        }
        Ok(Self {
            socket: socket.try_clone()?,
            way,
            events,
            epoll,
            waiter: Arc::default(),
        })
    }

    /// Makes a call, which waits itself or is told not to and made again when there is something for it.
    fn call(&self, mut call: impl FnMut(i32) -> std::io::Result<usize>) -> Result<usize> {
        if matches!(self.way, Way::Call | Way::Busy) {
            return Ok(self.waiter.wait(|| call(MSG_NOSIGNAL))?);
        }
        loop {
            match call(MSG_DONTWAIT | MSG_NOSIGNAL) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                result => return Ok(result?),
            }
            self.waiter.wait(|| self.sleep())?;
        }
    }

    fn sleep(&self) -> Result<()> {
        if matches!(self.way, Way::Poll) {
            let mut fds = [PollFd::new(self.socket.as_fd(), self.events)];
            poll(&mut fds, PollTimeout::NONE)?;
        } else {
            let mut events = [EpollEvent::empty()];
            self.epoll.wait(&mut events, EpollTimeout::NONE)?;
        }
        Ok(())
    }

    /// A whole buffer; false at the end of the stream.
    fn receive(&self, buffer: &mut [u8]) -> Result<bool> {
        let mut got = 0;
        while got < buffer.len() {
            match self.call(|flags| sys::recv(&self.socket, &mut buffer[got..], flags))? {
                0 => {
                    ensure!(got == 0, "the stream ended within a message");
                    return Ok(false);
                }
                count => got += count,
            }
        }
        Ok(true)
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.call(|flags| sys::send(&self.socket, &bytes[sent..], flags))?;
        }
        Ok(())
    }
}

/// The sizes of one direction's messages, which both ends know.
struct Sizes(Rng);

impl Sizes {
    fn next(&mut self) -> usize {
        let most = SIZES[self.0.usize(..SIZES.len())];
        self.0.usize(1..=most)
    }
}

/// None, a short one without letting the processor go, or a longer one.
fn pause(rng: &mut Rng) {
    match rng.u32(..8) {
        // No PAUSE, which takes an emulator longer than all the rest of a round trip.
        0 | 1 => (0..rng.u32(1..10_000)).for_each(|turn| {
            std::hint::black_box(turn);
        }),
        2 => {
            let _ = sched_yield();
        }
        3 | 4 => sleep(Duration::from_micros(rng.u64(1..=200))),
        _ => {}
    }
}

/// Keeps the calling thread on one processor.
fn stay_on(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("failed to choose a processor")
}

/// On which processors the ends of a connection stay, if on any.
fn placement(index: usize) -> [Option<usize>; 2] {
    let several = thread::available_parallelism().is_ok_and(|count| count.get() > 1);
    match index % 3 {
        0 if several => [Some(0), Some(1)],
        1 => [Some(0), Some(0)],
        _ => [None, None],
    }
}

/// How often the calling thread has slept so far.
fn times_asleep() -> Result<u64> {
    switches("/proc/thread-self/status", &["voluntary_ctxt_switches"])
}

/// Sum of the lines of these names in a status file.
fn switches(path: &str, names: &[&str]) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?;
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        names
            .contains(&name)
            .then(|| value.trim().parse::<u64>().ok())?
    };
    Ok(text.lines().filter_map(value).sum::<u64>())
}

/// When threads come to an end.
#[derive(Clone, Copy)]
struct Goal {
    rounds: u64,
    end: Option<Instant>,
}

impl Goal {
    /// `usual` rounds in all, or what the environment asks for, of which each of `parts` does its share.
    fn new(usual: u64, parts: usize) -> Result<Self> {
        let seconds = pace::seconds()?;
        let usual = if seconds.is_some() { u64::MAX } else { usual };
        let rounds = pace::round_trips()?.unwrap_or(usual);
        Ok(Self {
            rounds: rounds.div_ceil(parts as u64),
            end: seconds.map(|length| Instant::now() + length),
        })
    }

    fn reached(self, round: u64) -> bool {
        // The clock is not asked each time.
        let late = |end| round % 64 == 0 && Instant::now() >= end;
        round >= self.rounds || self.end.is_some_and(late)
    }
}

/// How one end of a ping-pong goes.
struct Player {
    end: End,
    /// Messages of this end whose send() has returned.
    sent: Arc<AtomicU64>,
    processor: Option<usize>,
    seed: u64,
    /// The number of its direction's seed.
    own: u64,
}

/// What a thread has seen when it ends.
struct Seen {
    rounds: u64,
    slept: u64,
}

impl Player {
    fn play(self, goal: Goal) -> Result<Seen> {
        if let Some(processor) = self.processor {
            stay_on(processor)?;
        }
        let result = self.rounds(goal);
        // The other end is not to wait for what will not come.
        let _ = self.end.socket.shutdown(std::net::Shutdown::Write);
        Ok(Seen {
            rounds: result?,
            slept: times_asleep()?,
        })
    }

    fn rounds(&self, goal: Goal) -> Result<u64> {
        let (own, other) = (self.seed ^ self.own, self.seed ^ (1 - self.own));
        let (mut sizes, mut other_sizes) =
            (Sizes(Rng::with_seed(own)), Sizes(Rng::with_seed(other)));
        let (patterns, mut at) = ([Pattern::new(own), Pattern::new(other)], [0, 0]);
        let mut rng = Rng::with_seed(own.wrapping_add(7));
        let mut buffer = vec![0; SIZES[SIZES.len() - 1]];
        let opens = self.own == 0;
        for round in 0.. {
            if opens {
                if goal.reached(round) {
                    return Ok(round);
                }
                self.say(patterns[0], &mut at[0], &mut sizes, &mut rng, &mut buffer)?;
            }
            let length = other_sizes.next();
            if !self.end.receive(&mut buffer[..length])? {
                ensure!(!opens, "the stream ended before its answer");
                return Ok(round);
            }
            self.end.waiter.did(1);
            patterns[1].check(at[1], &buffer[..length])?;
            at[1] += length as u64;
            if !opens {
                self.say(patterns[0], &mut at[0], &mut sizes, &mut rng, &mut buffer)?;
            }
        }
        Ok(0)
    }

    fn say(
        &self,
        pattern: Pattern,
        at: &mut u64,
        sizes: &mut Sizes,
        rng: &mut Rng,
        buffer: &mut [u8],
    ) -> Result<()> {
        let bytes = &mut buffer[..sizes.next()];
        pattern.fill(*at, bytes);
        *at += bytes.len() as u64;
        pause(rng);
        let sent = sys::send(&self.end.socket, bytes, MSG_NOSIGNAL)?;
        ensure!(sent == bytes.len(), "send() gave {sent} of {}", bytes.len());
        self.sent.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Watches one thread.
struct Sentry {
    name: String,
    waiter: Arc<Waiter>,
    /// What the thread waits for has been there for some time already, as far as others know.
    due: Box<dyn Fn() -> Result<bool>>,
    /// It is there now, says the kernel. Nobody is woken by that.
    there: Box<dyn Fn() -> Result<bool>>,
    /// Since when, with what it had done and how often it was on a processor.
    since: Option<(Instant, u64, u64)>,
}

impl Sentry {
    /// An error when the thread sleeps and should not.
    fn look(&mut self) -> Result<()> {
        let thread = self.waiter.thread.load(Ordering::SeqCst);
        if thread == 0 || !(self.due)()? {
            self.since = None;
            return Ok(());
        }
        let path = format!("/proc/self/task/{thread}");
        let status = format!("{path}/status");
        let names = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
        let done = self.waiter.done();
        // It may have ended by now.
        let Ok(ran) = switches(&status, &names) else {
            self.since = None;
            return Ok(());
        };
        let Some((since, ..)) = self.since.filter(|&(_, d, r)| (d, r) == (done, ran)) else {
            self.since = Some((Instant::now(), done, ran));
            return Ok(());
        };
        let waited = since.elapsed();
        if waited < OVERDUE || !sleeps(&path) {
            return Ok(());
        }
        let there = (self.there)()?;
        // It may have been woken since it was looked at.
        let still = sleeps(&path) && switches(&status, &names).is_ok_and(|now| now == ran);
        if there && still {
            let stack = fs::read_to_string(format!("{path}/stack")).unwrap_or_default();
            bail!(
                "{} was not woken: it sleeps since {waited:?}, with what it waits for there\n{stack}",
                self.name
            );
        }
        ensure!(
            waited < LOST || !still,
            "{}: what it waits for was lost",
            self.name
        );
        Ok(())
    }
}

fn sleeps(task: &str) -> bool {
    let stat = fs::read_to_string(format!("{task}/stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|it| it.starts_with(" S"))
    })
}

/// Watches until all threads have ended, and gives what they have seen.
fn watch<T>(threads: Vec<JoinHandle<Result<T>>>, mut sentries: Vec<Sentry>) -> Result<Vec<T>> {
    while !threads.iter().all(JoinHandle::is_finished) {
        sentries.iter_mut().try_for_each(Sentry::look)?;
        sleep(Duration::from_millis(50));
    }
    let join = |thread: JoinHandle<Result<T>>| thread.join().expect("a thread panicked");
    threads.into_iter().map(join).collect()
}

/// Both ends of a connection as players, and who watches them.
fn players(conn: &Conn, index: usize, seed: u64) -> Result<(Vec<Player>, Vec<Sentry>)> {
    let ways = [WAYS[index % WAYS.len()], WAYS[(index / 2) % WAYS.len()]];
    let sent: [Arc<AtomicU64>; 2] = Default::default();
    let (mut players, mut sentries) = (Vec::new(), Vec::new());
    for (own, socket) in [&conn.client, &conn.server].into_iter().enumerate() {
        let end = End::new(socket, ways[own], PollFlags::POLLIN)?;
        let (waiter, theirs) = (end.waiter.clone(), sent[1 - own].clone());
        let (due, twin) = (waiter.clone(), socket.try_clone()?);
        sentries.push(Sentry {
            name: format!("end {own} of connection {index}, in {:?}", ways[own]),
            waiter,
            due: Box::new(move || Ok(theirs.load(Ordering::SeqCst) > due.done())),
            there: Box::new(move || {
                Ok(sys::recv(&twin, &mut [0], MSG_PEEK | MSG_DONTWAIT).is_ok_and(|got| got > 0))
            }),
            since: None,
        });
        players.push(Player {
            end,
            sent: sent[own].clone(),
            processor: placement(index)[own],
            seed: seed.wrapping_add(index as u64) << 1,
            own: own as u64,
        });
    }
    Ok((players, sentries))
}

fn ping_pong(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 6;
    let seed = pace::seed()?;
    let goal = Goal::new(pace::count(20_000, 3_000), CONNECTIONS)?;
    let listener = env.link.listen()?;
    let (mut threads, mut sentries) = (Vec::new(), Vec::new());
    for index in 0..CONNECTIONS {
        let conn = env.conn_from(&listener)?;
        let (players, watched) = players(&conn, index, seed)?;
        sentries.extend(watched);
        threads.extend(
            players
                .into_iter()
                .map(|player| thread::spawn(move || player.play(goal))),
        );
    }
    let seen = watch(threads, sentries)?;
    let rounds = seen.iter().map(|seen| seen.rounds).sum::<u64>() / 2;
    let slept: u64 = seen.iter().map(|seen| seen.slept).sum();
    println!("{rounds} round trips, {slept} times asleep");
    // Or there would have been nobody to wake.
    ensure!(
        slept > rounds / 2,
        "in {rounds} round trips only {slept} times asleep"
    );
    // No message is shorter.
    let bytes = 2 * rounds as usize;
    Ok(Claim::ring(bytes)
        .pairs(CONNECTIONS as u64)
        .tcp(CONNECTIONS * 10_000))
}

/// Whether a socket has bytes to read, as a question.
fn readable(socket: &TcpStream, wanted: bool) -> Result<Box<dyn Fn() -> Result<bool>>> {
    let socket = socket.try_clone()?;
    Ok(Box::new(move || {
        Ok((sys::readable_bytes(&socket)? > 0) == wanted)
    }))
}

fn write(end: &End, processor: Option<usize>, seed: u64, goal: Goal) -> Result<u64> {
    if let Some(processor) = processor {
        stay_on(processor)?;
    }
    let (mut rng, pattern, mut at) = (Rng::with_seed(seed), Pattern::new(seed), 0);
    for round in 0.. {
        if goal.reached(round) {
            break;
        }
        let bytes = pattern.bytes(at, SIZES[rng.usize(..SIZES.len())]);
        end.send(&bytes)?;
        end.waiter.did(1);
        at += bytes.len() as u64;
        if rng.u32(..8) == 0 {
            pause(&mut rng);
        }
    }
    end.socket.shutdown(std::net::Shutdown::Write)?;
    Ok(at)
}

fn read(end: &End, processor: Option<usize>, seed: u64) -> Result<u64> {
    if let Some(processor) = processor {
        stay_on(processor)?;
    }
    let (mut rng, pattern, mut at) = (Rng::with_seed(!seed), Pattern::new(seed), 0);
    let mut buffer = [0; 6000];
    loop {
        let length = rng.usize(1..=buffer.len());
        let buffer = &mut buffer[..length];
        match end.call(|flags| sys::recv(&end.socket, buffer, flags))? {
            0 => return Ok(at),
            got => {
                pattern.check(at, &buffer[..got])?;
                at += got as u64;
                end.waiter.did(1);
            }
        }
        pause(&mut rng);
    }
}

/// How often senders met a full ring, as the list of pairs says.
fn times_full() -> Result<u64> {
    let list = fs::read_to_string("/proc/net/tcp_splice")?;
    let fields = list.split_whitespace();
    let stalls =
        fields.filter_map(|field| field.strip_prefix("client.stalls=")?.parse::<u64>().ok());
    Ok(stalls.sum::<u64>())
}

/// Writers fill small rings that cannot grow, and wait for room; readers wait for bytes.
fn full_and_empty(env: &Env) -> Result<Claim> {
    const CONNECTIONS: usize = 5;
    /// Bytes that both buffers are asked to have: less than the ring, which therefore stays what it is.
    const SMALL: usize = 4096;
    let seed = pace::seed()?;
    let goal = Goal::new(pace::count(8_000, 1_500), CONNECTIONS)?;
    fs::write(RING_KBYTES, "4")?;
    let listener = env.link.listen()?;
    let (mut conns, mut threads, mut sentries) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..CONNECTIONS {
        let conn = env.conn_from(&listener)?;
        for socket in [&conn.client, &conn.server] {
            setsockopt(socket, sockopt::SndBuf, &SMALL)?;
            setsockopt(socket, sockopt::RcvBuf, &SMALL)?;
        }
        let ways = [WAYS[index % WAYS.len()], WAYS[(index + 2) % WAYS.len()]];
        let writer = End::new(&conn.client, ways[0], PollFlags::POLLOUT)?;
        let reader = End::new(&conn.server, ways[1], PollFlags::POLLIN)?;
        for (end, what, wanted) in [(&reader, "reader", true), (&writer, "writer", false)] {
            sentries.push(Sentry {
                name: format!("the {what} of connection {index}, in {:?}", end.way),
                waiter: end.waiter.clone(),
                due: readable(&conn.server, wanted)?,
                there: readable(&conn.server, wanted)?,
                since: None,
            });
        }
        conns.push(conn);
        let ([far, near], seed) = (placement(index), seed.wrapping_add(index as u64));
        threads.push(thread::spawn(move || write(&writer, far, seed, goal)));
        threads.push(thread::spawn(move || read(&reader, near, seed)));
    }
    let bytes = watch(threads, sentries)?.into_iter().sum::<u64>() / 2;
    let full = times_full()?;
    println!("{bytes} bytes, {full} times full");
    ensure!(full > 100, "the rings were full only {full} times");
    fs::write(RING_KBYTES, "64")?;
    Ok(Claim::ring(bytes as usize)
        .pairs(CONNECTIONS as u64)
        .tcp(CONNECTIONS * 10_000))
}
