// SPDX-License-Identifier: GPL-2.0-only
//! Busy polling changes how long a receive takes and nothing else.

use std::cell::RefCell;
use std::fs;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::select::{FdSet, select};
use nix::unistd::Pid;
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pace;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;
use tcp_splice_world::program::run;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env, SOON};
use crate::scenario::Scenario;
use crate::scenarios::list::listed;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("by_socket_option", by_socket_option),
    Scenario::each("by_policy", by_policy).reconfigures(),
    Scenario::each("in_epoll", in_epoll).reconfigures(),
    Scenario::each("in_epoll_by_edges", in_epoll_by_edges).reconfigures(),
    Scenario::each("in_epoll_by_its_setting", in_epoll_by_its_setting).reconfigures(),
    Scenario::each("in_poll", in_poll).reconfigures(),
    Scenario::each("in_select", in_select).reconfigures(),
    Scenario::each("in_io_uring", in_io_uring).reconfigures(),
    Scenario::each("as_learnt", as_learnt)
        .reconfigures()
        .limit(120),
    Scenario::each("as_both_learnt", as_both_learnt)
        .reconfigures()
        .limit(120),
    Scenario::one("sysctl_is_put_back", sysctl_is_put_back).reconfigures(),
    Scenario::each(
        "long_budget_ends_for_everything",
        long_budget_ends_for_everything,
    ),
];

const PATTERN: Pattern = Pattern::new(30);
const ROUNDS: u64 = 300;

/// Round trips of several sizes, some with a pause that is longer than the budget.
fn ping_pong(client: &TcpStream, server: TcpStream) -> Result<usize> {
    let size = |round: u64| [1, 64, 3000, 20_000][round as usize % 4];
    let answer = thread::spawn(move || -> Result<TcpStream> {
        for round in 0..ROUNDS {
            PATTERN.read(&server, round, size(round))?;
            PATTERN.write(&server, round + 1, size(round))?;
        }
        Ok(server)
    });
    let mut total = 0;
    for round in 0..ROUNDS {
        PATTERN.write(client, round, size(round))?;
        PATTERN.read(client, round + 1, size(round))?;
        total += 2 * size(round);
        if round % 50 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    client.shutdown(Shutdown::Write)?;
    PATTERN.read_to_end(&answer.join().expect("answering thread panicked")?, 0, 0)?;
    Ok(total)
}

fn by_socket_option(env: &Env) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    for socket in [&client, &server] {
        sys::set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, 50)?;
    }
    Ok(Claim::ring(ping_pong(&client, server)?))
}

fn by_policy(env: &Env) -> Result<Claim> {
    policy::enable(&["--busy-poll-us", "50"])?;
    let Conn { client, server } = env.conn()?;
    let total = ping_pong(&client, server)?;
    policy::enable(&[])?;
    Ok(Claim::ring(total))
}

/// A receiver with a budget of a second, spinning, still sees shutdown, close, signals and its timeout at once.
fn long_budget_ends_for_everything(env: &Env) -> Result<Claim> {
    sys::catch(libc::SIGUSR1, false)?;
    type End = fn(&TcpStream, &TcpStream, i32) -> Result<()>;
    let ends: [(End, Option<i32>); 4] = [
        (|_, near, _| Ok(near.shutdown(Shutdown::Both)?), None),
        (|far, _, _| Ok(far.shutdown(Shutdown::Write)?), None),
        (
            |_, _, thread| Ok(sys::signal_thread(thread, libc::SIGUSR1)?),
            Some(libc::EINTR),
        ),
        (|_, _, _| Ok(()), Some(libc::EAGAIN)),
    ];
    for (end, error) in ends {
        let Conn { client, server } = env.conn()?;
        sys::set_option(&server, libc::SOL_SOCKET, libc::SO_BUSY_POLL, 1_000_000)?;
        sys::set_timeout(&server, libc::SO_RCVTIMEO, 20_000)?;
        if error == Some(libc::EAGAIN) {
            sys::set_timeout(&server, libc::SO_RCVTIMEO, 100)?;
        }
        let copy = server.try_clone()?;
        let start = Instant::now();
        let receiver = Asleep::start(move || sys::recv(&copy, &mut [0; 10], 0))?;
        end(&client, &server, receiver.id())?;
        let got = receiver.join().map_err(|error| error.raw_os_error());
        ensure!(
            got == error.map_or(Ok(0), |error| Err(Some(error))),
            "recv gave {got:?}"
        );
        ensure!(
            start.elapsed() < Duration::from_secs(19),
            "took {:?}",
            start.elapsed()
        );
    }
    Ok(Claim::ring(4).pairs(4))
}

