// SPDX-License-Identifier: GPL-2.0-only
//! Busy polling changes how long a receive takes and nothing else.

use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::policy;

use crate::asleep::Asleep;
use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;
use crate::sys;

pub const ALL: &[Scenario] = &[
    Scenario::each("by_socket_option", by_socket_option),
    Scenario::each("by_policy", by_policy).reconfigures(),
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
