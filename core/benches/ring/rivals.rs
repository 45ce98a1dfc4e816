// SPDX-License-Identifier: GPL-2.0-only
//! Other people's rings of as many bytes.

use std::io::{ErrorKind, Read, Result, Write};

use ringbuf::traits::{Consumer as _, Producer as _, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};

use crate::link::{Receive, Send, Wait};

/// As many as a lane's.
const CAPACITY: usize = 64 << 10;

/// The crate `rtrb`.
pub struct Rtrb<Side>(Side);

/// A new one.
pub fn rtrb() -> (Rtrb<rtrb::Producer<u8>>, Rtrb<rtrb::Consumer<u8>>) {
    let (sender, receiver) = rtrb::RingBuffer::new(CAPACITY);
    (Rtrb(sender), Rtrb(receiver))
}

/// Bytes that were moved; none if there was nothing to move, or no room.
fn moved(done: Result<usize>) -> usize {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        done => done.expect("the other side is there"),
    }
}

impl Send for Rtrb<rtrb::Producer<u8>> {
    fn send(&mut self, message: &[u8]) {
        let (mut sent, mut wait) = (0, Wait::default());
        while sent < message.len() {
            match moved(self.0.write(&message[sent..])) {
                0 => wait.more(),
                more => sent += more,
            }
        }
    }
}

impl Receive for Rtrb<rtrb::Consumer<u8>> {
    fn receive(&mut self, buffer: &mut [u8]) {
        let (mut got, mut wait) = (0, Wait::default());
        while got < buffer.len() {
            match moved(self.0.read(&mut buffer[got..])) {
                0 => wait.more(),
                more => got += more,
            }
        }
    }
}

/// The crate `ringbuf`.
pub struct Ringbuf<Side>(Side);

/// A new one.
pub fn ringbuf() -> (Ringbuf<HeapProd<u8>>, Ringbuf<HeapCons<u8>>) {
    let (sender, receiver) = HeapRb::new(CAPACITY).split();
    (Ringbuf(sender), Ringbuf(receiver))
}

impl Send for Ringbuf<HeapProd<u8>> {
    fn send(&mut self, message: &[u8]) {
        let (mut sent, mut wait) = (0, Wait::default());
        while sent < message.len() {
            match self.0.push_slice(&message[sent..]) {
                0 => wait.more(),
                more => sent += more,
            }
        }
    }
}

impl Receive for Ringbuf<HeapCons<u8>> {
    fn receive(&mut self, buffer: &mut [u8]) {
        let (mut got, mut wait) = (0, Wait::default());
        while got < buffer.len() {
            match self.0.pop_slice(&mut buffer[got..]) {
                0 => wait.more(),
                more => got += more,
            }
        }
    }
}