/// As long as the kernel is told to spin: whoever spins is found spinning, however slow the machine.
const LONG: &str = "500000";

const MESSAGES: u64 = 40;

/// How often the thread that waits is looked at before each message, at most.
const LOOKS: u32 = 5;

/// Under a policy with a budget, a thread that waits for messages with `wait` is found running, not asleep. The tool has pollers spin for a
/// hundredth of a second at most, and then a slow machine finds them asleep: this sets the sysctl itself, which the tool leaves alone.
fn spins(env: &Env, wait: fn(&TcpStream) -> Result<Wait>) -> Result<Claim> {
    spins_before(MESSAGES / 2, env, wait)
}

/// The same, before more than `least` messages.
fn spins_before(least: u64, env: &Env, wait: fn(&TcpStream) -> Result<Wait>) -> Result<Claim> {
    spins_under(LONG, least, env, wait)
}

/// The same, with the sysctl set to this.
fn spins_under(
    sysctl: &str,
    least: u64,
    env: &Env,
    wait: fn(&TcpStream) -> Result<Wait>,
) -> Result<Claim> {
    policy::enable(&["--busy-poll-us", LONG])?;
    fs::write(policy::BUSY_POLL, sysctl)?;
    let found = is_found_running(least, env, wait);
    fs::write(policy::BUSY_POLL, "0")?;
    policy::enable(&[])?;
    found
}

fn is_found_running(least: u64, env: &Env, wait: fn(&TcpStream) -> Result<Wait>) -> Result<Claim> {
    let Conn { client, server } = env.conn()?;
    let (tell, told) = mpsc::channel();
    let answer = thread::spawn(move || -> Result<()> {
        tell.send(sys::thread_id())?;
        let wait = wait(&server)?;
        for message in 0..MESSAGES {
            wait.readable(&server)?;
            PATTERN.read(&server, message, 1)?;
            PATTERN.write(&server, message, 1)?;
        }
        Ok(())
    });
    let id = told.recv().context("failed to learn the thread's id")?;
    let mut running = 0;
    for message in 0..MESSAGES {
        for _ in 0..LOOKS {
            // By now it waits, if the machine is not very slow; and if it is, it is most often seen again.
            thread::sleep(Duration::from_millis(1));
            if is_running(id)? {
                running += 1;
                break;
            }
        }
        PATTERN.write(&client, message, 1)?;
        PATTERN.read(&client, message, 1)?;
    }
    answer.join().expect("answering thread panicked")?;
    ensure!(
        running > least,
        "the thread that waits was running before {running} of {MESSAGES} messages"
    );
    Ok(Claim::ring(2 * MESSAGES as usize))
}

fn is_running(thread: i32) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat"))?;
    Ok(stat
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.starts_with(" R")))
}

/// A way to wait for a socket.
enum Wait {
    Epoll(Watch),
    Poll,
    Select,
    Ring(Box<RefCell<IoUring>>),
}

impl Wait {
    fn readable(&self, socket: &TcpStream) -> Result<()> {
        let ready = match self {
            Self::Epoll(watch) => watch.events(SOON)? == libc::EPOLLIN,
            Self::Poll => {
                let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                poll(&mut polled, PollTimeout::try_from(SOON)?)? == 1
                    && polled[0].revents() == Some(PollFlags::POLLIN)
            }
            Self::Select => {
                let mut set = FdSet::new();
                set.insert(socket.as_fd());
                select(None, &mut set, None, None, None)? == 1
            }
            Self::Ring(ring) => poll_by_ring(&mut ring.borrow_mut(), socket)? == libc::POLLIN,
        };
        ensure!(ready, "not readable, or more than that");
        Ok(())
    }
}

/// What a poll by io_uring says.
fn poll_by_ring(ring: &mut IoUring, socket: &TcpStream) -> Result<i16> {
    let fd = types::Fd(socket.as_raw_fd());
    let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
    // SAFETY: it has no buffer, and is over when this returns.
    unsafe { ring.submission().push(&poll) }.context("submission queue is full")?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().context("no completion")?;
    Ok(i16::try_from(done.result())?)
}

fn in_epoll(env: &Env) -> Result<Claim> {
    spins(env, |socket| {
        Ok(Wait::Epoll(Watch::level(socket, libc::EPOLLIN)?))
    })
}

fn in_epoll_by_edges(env: &Env) -> Result<Claim> {
    spins(env, |socket| {
        Ok(Wait::Epoll(Watch::edge(socket, libc::EPOLLIN)?))
    })
}

