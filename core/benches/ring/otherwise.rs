// SPDX-License-Identifier: GPL-2.0-only
//! What the module does not do, to see what it would save: short messages in the cursor's own line, and one copy instead of two.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::link::{Receive, Send, Wait};

/// Bytes of a message that share a cache line with its number.
const SHORT: usize = 48;
/// Lines of a ring.
const LINES: usize = 1024;

/// A cache line: a message and its number, by which the receiver sees that it is there (FastForward; Giacomoni et al., PPoPP 2008).
#[repr(align(64))]
struct Line {
    number: AtomicU64,
    bytes: UnsafeCell<[u8; SHORT]>,
}

/// A line of its own.
#[repr(align(64))]
struct Padded(AtomicU64);

struct Lines {
    lines: Box<[Line]>,
    /// Messages that the receiver is through with.
    cons: Padded,
}

// SAFETY: a line is the sender's until it has stored the message's number (release), the receiver's when it has seen that (acquire), and the
// sender's again when it has seen `cons` behind it.
unsafe impl Sync for Lines {}

/// The sending side of a ring of lines.
pub struct LineSender {
    ring: Arc<Lines>,
    sent: u64,
    /// As last seen.
    cons: u64,
}

/// The receiving side.
pub struct LineReceiver {
    ring: Arc<Lines>,
    got: u64,
}

impl Lines {
    fn line(&self, number: u64) -> &Line {
        &self.lines[number as usize % LINES]
    }
}

/// A new ring of lines.
pub fn lines() -> (LineSender, LineReceiver) {
    let line = || Line {
        number: AtomicU64::new(0),
        bytes: UnsafeCell::new([0; SHORT]),
    };
    let ring = Arc::new(Lines {
        lines: (0..LINES).map(|_| line()).collect(),
        cons: Padded(AtomicU64::new(0)),
    });
    let sender = LineSender {
        ring: ring.clone(),
        sent: 0,
        cons: 0,
    };
    (sender, LineReceiver { ring, got: 0 })
}

impl Send for LineSender {
    fn send(&mut self, message: &[u8]) {
        for part in message.chunks(SHORT) {
            let mut wait = Wait::default();
            while self.sent - self.cons == LINES as u64 {
                self.cons = self.ring.cons.0.load(Ordering::Acquire);
                wait.more();
            }
            let line = self.ring.line(self.sent);
            // SAFETY: the line is the sender's, by `cons`, and has room for a part.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), line.bytes.get().cast(), part.len()) };
            self.sent += 1;
            line.number.store(self.sent, Ordering::Release);
        }
    }
}

impl Receive for LineReceiver {
    fn receive(&mut self, buffer: &mut [u8]) {
        for part in buffer.chunks_mut(SHORT) {
            let (line, mut wait) = (self.ring.line(self.got), Wait::default());
            self.got += 1;
            while line.number.load(Ordering::Acquire) != self.got {
                wait.more();
            }
            // SAFETY: the line is the receiver's, by its number, and has as many bytes.
            unsafe {
                ptr::copy_nonoverlapping(line.bytes.get().cast(), part.as_mut_ptr(), part.len());
            }
            if self.got % (LINES as u64 / 4) == 0 {
                self.ring.cons.0.store(self.got, Ordering::Release);
            }
        }
    }
}

/// Where the receiver waits for a message; null: nowhere.
struct Place {
    at: AtomicPtr<u8>,
    length: AtomicUsize,
}

/// One side of one copy.
pub struct Direct(Arc<Place>);

/// A receiver whose buffer the sender copies into.
pub fn direct() -> (Direct, Direct) {
    let place = Arc::new(Place {
        at: AtomicPtr::new(ptr::null_mut()),
        length: AtomicUsize::new(0),
    });
    (Direct(place.clone()), Direct(place))
}

impl Send for Direct {
    fn send(&mut self, message: &[u8]) {
        let mut wait = Wait::default();
        loop {
            let to = self.0.at.load(Ordering::Acquire);
            if !to.is_null() {
                let length = self.0.length.load(Ordering::Relaxed);
                assert!(length == message.len(), "it waits for {length} bytes");
                // SAFETY: a buffer of this size, which its owner leaves alone until the place is null.
                unsafe { ptr::copy_nonoverlapping(message.as_ptr(), to, length) };
                return self.0.at.store(ptr::null_mut(), Ordering::Release);
            }
            wait.more();
        }
    }
}

impl Receive for Direct {
    fn receive(&mut self, buffer: &mut [u8]) {
        self.0.length.store(buffer.len(), Ordering::Relaxed);
        self.0.at.store(buffer.as_mut_ptr(), Ordering::Release);
        let mut wait = Wait::default();
        while !self.0.at.load(Ordering::Acquire).is_null() {
            wait.more();
        }
    }
}
