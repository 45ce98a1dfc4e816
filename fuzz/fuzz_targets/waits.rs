// SPDX-License-Identifier: GPL-2.0-only
//! The guesses of those who wait: few spins in a row are vain, early wake-ups are tried again some time, a sender lets TCP come to an end no more
//! often than it may, and nobody wakes an edge-triggered poller without a reason.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tcp_splice_core::ahead::{self, PENALTY_MAX};
use tcp_splice_core::lag::{FIRST, Lag, MOST};
use tcp_splice_core::park::Watch;
use tcp_splice_core::spin::{MISSES, Spin};

#[derive(Arbitrary, Debug)]
enum Op {
    /// A receiver waits for an answer that comes after so many microseconds.
    Await { both: bool, us: u16 },
    /// The state as two threads that share a socket may leave it: that of some time before.
    Lost,
    Guess { right: bool },
    Send(u32),
    Started,
    Poll { edges: bool },
    Publish,
    WakeAhead,
    Deserted,
}

/// What a lane's watch should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poller {
    None,
    Asleep,
    Woken,
    Edges,
}

struct Guesses {
    max_us: u32,
    spin: Spin,
    earlier: Spin,
    /// Since the last one that was not.
    vain: u32,
    ahead: u32,
    skipped: u32,
    lag: Lag,
    /// Over TCP since the last wait, and how many there may be.
    bytes: u64,
    limit: u64,
    watch: Watch,
    poller: Poller,
}

impl Guesses {
    fn await_answer(&mut self, both: bool, us: u32) {
        let (budget, next) = self.spin.plan(both, self.max_us);
        assert!(budget <= self.max_us, "it spins for {budget} us");
        assert!(
            budget == 0 || self.vain < MISSES,
            "{} vain spins in a row",
            self.vain
        );
        let caught = us < budget;
        self.vain = if budget == 0 || caught { 0 } else { self.vain + 1 };
        self.earlier = self.spin;
        self.spin = match budget {
            0 => next,
            _ if caught => next.hit(us),
            _ => next.miss(),
        };
        assert_eq!(Spin::from_word(self.spin.to_word()), self.spin);
    }

    fn guess(&mut self, right: bool) {
        let (wake, next) = ahead::guess(self.ahead);
        self.skipped = if wake { 0 } else { self.skipped + 1 };
        assert!(self.skipped <= PENALTY_MAX, "it never guesses again");
        self.ahead = match (wake, right) {
            (false, _) => next,
            (true, true) => ahead::right(next),
            (true, false) => ahead::wrong(next),
        };
    }

    fn send(&mut self, more: u64) {
        self.bytes += more;
        let over = self.lag.is_over(more);
        assert_eq!(over, self.bytes > self.limit, "{} of {}", self.bytes, self.limit);
        if over {
            self.lag.has_waited();
            (self.bytes, self.limit) = (0, MOST.min(2 * self.limit));
        }
    }

    fn poll(&mut self, edges: bool) {
        let for_nothing = self.watch.polled(edges);
        assert_eq!(for_nothing, !edges && self.poller == Poller::Woken);
        self.poller = match self.poller {
            Poller::Edges => Poller::Edges,
            _ if edges => Poller::Edges,
            _ => Poller::Asleep,
        };
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Await { both, us } => self.await_answer(both, us.into()),
            Op::Lost => (self.spin, self.vain) = (self.earlier, 0),
            Op::Guess { right } => self.guess(right),
            Op::Send(more) => self.send(more.into()),
            Op::Started => (self.lag, self.bytes, self.limit) = (Lag::NONE, 0, FIRST),
            Op::Poll { edges } => self.poll(edges),
            Op::Publish => {
                assert_eq!(self.watch.published(), self.poller == Poller::Woken);
                if self.poller == Poller::Woken {
                    self.poller = Poller::None;
                }
            }
            Op::WakeAhead => {
                assert_eq!(self.watch.is_kept(), self.poller == Poller::Asleep);
                assert_eq!(self.watch.wake(), self.poller == Poller::Asleep);
                if self.poller == Poller::Asleep {
                    self.poller = Poller::Woken;
                }
            }
            Op::Deserted => {
                self.watch.is_deserted();
                if self.poller == Poller::Woken {
                    self.poller = Poller::None;
                }
            }
        }
    }
}

fuzz_target!(|input: (u16, Vec<Op>)| {
    let (max_us, ops) = input;
    let mut guesses = Guesses {
        max_us: max_us.into(),
        spin: Spin::NEW,
        earlier: Spin::NEW,
        vain: 0,
        ahead: 0,
        skipped: 0,
        lag: Lag::NONE,
        bytes: 0,
        limit: FIRST,
        watch: Watch::new(),
        poller: Poller::None,
    };
    for op in ops {
        guesses.step(op);
    }
});