/// EPIOCSPARAMS, without and with a preference for polling, is enough where the sysctl is 0.
fn in_epoll_by_its_setting(env: &Env) -> Result<Claim> {
    let usual = spins_under("0", MESSAGES / 2, env, |socket| set_to_poll(socket, false))?;
    let preferred = spins_under("0", MESSAGES / 2, env, |socket| set_to_poll(socket, true))?;
    Ok(usual.and(preferred))
}

fn set_to_poll(socket: &TcpStream, prefer: bool) -> Result<Wait> {
    let watch = Watch::level(socket, libc::EPOLLIN)?;
    watch.busy_poll(LONG.parse()?, prefer)?;
    Ok(Wait::Epoll(watch))
}

fn in_poll(env: &Env) -> Result<Claim> {
    spins(env, |_| Ok(Wait::Poll))
}

fn in_select(env: &Env) -> Result<Claim> {
    spins(env, |_| Ok(Wait::Select))
}

/// It polls NAPIs for whoever asked it to, and has to find ours. It stops for good as soon as anybody else wants the processor
/// (`io_napi_blocking_busy_loop()`), so it need not be found running as often as the others; without our NAPI it was, before 1 of 40 messages.
fn in_io_uring(env: &Env) -> Result<Claim> {
    spins_before(MESSAGES / 8, env, |_| {
        let ring = IoUring::new(4).context("failed to make io_uring")?;
        let mut napi = types::Napi::new().set_busy_poll_timeout(LONG.parse()?);
        ring.submitter()
            .register_napi(&mut napi)
            .context("io_uring does not poll NAPIs")?;
        Ok(Wait::Ring(Box::new(ring.into())))
    })
}

/// The tool raises net.core.busy_poll for a policy with a budget, says so, and puts it back; but not what somebody else has set.
fn sysctl_is_put_back(_env: &Env) -> Result<Claim> {
    let set = |us: u32| {
        fs::write(policy::BUSY_POLL, us.to_string()).with_context(|| policy::BUSY_POLL.to_owned())
    };
    let is = |want: u32, when: &str| -> Result<()> {
        let us = fs::read_to_string(policy::BUSY_POLL)?;
        ensure!(us.trim() == want.to_string(), "{} {when}", us.trim());
        Ok(())
    };
    let with_budget = |us: &str| policy::enable(&["--busy-poll-us", us]);
    is(0, "to begin with")?;
    with_budget("50")?;
    is(50, "with a budget of 50")?;
    let status = run(&[policy::CTL, "status"])?;
    ensure!(status.contains("50 us (0 before"), "status says {status}");
    with_budget("70")?;
    is(70, "with a budget of 70")?;
    policy::enable(&[])?;
    is(0, "without a budget")?;
    with_budget("50")?;
    policy::disable()?;
    is(0, "after disable")?;
    set(30)?;
    with_budget("20")?;
    is(30, "with a budget below what was set")?;
    with_budget("50")?;
    is(50, "with a budget above what was set")?;
    policy::disable()?;
    is(30, "after disable, as it was set")?;
    with_budget("50")?;
    set(60)?;
    policy::disable()?;
    is(60, "after disable, as it was set meanwhile")?;
    set(0)?;
    policy::enable(&[])?;
    is(0, "at the end")?;
    Ok(Claim::untouched())
}

/// Only this processor for the calling thread.
fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Round trips that are looked at together.
const LOOK: u64 = 500;

/// What the list says of both ends.
fn both(port: u16, field: &str) -> Result<[u64; 2]> {
    let listed = listed(port)?;
    Ok(["client", "server"].map(|end| listed[end][field].as_u64().unwrap_or(0)))
}

/// How often either end was woken, by bytes or ahead of them.
fn woken(port: u16) -> Result<u64> {
    let ahead = Counters::read()?.get("wakes_ahead")?;
    Ok(both(port, "wakes")?.iter().sum::<u64>() + ahead)
}

/// What [`answers`] found.
struct Answers {
    /// Of some in a row, most woke nobody.
    caught: bool,
    /// How long the ends have spun without having been told to, in microseconds.
    spun: [u64; 2],
    /// How often almost all of some in a row took so short that an end could spin for all of it.
    chances: u32,
}

/// Who answers.
#[derive(Clone, Copy, PartialEq)]
enum Answerer {
    /// A thread that waits for the question in recv().
    Blocks,
    /// One that never sleeps, and answers after [`THOUGHT`]: whoever does not spin is asleep by then.
    Polls,
}

/// Longer than falling asleep takes, shorter than an end may spin.
const THOUGHT: Duration = Duration::from_micros(200);

