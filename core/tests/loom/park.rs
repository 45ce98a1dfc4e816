// SPDX-License-Identifier: GPL-2.0-only
//! Who sleeps and who wakes, in both directions, with what the kernel's wait queues promise and no more.
//!
//! A sleeper puts itself on the queue under the queue's lock, and `prepare_to_wait()` ends with a full barrier. Whoever wakes looks at the
//! queue without its lock after a barrier of his own (`waitqueue_active()`), or takes the lock.

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;
use tcp_splice_core::cursors::{Cursors, writeable};
use tcp_splice_core::handoff::{Handoff, Snapshot, may_start};
use tcp_splice_core::park::Turn;

/// A wait queue with room for one.
struct Queue {
    entries: Mutex<u32>,
    /// `waitqueue_active()`: the list's head, read without the lock.
    active: AtomicBool,
    thread: Notify,
}

impl Queue {
    fn new() -> Self {
        Queue {
            entries: Mutex::new(0),
            active: AtomicBool::new(false),
            thread: Notify::new(),
        }
    }

    /// `prepare_to_wait()`.
    fn prepare(&self) {
        let mut entries = self.entries.lock().unwrap();
        *entries = 1;
        self.active.store(true, Ordering::Relaxed);
        drop(entries);
        fence(Ordering::SeqCst);
    }

    /// `finish_wait()`.
    fn finish(&self) {
        let mut entries = self.entries.lock().unwrap();
        *entries = 0;
        self.active.store(false, Ordering::Relaxed);
    }

    /// Sleeps until `ready` says that there is no reason to. Should nobody wake it, loom reports a deadlock.
    fn sleep_until(&self, mut ready: impl FnMut() -> bool) {
        loop {
            self.prepare();
            if ready() {
                break;
            }
            self.thread.wait();
        }
        self.finish();
    }

    /// `ts_notify_readable()`, `skwq_has_sleeper()`: `true` if somebody was there.
    fn wake_if_active(&self) -> bool {
        fence(Ordering::SeqCst);
        let active = self.active.load(Ordering::Relaxed);
        if active {
            self.wake();
        }
        active
    }

    /// `ts_wake_writers()`: takes the lock, whoever is there.
    fn wake(&self) -> bool {
        let there = *self.entries.lock().unwrap() > 0;
        if there {
            self.thread.notify();
        }
        there
    }
}

/// Both ends sleep whenever they can: a sender through a ring of two bytes, and its receiver.
#[test]
fn both_sides_of_a_lane_sleep_and_wake() {
    const CAPACITY: u64 = 2;
    const BYTES: u64 = 3;
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let lane = Arc::new((Cursors::new(), Queue::new(), Queue::new()));
        let receiver = thread::spawn({
            let lane = lane.clone();
            move || {
                let (cursors, readers, writers) = &*lane;
                for cons in 0..BYTES {
                    if cursors.prod().bytes <= cons {
                        readers.sleep_until(|| cursors.prod().bytes > cons);
                    }
                    if cursors.consume(cons, 1) && cursors.is_worth_waking(CAPACITY, cons + 1) {
                        writers.wake_if_active();
                    }
                }
            }
        });
        let (cursors, readers, writers) = &*lane;
        for prod in 0..BYTES {
            if prod - cursors.cons() == CAPACITY {
                // may_go_on() of send.rs
                writers.sleep_until(|| writeable(CAPACITY, prod - cursors.want_space()));
            }
            cursors.publish(prod, 1).unwrap();
            readers.wake_if_active();
        }
        receiver.join().unwrap();
    });
}

/// A request and its answer: each end wakes the other, and then sleeps for it.
#[test]
fn two_lanes_wake_each_other() {
    loom::model(|| {
        let lanes = Arc::new([
            (Cursors::new(), Queue::new()),
            (Cursors::new(), Queue::new()),
        ]);
        let server = thread::spawn({
            let lanes = lanes.clone();
            move || {
                let [(requests, sleeper), (answers, client)] = &*lanes;
                sleeper.sleep_until(|| requests.prod().bytes == 1);
                answers.publish(0, 1).unwrap();
                client.wake_if_active();
            }
        });
        let [(requests, server_sleeps), (answers, sleeper)] = &*lanes;
        requests.publish(0, 1).unwrap();
        server_sleeps.wake_if_active();
        sleeper.sleep_until(|| answers.prod().bytes == 1);
        server.join().unwrap();
    });
}

