// SPDX-License-Identifier: GPL-2.0-only
//! The shipped cursors, hand-off word and the atomics of parking and of endpoints' lives under every interleaving and reordering that the C11 model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p tcp-splice-core --release --test loom`
#![cfg(loom)]

#[path = "loom/life.rs"]
mod life;
#[path = "loom/park.rs"]
mod park;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;
use tcp_splice_core::cursors::{Closed, Cursors, writeable};
use tcp_splice_core::handoff::{Handoff, Next, Seen, Snapshot, Source, TcpView};

/// A ring of two bytes whose cells loom watches: a read that races with a write is an error.
struct Ring {
    cursors: Cursors,
    cells: [UnsafeCell<u8>; 2],
}

impl Ring {
    fn new() -> Arc<Self> {
        Arc::new(Ring {
            cursors: Cursors::new(),
            cells: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn cell(&self, pos: u64) -> &UnsafeCell<u8> {
        &self.cells[(pos % 2) as usize]
    }

    /// Writes one byte if there is room, as the sender does.
    fn send(&self, prod: u64, byte: u8) -> Option<Result<(), Closed>> {
        if prod - self.cursors.cons() == 2 {
            return None;
        }
        // SAFETY: a free position, the only sender.
        self.cell(prod).with_mut(|cell| unsafe { *cell = byte });
        Some(self.cursors.publish(prod, 1))
    }

    /// Reads one byte if there is one, as the receiver does; also whether somebody asked for space.
    fn recv(&self, cons: u64) -> Option<(u8, bool)> {
        if self.cursors.prod().bytes == cons {
            return None;
        }
        // SAFETY: a published position, the only receiver.
        let byte = self.cell(cons).with(|cell| unsafe { *cell });
        Some((byte, self.cursors.consume(cons, 1)))
    }
}

#[test]
fn bytes_arrive_once_and_in_order_around_the_wrap() {
    loom::model(|| {
        let ring = Ring::new();
        let sender = thread::spawn({
            let ring = ring.clone();
            move || {
                let mut prod = 0;
                while prod < 3 {
                    match ring.send(prod, prod as u8) {
                        Some(result) => {
                            result.unwrap();
                            prod += 1;
                        }
                        None => thread::yield_now(),
                    }
                }
            }
        });
        let mut cons = 0;
        while cons < 3 {
            match ring.recv(cons) {
                Some((byte, _)) => {
                    assert_eq!(u64::from(byte), cons);
                    cons += 1;
                }
                None => thread::yield_now(),
            }
        }
        sender.join().unwrap();
    });
}

/// A reader looks while the sender writes the next messages: it finds one message whole, or none, and never the next one's words.
#[test]
fn a_short_message_is_found_whole_or_not_at_all() {
    const LEN: usize = 16;
    loom::model(|| {
        let cursors = Arc::new(Cursors::new());
        let sender = thread::spawn({
            let cursors = cursors.clone();
            move || {
                for number in 1..=2u64 {
                    let prod = (number - 1) * LEN as u64;
                    cursors.publish_short(prod, LEN, |_| number).unwrap();
                }
                cursors.publish(2 * LEN as u64, 1).unwrap();
            }
        });
        let (mut cons, mut found) = (0, 0);
        for _ in 0..2 {
            let there = cursors.prod().bytes - cons;
            if there == 0 {
                continue;
            }
            if let Some(words) = cursors.short(cons, there) {
                let number = cons / LEN as u64 + 1;
                assert_eq!(there, LEN as u64);
                assert_eq!((words[0], words[1]), (number, number));
                found += 1;
            }
            cons += there;
        }
        sender.join().unwrap();
        FOUND.fetch_max(found, std::sync::atomic::Ordering::Relaxed);
    });
    // In some order both are.
    assert_eq!(FOUND.load(std::sync::atomic::Ordering::Relaxed), 2);
    static FOUND: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
}

/// A sender that finds no room after asking will be told: no wake-up falls between the two.
#[test]
fn a_wish_for_space_is_not_lost() {
    loom::model(|| {
        let ring = Ring::new();
        ring.send(0, 0).unwrap().unwrap();
        ring.send(1, 1).unwrap().unwrap();
        let receiver = thread::spawn({
            let ring = ring.clone();
            move || {
                let (_, first) = ring.recv(0).unwrap();
                let (_, second) = ring.recv(1).unwrap();
                first || second
            }
        });
        let cons = ring.cursors.want_space();
        let sleeps = !writeable(2, 2 - cons);
        let told = receiver.join().unwrap();
        assert!(told || !sleeps, "asleep with nobody to wake it");
    });
}

/// EPOLLOUT: a poller registers as `sock_poll_wait()` does (on the queue, full barrier), asks for space and looks; the receiver gives
/// bytes back one by one and looks at the queue, with the barrier of `ts_notify_writeable()`, when a quarter is free. Whoever is told
/// "not writeable" is woken.
#[test]
fn a_parking_writer_is_woken_at_a_quarter() {
    const CAPACITY: u64 = 8;
    loom::model(|| {
        let lane = Arc::new((Cursors::new(), AtomicBool::new(false)));
        lane.0.publish(0, CAPACITY).unwrap();
        let receiver = thread::spawn({
            let lane = lane.clone();
            move || {
                let mut wakes = false;
                for cons in 0..3 {
                    if lane.0.consume(cons, 1) && lane.0.is_worth_waking(CAPACITY, cons + 1) {
                        fence(Ordering::SeqCst);
                        wakes |= lane.1.load(Ordering::Relaxed);
                    }
                }
                wakes
            }
        });
        lane.1.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let waits = !writeable(CAPACITY, CAPACITY - lane.0.want_space());
        let woken = receiver.join().unwrap();
        assert!(woken || !waits, "not writeable for ever");
    });
}

/// Whoever comes first, the FIN or the bytes: they are published before it or refused.
#[test]
fn nothing_is_published_after_the_fin() {
    loom::model(|| {
        let ring = Ring::new();
        let closer = thread::spawn({
            let ring = ring.clone();
            move || ring.cursors.close_tx().bytes
        });
        let sent = ring.send(0, 7).unwrap();
        let last = closer.join().unwrap();
        assert_eq!(sent, if last == 1 { Ok(()) } else { Err(Closed::Tx) });
        assert_eq!(ring.cursors.prod().bytes, last);
    });
}

/// A close that finds nothing unread cannot be followed by bytes nobody will read.
#[test]
fn bytes_for_a_gone_reader_are_counted_or_refused() {
    loom::model(|| {
        let ring = Ring::new();
        let closer = thread::spawn({
            let ring = ring.clone();
            move || ring.cursors.close_rx()
        });
        let sent = ring.send(0, 7).unwrap();
        let unread = closer.join().unwrap();
        assert_eq!(unread, u64::from(sent.is_ok()));
        assert!(sent == Ok(()) || sent == Err(Closed::Rx));
    });
}

/// The reader parks as `prepare_to_wait()` does (on the queue, full barrier, look again); the sender publishes, then looks at the
/// queue with the barrier that `ts_notify_readable()` has. One of them sees the other.
#[test]
fn a_parking_reader_is_seen_or_sees() {
    loom::model(|| {
        let ring = Ring::new();
        let queued = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (ring, queued) = (ring.clone(), queued.clone());
            move || {
                queued.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                ring.cursors.prod().bytes == 0
            }
        });
        ring.send(0, 1).unwrap().unwrap();
        fence(Ordering::SeqCst);
        let wakes = queued.load(Ordering::Relaxed);
        let sleeps = reader.join().unwrap();
        assert!(wakes || !sleeps, "asleep with bytes in the ring");
    });
}

/// A snapshot of a leaving lane never mixes the border of one use of the ring with the end of another.
#[test]
fn a_snapshot_is_of_one_moment() {
    loom::model(|| {
        let lane = Arc::new(Handoff::new());
        let reader = thread::spawn({
            let lane = lane.clone();
            move || lane.snapshot()
        });
        lane.start(10);
        lane.leave(1);
        lane.start(20);
        lane.leave(2);
        match reader.join().unwrap() {
            Snapshot::Leaving { border, last } => assert_eq!(u64::from(border), last * 10),
            Snapshot::Ring { border } => assert!(border == 10 || border == 20),
            Snapshot::Tcp => {}
        }
    });
}

/// What the reader of the test below looks at. One byte went over TCP before the ring: sequence number 0.
struct Looks<'a> {
    lane: &'a (Handoff, Cursors, AtomicU64),
    copied: u32,
}