impl Answerer {
    fn answer(self, server: &TcpStream) -> Result<()> {
        let mut byte = [0];
        let flags = match self {
            Answerer::Blocks => 0,
            Answerer::Polls => libc::MSG_DONTWAIT,
        };
        loop {
            match sys::recv(server, &mut byte, flags) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if self == Answerer::Polls {
                let asked = Instant::now();
                while asked.elapsed() < THOUGHT {
                    std::hint::spin_loop();
                }
            }
            sys::send(server, &byte, 0)?;
        }
    }
}

/// Round trips between two processors, until `rounds` are over, [`PATIENCE`] is, or, of some in a row, most answers woke nobody.
fn answers(env: &Env, answerer: Answerer, rounds: u64) -> Result<Answers> {
    let Conn { client, server } = env.conn()?;
    let port = client.local_addr()?.port();
    let answer = thread::spawn(move || {
        stay_on(1)?;
        answerer.answer(&server)
    });
    // One that polls is never woken.
    let sleepers = if answerer == Answerer::Blocks { 2 } else { 1 };
    let ask = thread::spawn(move || -> Result<Answers> {
        stay_on(0)?;
        let (mut short, mut chances) = (0, 0);
        let mut before = woken(port)?;
        let (mut caught, first) = (false, Instant::now());
        for round in 0..rounds {
            let begun = Instant::now();
            PATTERN.write(&client, round, 1)?;
            PATTERN.read(&client, round, 1)?;
            short += u64::from(begun.elapsed() < SHORT);
            if round % LOOK == LOOK - 1 {
                let now = woken(port)?;
                caught = 2 * (now - before) < sleepers * LOOK;
                before = now;
                chances += u32::from(short > LOOK * 9 / 10);
                short = 0;
            }
            if caught || first.elapsed() > PATIENCE {
                break;
            }
        }
        let spun = both(port, "spun_us")?;
        client.shutdown(Shutdown::Write)?;
        Ok(Answers {
            caught,
            spun,
            chances,
        })
    });
    let result = ask.join().expect("asking thread panicked")?;
    answer.join().expect("answering thread panicked")?;
    Ok(result)
}

/// As long as an end may spin on its own account, in microseconds.
const SPIN_MOST: u64 = 1000;

/// A round trip of which no part is longer than that.
const SHORT: Duration = Duration::from_micros(SPIN_MOST / 2);

/// A machine on which so many round trips take so long is one on which nobody is answered fast.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many times a machine may be quick enough before the ends have learnt.
const CHANCES: u32 = 5;

/// What [`answers`] finds where ends may spin for `us` microseconds on their own account.
fn spinning(us: u64, env: &Env, answerer: Answerer, rounds: u64) -> Result<Answers> {
    fs::write(policy::SPIN_US, us.to_string())?;
    let result = answers(env, answerer, rounds);
    fs::write(policy::SPIN_US, policy::SPIN_US_DEFAULT)?;
    result
}

/// Without a budget, an end that is answered fast learns to spin; but not when that is switched off. The other end does not sleep, so it does not
/// matter how fast the machine wakes a thread, only that it lets both threads run at once.
fn as_learnt(env: &Env) -> Result<Claim> {
    let rounds = pace::count(100, 20) * LOOK;
    let Answers {
        caught,
        spun,
        chances,
    } = spinning(SPIN_MOST, env, Answerer::Polls, rounds)?;
    ensure!(
        caught || chances < CHANCES,
        "most answers found nobody spinning: {spun:?} us in all"
    );
    // The list has it at the end whose bytes were awaited.
    ensure!(spun[1] > 0 || !caught, "most answers woke nobody who spins");
    let Answers { caught, spun, .. } = spinning(0, env, Answerer::Polls, 4 * LOOK)?;
    ensure!(spun == [0, 0], "spun for {spun:?} us although switched off");
    ensure!(!caught, "most answers woke nobody although nobody spins");
    Ok(Claim::ring(10 * LOOK as usize).pairs(2))
}

/// Two ends that wait for each other both learn to spin, unless the machine takes longer to wake one than they may spin.
fn as_both_learnt(env: &Env) -> Result<Claim> {
    let Answers {
        caught,
        spun,
        chances,
    } = spinning(
        SPIN_MOST,
        env,
        Answerer::Blocks,
        pace::count(100, 10) * LOOK,
    )?;
    ensure!(
        caught || chances < CHANCES,
        "most answers found nobody spinning: {spun:?} us in all"
    );
    let spun = spun.iter().all(|&us| us > 0);
    ensure!(spun || !caught, "most answers woke nobody who spins");
    Ok(Claim::ring(2 * LOOK as usize))
}
