// SPDX-License-Identifier: GPL-2.0-only
//! Random programs of socket calls on both ends of a connection, against a model of what TCP answers.
//!
//! A failure names its seed; `TCP_SPLICE_SEED=N` in the environment runs that program alone.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use libc::{
    EPOLLIN, EPOLLOUT, EPOLLRDHUP, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL,
};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::pattern::Pattern;
use tcp_splice_world::sizes;

use crate::env::{Claim, Conn, Env, wait_until};
use crate::scenario::Scenario;
use crate::scenarios::ready::Watch;
use crate::sys;

pub const ALL: &[Scenario] = &[
    // A program may end with a socket that TCP keeps for minutes (counters::settle()).
    Scenario::each("calls_against_a_model", calls_against_a_model).limit(360),
];

const PROGRAMS: u64 = 25;
const STEPS: usize = 150;
/// With at most this many bytes under way, more can be sent.
const LITTLE: u64 = 30_000;

/// One direction of the connection.
#[derive(Debug, Default)]
struct Flow {
    sent: u64,
    received: u64,
    shut: bool,
}

impl Flow {
    fn under_way(&self) -> u64 {
        self.sent - self.received
    }
}

/// A connection, the random numbers that drive it, and what should be true of it. Index 0 is the client, also as a sender.
struct World<'a> {
    ends: [TcpStream; 2],
    flows: [Flow; 2],
    patterns: [Pattern; 2],
    rng: Rng,
    env: &'a Env,
    before: Counters,
    trace: Vec<String>,
}

fn calls_against_a_model(env: &Env) -> Result<Claim> {
    let seeds = match std::env::var("TCP_SPLICE_SEED") {
        Ok(seed) => vec![seed.parse().context("TCP_SPLICE_SEED is not a number")?],
        Err(_) => (0..PROGRAMS).map(|_| fastrand::u64(..)).collect(),
    };
    let (mut bytes, mut in_ring) = (0, 0);
    for seed in seeds {
        let Conn { client, server } = env.conn()?;
        let mut world = World {
            ends: [client, server],
            flows: Default::default(),
            patterns: [Pattern::new(seed), Pattern::new(!seed)],
            rng: Rng::with_seed(seed),
            env,
            before: env.counters()?,
            trace: Vec::new(),
        };
        let run = (0..STEPS)
            .try_for_each(|_| world.step())
            .and_then(|()| world.finish());
        run.with_context(|| {
            let last = world.trace.iter().rev().take(12).rev();
            let last: Vec<_> = last.map(String::as_str).collect();
            format!("TCP_SPLICE_SEED={seed}, after: {}", last.join("; "))
        })?;
        bytes += world.flows[0].sent + world.flows[1].sent;
        if env.spliced() {
            in_ring += env.since(&world.before)?.get("ring_bytes")?;
        }
    }
    // The steps that need TCP take more with them, until all before them is read.
    ensure!(
        !env.spliced() || in_ring >= bytes / 5,
        "{in_ring} of {bytes} bytes went through rings"
    );
    Ok(Claim::ring(in_ring as usize).tcp(bytes as usize))
}

