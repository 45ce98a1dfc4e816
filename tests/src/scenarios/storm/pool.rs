// SPDX-License-Identifier: GPL-2.0-only
//! The sockets of one process, which its threads share, and what each of their bytes has to be.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use fastrand::Rng;

/// A process lets go of one when it gets more.
const MOST: usize = 20;

/// What the bytes of a connection look like.
///
/// No stream can be checked where anybody may send and receive. But each byte says of which connection it is and from which end, both as far
/// as that goes with eight bits. The client's port decides, which both ends know, and which a socket that was bound to it keeps when it is
/// disconnected and connects again.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// Of what this end sends.
    pub ours: u8,
    /// Of what it receives.
    pub theirs: u8,
}

impl Marks {
    /// Of the end that connects from `port`.
    pub fn client(port: u16) -> Self {
        let connection = (port.wrapping_mul(0x9e37) >> 9) as u8;
        Self {
            ours: connection << 1,
            theirs: connection << 1 | 1,
        }
    }

    /// Of the other end.
    pub fn server(port: u16) -> Self {
        let client = Self::client(port);
        Self {
            ours: client.theirs,
            theirs: client.ours,
        }
    }
}

/// A socket, or one of several descriptors of it.
#[derive(Debug)]
pub struct Member {
    pub socket: TcpStream,
    pub marks: Marks,
    /// It was bound to its port, so that it may connect again and be the same to others.
    pub bound: bool,
}

/// Those of one process.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Vec<Arc<Member>>>);

impl Pool {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Arc<Member>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds one, and drops any other if there are too many.
    pub fn add(&self, member: Member, rng: &mut Rng) {
        let gone = self.with(|all| {
            let gone = (all.len() >= MOST).then(|| all.swap_remove(rng.usize(..all.len())));
            all.push(Arc::new(member));
            gone
        });
        // Closed without the lock: SO_LINGER or not, it may take its time.
        drop(gone);
    }

    /// Any of them, which others may take out meanwhile.
    pub fn any(&self, rng: &mut Rng) -> Option<Arc<Member>> {
        self.with(|all| (!all.is_empty()).then(|| all[rng.usize(..all.len())].clone()))
    }

    /// Takes any of them out. Closed when nobody is in a call with it any more.
    pub fn take(&self, rng: &mut Rng) -> Option<Arc<Member>> {
        self.with(|all| (!all.is_empty()).then(|| all.swap_remove(rng.usize(..all.len()))))
    }

    /// Takes out this one.
    pub fn remove(&self, member: &Arc<Member>) {
        let gone = self.with(|all| {
            let at = all.iter().position(|it| Arc::ptr_eq(it, member))?;
            Some(all.swap_remove(at))
        });
        drop(gone);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.with(|all| all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_expect_each_other() {
        for port in [1, 32768, 60999] {
            let (client, server) = (Marks::client(port), Marks::server(port));
            assert_eq!((client.ours, client.theirs), (server.theirs, server.ours));
            assert_ne!(client.ours, client.theirs);
        }
    }

    #[test]
    fn neighbours_differ() {
        for port in 32768..60000 {
            let marks = |port| Marks::client(port).ours;
            // The kernel takes every other one.
            assert_ne!(marks(port), marks(port + 1), "{port}");
            assert_ne!(marks(port), marks(port + 2), "{port}");
        }
    }
}
