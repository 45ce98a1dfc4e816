// SPDX-License-Identifier: GPL-2.0-only
//! A lane on the host: the cursors, chunks and supply of the core, as `kmod/src/ring.rs`, `send.rs` and `recv.rs` use them, without what only the
//! kernel has: locks, sleeping, other people's sockets.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tcp_splice_core::cursors::Cursors;
use tcp_splice_core::span::{Geometry, Supply};

use crate::link::{Receive, Send, Wait};

/// 64 KiB in chunks of 16 KiB, as the module has them.
const CAPACITY_LOG2: u32 = 16;
const CHUNK_LOG2: u32 = 14;
/// Bytes that are published, and given back, at once: as the module has them.
pub const PIECE: u64 = 8192;

/// The bytes of all chunks.
struct Memory(Box<[UnsafeCell<u8>]>);

// SAFETY: every byte belongs to one side at any time: those between `cons` and `prod` to the receiver, all others to the sender; both
// cursors are moved by a release and read by an acquire.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> Self {
        Self((0..bytes).map(|_| UnsafeCell::new(0)).collect())
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let to = &self.0[at..at + bytes.len()];
        // SAFETY: within the slice; the bytes are the sender's, whom this is called by.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr() as *mut u8, bytes.len());
        }
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        let from = &self.0[at..at + bytes.len()];
        // SAFETY: within the slice; the bytes are the receiver's, whom this is called by.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr().cast(), bytes.as_mut_ptr(), bytes.len());
        }
    }
}

struct Lane {
    cursors: Cursors,
    geometry: Geometry,
    /// Where each slot's chunk begins in the memory.
    slots: Box<[AtomicUsize]>,
    memory: Memory,
}

impl Lane {
    fn slot(&self, chunk: u64) -> &AtomicUsize {
        &self.slots[self.geometry.slot(chunk)]
    }
}

/// The sending side, in pieces of as many bytes.
pub struct Sender<const PIECE: u64> {
    lane: Arc<Lane>,
    prod: u64,
    /// As last seen.
    cons: u64,
    supply: Supply,
    /// Chunks that were taken from the memory so far.
    taken: usize,
}

/// The receiving side.
pub struct Receiver<const PIECE: u64> {
    lane: Arc<Lane>,
    /// As last seen.
    prod: u64,
    cons: u64,
}

/// A new lane.
pub fn new<const PIECE: u64>() -> (Sender<PIECE>, Receiver<PIECE>) {
    // Without a head: what is measured is far behind it.
    let geometry = Geometry::new(CAPACITY_LOG2, CHUNK_LOG2, 0).expect("smaller than 2^40");
    let lane = Arc::new(Lane {
        cursors: Cursors::new(),
        geometry,
        slots: (0..geometry.slots()).map(|_| AtomicUsize::new(0)).collect(),
        memory: Memory::new(geometry.slots() * geometry.chunk_bytes()),
    });
    let sender = Sender {
        lane: lane.clone(),
        prod: 0,
        cons: 0,
        supply: Supply::new(),
        taken: 0,
    };
    let receiver = Receiver {
        lane,
        prod: 0,
        cons: 0,
    };
    (sender, receiver)
}

impl<const PIECE: u64> Sender<PIECE> {
    /// Where the chunk's memory begins; the oldest chunk's that the receiver is through with, where there is one.
    fn memory(&mut self, chunk: u64) -> usize {
        let slot = self.lane.slot(chunk);
        if self.supply.reaches(chunk) {
            return slot.load(Ordering::Relaxed);
        }
        self.cons = self.lane.cursors.cons();
        let start = match self.supply.take(self.lane.geometry, self.cons) {
            Some(old) => self.lane.slot(old).load(Ordering::Relaxed),
            None => {
                self.taken += 1;
                (self.taken - 1) * self.lane.geometry.chunk_bytes()
            }
        };
        slot.store(start, Ordering::Relaxed);
        self.supply.extend();
        start
    }

    fn room(&mut self) -> u64 {
        let capacity = self.lane.geometry.capacity();
        let mut wait = Wait::default();
        while self.prod - self.cons == capacity {
            self.cons = self.lane.cursors.cons();
            wait.more();
        }
        capacity - (self.prod - self.cons)
    }
}

impl<const PIECE: u64> Send for Sender<PIECE> {
    fn send(&mut self, mut message: &[u8]) {
        while !message.is_empty() {
            let want = self.room().min(PIECE).min(message.len() as u64);
            let span = self.lane.geometry.span(self.prod, want);
            let start = self.memory(span.chunk) + span.offset;
            let (piece, rest) = message.split_at(span.len);
            self.lane.memory.write(start, piece);
            let published = self.lane.cursors.publish(self.prod, span.len as u64);
            published.expect("nobody closes it");
            self.prod += span.len as u64;
            message = rest;
        }
    }
}

impl<const PIECE: u64> Receiver<PIECE> {
    fn there(&mut self) -> u64 {
        let mut wait = Wait::default();
        while self.prod == self.cons {
            self.prod = self.lane.cursors.prod().bytes;
            wait.more();
        }
        self.prod - self.cons
    }
}

impl<const PIECE: u64> Receive for Receiver<PIECE> {
    fn receive(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let want = self.there().min(PIECE).min(buffer.len() as u64);
            let span = self.lane.geometry.span(self.cons, want);
            let start = self.lane.slot(span.chunk).load(Ordering::Relaxed) + span.offset;
            let (piece, rest) = buffer.split_at_mut(span.len);
            self.lane.memory.read(start, piece);
            self.lane.cursors.consume(self.cons, span.len as u64);
            self.cons += span.len as u64;
            buffer = rest;
        }
    }
}