impl World<'_> {
    fn step(&mut self) -> Result<()> {
        let end = self.rng.usize(..2);
        let length = sizes::length(&mut self.rng);
        let what = self.rng.u32(..100);
        self.trace.push(format!("{what} at {end}, {length} bytes"));
        match what {
            0..35 => self.send(end, length, false),
            35..40 => self.send(end, length.min(3000), true),
            40..65 => self.receive(end, length, 0),
            65..70 => self.receive(end, length, MSG_WAITALL),
            70..75 => self.receive(end, length, MSG_TRUNC),
            75..84 => self.receive(end, length, MSG_PEEK),
            84..90 => self.count(end),
            90..99 => self.poll(end),
            _ if self.rng.u32(..4) == 0 => self.shut(end),
            _ => Ok(()),
        }
    }

    fn send(&mut self, end: usize, length: usize, by_packets: bool) -> Result<()> {
        let flow = &mut self.flows[end];
        let bytes = self.patterns[end].bytes(flow.sent, length);
        let result = if by_packets && flow.under_way() < LITTLE && !flow.shut {
            sys::send_with_timestamp(&self.ends[end], &bytes)
        } else {
            sys::send(&self.ends[end], &bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
        };
        match result {
            Ok(count) => {
                ensure!(!flow.shut, "sent after a shutdown");
                ensure!(0 < count && count <= length, "sent {count} of {length}");
                flow.sent += count as u64;
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                ensure!(flow.shut, "EPIPE without a shutdown");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let under_way = flow.under_way();
                ensure!(
                    under_way > LITTLE,
                    "EAGAIN with {under_way} bytes under way"
                );
            }
            Err(error) => bail!("send failed: {error}"),
        }
        Ok(())
    }

    /// Waits until all that is under way to `end` can be read there. False: that cannot be waited for. TCP itself may keep a part of
    /// many small messages at the sender, when their packets fill the receiver's buffer.
    fn settle(&self, end: usize) -> Result<bool> {
        let under_way = self.flows[1 - end].under_way();
        if under_way > LITTLE || !self.env.spliced() {
            return Ok(false);
        }
        if self.env.since(&self.before)?.get("tcp_bytes")? > LITTLE {
            return Ok(false);
        }
        let mut said = 0;
        wait_until("all bytes in the receiver's queue", || {
            said = sys::readable_bytes(&self.ends[end])? as u64;
            Ok(said == under_way)
        })
        .with_context(|| format!("FIONREAD says {said}, {under_way} under way"))?;
        Ok(true)
    }

    fn receive(&mut self, end: usize, length: usize, flags: i32) -> Result<()> {
        let exact = self.settle(end)?;
        let flow = &mut self.flows[1 - end];
        let under_way = flow.under_way();
        let ended = flow.shut && under_way == 0;
        let mut buffer = vec![0; length];
        let mut got = None;
        wait_until("what recv should say", || {
            got = Some(sys::recv(
                &self.ends[end],
                &mut buffer,
                flags | MSG_DONTWAIT,
            ));
            // Bytes, or a FIN, may still be on their way through TCP.
            let again = matches!(&got, Some(Err(error)) if error.kind() == ErrorKind::WouldBlock);
            Ok(!again || (under_way == 0 && !ended))
        })?;
        let count = match got.context("recv was not called")? {
            Ok(count) => count as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => bail!("recv failed: {error}"),
        };
        let most = under_way.min(length as u64);
        ensure!(
            if exact {
                count == most
            } else {
                (count > 0 || ended) && count <= most
            },
            "recv gave {count} bytes, {under_way} under way"
        );
        if flags & MSG_TRUNC == 0 {
            self.patterns[1 - end].check(flow.received, &buffer[..count as usize])?;
        }
        if flags & MSG_PEEK == 0 {
            flow.received += count;
        }
        Ok(())
    }

    fn count(&mut self, end: usize) -> Result<()> {
        if !self.settle(end)? {
            let (there, most) = (
                sys::readable_bytes(&self.ends[end])? as u64,
                self.flows[1 - end].under_way(),
            );
            ensure!(there <= most, "FIONREAD says {there} of {most}");
        }
        Ok(())
    }

    fn poll(&mut self, end: usize) -> Result<()> {
        let (out, flow) = (&self.flows[end], &self.flows[1 - end]);
        let readable = flow.under_way() > 0 || flow.shut;
        let watch = Watch::level(&self.ends[end], EPOLLIN | EPOLLOUT | EPOLLRDHUP)?;
        let mut said = 0;
        wait_until("what epoll should say", || {
            said = watch.events(Duration::ZERO)?;
            Ok((said & EPOLLIN != 0) == readable
                && ((said & EPOLLRDHUP != 0) == flow.shut || flow.under_way() > LITTLE)
                && (said & EPOLLOUT != 0 || out.under_way() > LITTLE))
        })
        .with_context(|| format!("epoll said {said:#x}, {} under way", flow.under_way()))
    }

    fn shut(&mut self, end: usize) -> Result<()> {
        let again = std::mem::replace(&mut self.flows[end].shut, true);
        match self.ends[end].shutdown(Shutdown::Write) {
            // Both directions have ended already.
            Err(error) if error.kind() == ErrorKind::NotConnected && again => Ok(()),
            result => result.context("shutdown failed"),
        }
    }

    /// Every byte arrives, and then the end.
    fn finish(&mut self) -> Result<()> {
        for end in 0..2 {
            self.shut(end)?;
        }
        for end in 0..2 {
            let (flow, pattern) = (&self.flows[1 - end], self.patterns[1 - end]);
            pattern.read_to_end(&self.ends[end], flow.received, flow.under_way() as usize)?;
        }
        Ok(())
    }
}
