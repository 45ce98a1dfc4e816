// SPDX-License-Identifier: GPL-2.0-only
//! A lane on the host: the cursors, chunks and supply of the core, as `kmod/src/ring.rs`, `send.rs` and `recv.rs` use them, without what only the
//! kernel has: locks, sleeping, other people's sockets.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tcp_splice_core::cursors::Cursors;
use tcp_splice_core::short::{SHORT, Words};
use tcp_splice_core::span::{Geometry, Supply, piece};

use crate::link::{Receive, Send, Wait};

/// 64 KiB in chunks of 16 KiB, as the module has them.
const CAPACITY_LOG2: u32 = 16;
const CHUNK_LOG2: u32 = 14;

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

/// Bytes that are published, or given back, at a time: so many, or for 0 as many as the module would.
fn at_a_time<const PIECE: u64>(rest: u64) -> u64 {
    match PIECE {
        0 => piece(rest, 1 << CAPACITY_LOG2),
        fixed => rest.min(fixed),
    }
}

/// The sending side, in pieces of as many bytes; messages up to `COPIED` stand beside `prod` too.
pub struct Sender<const PIECE: u64, const COPIED: usize> {
    lane: Arc<Lane>,
    prod: u64,
    /// As last seen.
    cons: u64,
    supply: Supply,
    /// Chunks that were taken from the memory so far.
    taken: usize,
}

/// The receiving side.
pub struct Receiver<const PIECE: u64, const COPIED: usize> {
    lane: Arc<Lane>,
    /// As last seen.
    prod: u64,
    cons: u64,
}

/// A lane as the module has it.
pub fn shipped() -> (Sender<0, SHORT>, Receiver<0, SHORT>) {
    new()
}

/// A new lane.
pub fn new<const PIECE: u64, const COPIED: usize>()
-> (Sender<PIECE, COPIED>, Receiver<PIECE, COPIED>) {
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

/// Eight bytes of a short message, zeroes behind the last.
fn word(message: &[u8], index: usize) -> u64 {
    let rest = &message[8 * index..];
    let mut word = [0; 8];
    match rest.first_chunk() {
        Some(whole) => word = *whole,
        None => word[..rest.len()].copy_from_slice(rest),
    }
    u64::from_ne_bytes(word)
}

/// The first bytes of a short message.
fn put(place: &mut [u8], words: &Words) {
    for (bytes, word) in place.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
    }
}

impl<const PIECE: u64, const COPIED: usize> Sender<PIECE, COPIED> {
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

impl<const PIECE: u64, const COPIED: usize> Send for Sender<PIECE, COPIED> {
    fn send(&mut self, mut message: &[u8]) {
        while !message.is_empty() {
            let want = self.room().min(at_a_time::<PIECE>(message.len() as u64));
            let span = self.lane.geometry.span(self.prod, want);
            let start = self.memory(span.chunk) + span.offset;
            let (piece, rest) = message.split_at(span.len);
            self.lane.memory.write(start, piece);
            let published = if span.len <= COPIED {
                self.lane
                    .cursors
                    .publish_short(self.prod, span.len, |index| word(piece, index))
            } else {
                self.lane.cursors.publish(self.prod, span.len as u64)
            };
            published.expect("nobody closes it");
            self.prod += span.len as u64;
            message = rest;
        }
    }
}

impl<const PIECE: u64, const COPIED: usize> Receiver<PIECE, COPIED> {
    fn there(&mut self) -> u64 {
        let mut wait = Wait::default();
        while self.prod == self.cons {
            self.prod = self.lane.cursors.prod().bytes;
            wait.more();
        }
        self.prod - self.cons
    }
}

impl<const PIECE: u64, const COPIED: usize> Receive for Receiver<PIECE, COPIED> {
    fn receive(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let there = self.there();
            let want = at_a_time::<PIECE>(there.min(buffer.len() as u64));
            let span = self.lane.geometry.span(self.cons, want);
            let start = self.lane.slot(span.chunk).load(Ordering::Relaxed) + span.offset;
            let (piece, rest) = buffer.split_at_mut(span.len);
            match self.lane.cursors.short(self.cons, there) {
                Some(words) => put(piece, &words),
                None => self.lane.memory.read(start, piece),
            }
            self.lane.cursors.consume(self.cons, span.len as u64);
            self.cons += span.len as u64;
            buffer = rest;
        }
    }
}