impl Source for Looks<'_> {
    fn tcp(&mut self) -> TcpView {
        TcpView {
            copied: self.copied,
            received: self.lane.2.load(Ordering::Acquire) as u32,
        }
    }

    fn prod(&mut self) -> u64 {
        self.lane.1.prod().bytes
    }

    fn lane(&mut self) -> Snapshot {
        self.lane.0.snapshot()
    }
}

/// The reader's looks against a sender that moves to the ring and back: each gets the bytes that are next.
#[test]
fn the_order_of_looks_protects_the_border() {
    loom::model(|| {
        let lane = Arc::new((Handoff::new(), Cursors::new(), AtomicU64::new(1)));
        let sender = thread::spawn({
            let lane = lane.clone();
            move || {
                lane.0.start(1);
                lane.1.publish(0, 1).unwrap();
                lane.0.leave(1);
                lane.2.store(2, Ordering::Release);
            }
        });
        let seen = Seen::of(&mut Looks {
            lane: &lane,
            copied: 0,
        });
        // The byte before the border is unread: nothing else may be read, whatever was seen.
        assert_eq!(seen.next(0), Next::Tcp(seen.tcp().received.min(1)));
        let seen = Seen::of(&mut Looks {
            lane: &lane,
            copied: 1,
        });
        match seen.next(0) {
            Next::Ring(bytes) => assert_eq!(bytes, 1),
            Next::Await => {}
            Next::Tcp(_) => panic!("TCP's byte behind the ring's overtook it: {seen:?}"),
        }
        sender.join().unwrap();
    });
}
