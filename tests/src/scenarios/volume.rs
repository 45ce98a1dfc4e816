// SPDX-License-Identifier: GPL-2.0-only
//! Many bytes and many connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use tcp_splice_world::pattern::Pattern;

use crate::env::{Claim, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::one("gigabyte_both_ways", gigabyte_both_ways).limit(240),
    Scenario::each("megabytes_both_ways", megabytes_both_ways),
    Scenario::one("connections_10000", connections_10000).limit(240),
    Scenario::each("connections_500", connections_500).limit(120),
];

/// Size of a block. Blocks are equal but for the number in front, so that checking costs one memcmp.
const BLOCK: usize = 1 << 18;

/// A stream of numbered blocks, made from one that is computed once.
struct Blocks {
    block: Vec<u8>,
}

impl Blocks {
    fn new(seed: u64) -> Self {
        Self {
            block: Pattern::new(seed).bytes(0, BLOCK),
        }
    }

    fn number(&mut self, number: u64) -> &[u8] {
        self.block[..8].copy_from_slice(&number.to_le_bytes());
        &self.block
    }

    fn send(mut self, mut to: &TcpStream, length: usize) -> Result<()> {
        for number in 0..length / BLOCK {
            to.write_all(self.number(number as u64))
                .context("failed to send a block")?;
        }
        Ok(())
    }

    fn receive(mut self, mut from: &TcpStream, length: usize) -> Result<()> {
        let mut got = vec![0; BLOCK];
        for number in 0..length / BLOCK {
            from.read_exact(&mut got)
                .with_context(|| format!("failed to read block {number}"))?;
            if got != self.number(number as u64) {
                let wrong = got.iter().zip(&self.block).position(|(a, b)| a != b);
                bail!("wrong byte in block {number} at {wrong:?}");
            }
        }
        Ok(())
    }
}

fn both_ways(env: &Env, length: usize) -> Result<Claim> {
    let conn = env.conn()?;
    let (client, server) = (&conn.client, &conn.server);
    thread::scope(|scope| -> Result<()> {
        let threads = [
            scope.spawn(|| Blocks::new(1).send(client, length)),
            scope.spawn(|| Blocks::new(2).send(server, length)),
            scope.spawn(|| Blocks::new(1).receive(server, length)),
            scope.spawn(|| Blocks::new(2).receive(client, length)),
        ];
        let join =
            |thread: thread::ScopedJoinHandle<Result<()>>| thread.join().expect("thread panicked");
        threads.into_iter().try_for_each(join)
    })?;
    client.shutdown(Shutdown::Write)?;
    let rest = (&conn.server).read(&mut [0])?;
    ensure!(rest == 0, "bytes came after the last one");
    Ok(Claim::ring(2 * length))
}

fn gigabyte_both_ways(env: &Env) -> Result<Claim> {
    both_ways(env, 1 << 30)
}

fn megabytes_both_ways(env: &Env) -> Result<Claim> {
    both_ways(env, 32 << 20)
}

/// Bytes of a request and of its answer.
const MESSAGE: usize = 600;
const CLIENTS: u64 = 32;
const SERVERS: usize = 4;

fn serve_one(mut server: TcpStream) -> Result<bool> {
    let mut seed = [0; 8];
    server
        .read_exact(&mut seed)
        .context("failed to read the seed")?;
    let seed = u64::from_le_bytes(seed);
    if seed == u64::MAX {
        return Ok(false);
    }
    Pattern::new(seed).read(&server, 0, MESSAGE)?;
    Pattern::new(!seed).write(&server, 0, MESSAGE)?;
    Pattern::new(0).read_to_end(&server, 0, 0)?;
    Ok(true)
}

fn serve(listener: &TcpListener) -> Result<()> {
    while serve_one(listener.accept()?.0)? {}
    Ok(())
}

fn ask(env: &Env, listener: &TcpListener, seed: u64) -> Result<()> {
    let mut client = env.link.connect(listener)?;
    let mut request = seed.to_le_bytes().to_vec();
    request.extend(Pattern::new(seed).bytes(0, MESSAGE));
    client.write_all(&request)?;
    Pattern::new(!seed).read(&client, 0, MESSAGE)
}

fn connections(env: &Env, count: u64) -> Result<Claim> {
    let listener = env.link.listen()?;
    let next = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        let servers: Vec<_> = (0..SERVERS)
            .map(|_| scope.spawn(|| serve(&listener)))
            .collect();
        let work = || -> Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= count {
                    return Ok(());
                }
                ask(env, &listener, seed).with_context(|| format!("connection {seed}"))?;
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        for client in clients {
            client.join().expect("client panicked")?;
        }
        for _ in 0..SERVERS {
            env.link
                .connect(&listener)?
                .write_all(&u64::MAX.to_le_bytes())?;
        }
        servers
            .into_iter()
            .try_for_each(|server| server.join().expect("server panicked"))
    })?;
    // The request may leave before the server has accepted, over TCP; the answer goes through the ring.
    let ring = count as usize * MESSAGE;
    Ok(Claim::ring(ring)
        .pairs(count)
        .tcp(count as usize * (MESSAGE + 8)))
}

fn connections_10000(env: &Env) -> Result<Claim> {
    connections(env, 10_000)
}

fn connections_500(env: &Env) -> Result<Claim> {
    connections(env, 500)
}