/// A non-blocking sender that was told EAGAIN, having asked for space, hears of it: epoll has put it on the queue long before.
#[test]
fn after_eagain_comes_epollout() {
    const CAPACITY: u64 = 4;
    loom::model(|| {
        let lane = Arc::new((Cursors::new(), Queue::new()));
        lane.1.prepare();
        lane.0.publish(0, CAPACITY).unwrap();
        let receiver = thread::spawn({
            let lane = lane.clone();
            move || {
                let mut told = false;
                for cons in 0..2 {
                    if lane.0.consume(cons, 1) && lane.0.is_worth_waking(CAPACITY, cons + 1) {
                        told |= lane.1.wake_if_active();
                    }
                }
                told
            }
        });
        // ask_for_space() of send.rs
        fence(Ordering::SeqCst);
        let cons = lane.0.want_space();
        let eagain = lane.0.prod().bytes - cons == CAPACITY;
        let told = receiver.join().unwrap();
        assert!(told || !eagain, "EAGAIN, and no EPOLLOUT ever");
    });
}

/// close() or a reset at the other end: a sender that sleeps for space goes on.
#[test]
fn a_closing_end_wakes_the_sender() {
    for from_receiver in [true, false] {
        loom::model(move || {
            let lane = Arc::new((Cursors::new(), Queue::new()));
            lane.0.publish(0, 2).unwrap();
            let closer = thread::spawn({
                let lane = lane.clone();
                move || {
                    if from_receiver {
                        lane.0.close_rx();
                    } else {
                        lane.0.close_tx();
                    }
                    lane.1.wake_if_active();
                }
            });
            // may_go_on() of send.rs: the wish before the look at what was closed.
            lane.1.sleep_until(|| {
                let cons = lane.0.want_space();
                let prod = lane.0.prod();
                prod.tx_closed || prod.rx_closed || writeable(2, prod.bytes - cons)
            });
            closer.join().unwrap();
        });
    }
}

/// Senders wait for one whose message is half written; when it is through they go on.
#[test]
fn a_turn_given_back_is_noticed() {
    loom::model(|| {
        let turn = Arc::new((Turn::new(), Queue::new()));
        turn.0.take();
        let owner = thread::spawn({
            let turn = turn.clone();
            move || {
                turn.0.give_back();
                turn.1.wake();
            }
        });
        turn.1.sleep_until(|| !turn.0.is_taken());
        owner.join().unwrap();
    });
}

/// The ring that one sender has grown is seen by another, who sleeps for space in the small one.
#[test]
fn a_grown_ring_is_noticed() {
    loom::model(|| {
        let ring = Arc::new((AtomicU64::new(2), Cursors::new(), Queue::new()));
        ring.1.publish(0, 2).unwrap();
        let grower = thread::spawn({
            let ring = ring.clone();
            move || {
                ring.0.store(8, Ordering::Release);
                ring.2.wake();
            }
        });
        ring.2.sleep_until(|| {
            let cons = ring.1.want_space();
            let used = ring.1.prod().bytes - cons;
            writeable(ring.0.load(Ordering::Acquire), used)
        });
        grower.join().unwrap();
    });
}

/// A reader that waits for more than the ring has (SO_RCVLOWAT, a peek) looks again when the lane goes back to TCP, or is closed by a
/// hand-back, since more will come there.
#[test]
fn a_lane_that_leaves_wakes_its_reader() {
    loom::model(|| {
        let lane = Arc::new((Handoff::new(), Queue::new()));
        lane.0.start(7);
        let sender = thread::spawn({
            let lane = lane.clone();
            move || {
                lane.0.leave(1);
                lane.1.wake_if_active();
            }
        });
        lane.1
            .sleep_until(|| matches!(lane.0.snapshot(), Snapshot::Leaving { .. }));
        sender.join().unwrap();
    });
}

/// A thread that was inside base recv() before the pair existed: either the sender that has published its start sees it on the queue, and
/// goes back to TCP, or the thread, which passes `release_cb` with its entry on the queue, sees the start.
#[test]
fn a_base_reader_is_seen_or_sees() {
    loom::model(|| {
        let lane = Arc::new((Handoff::new(), Cursors::new(), Queue::new()));
        let sender = thread::spawn({
            let lane = lane.clone();
            move || {
                lane.0.start(7);
                // ts_base_reader_asleep()
                fence(Ordering::SeqCst);
                let seen = *lane.2.entries.lock().unwrap() > 0;
                if seen {
                    lane.0.leave(0);
                }
                seen
            }
        });
        // add_wait_queue() has no barrier; tcp_splice_release_cb() has one.
        *lane.2.entries.lock().unwrap() = 1;
        fence(Ordering::SeqCst);
        let kicked = lane.0.in_ring() || !may_start(lane.0.snapshot(), lane.1.cons());
        let seen = sender.join().unwrap();
        assert!(seen || kicked, "asleep in base, the ring in use");
    });
}
