// SPDX-License-Identifier: GPL-2.0-only
//! An exhaustive model: every interleaving of a sender and a receiver over a short stream, checked byte for byte.
use super::*;

#[test]
fn sequence_space_wraps() {
    assert!(before(u32::MAX, 0) && !before(0, u32::MAX) && !before(7, 7));
}

#[test]
fn leave_outside_the_ring_changes_nothing() {
    let h = Handoff::new();
    h.leave(9);
    assert_eq!(h.snapshot(), Snapshot::Tcp);
    h.start(5);
    h.leave(9);
    h.leave(10);
    assert_eq!(h.snapshot(), Snapshot::Leaving { border: 5, last: 9 });
}

/// What the sender may do in one step; each byte sent is the next letter of the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    /// A send() by its own path: through the ring if that is in use, else through TCP.
    Send,
    /// Tries to move to the ring.
    Start,
    /// Goes back to TCP.
    Leave,
    /// A base sender that was on its way since before the start; the next send() of ours sees it and leaves.
    Stray,
    /// TCP delivers one byte in flight to the receiver's queue.
    Deliver,
    /// The receiver closes the ring to publishing.
    Close,
    /// The receiver is handed back, its ring being closed: its unread ring bytes go into TCP's queue.
    HandBack,
    /// The receiver reads what `next` allows, at most this many bytes.
    Read(u32),
    /// The receiver reads TCP's queue, as one that passes us by; only once it was handed back.
    BaseRead,
}

const OPS: [Op; 10] = [
    Op::Send,
    Op::Start,
    Op::Leave,
    Op::Stray,
    Op::Deliver,
    Op::Close,
    Op::HandBack,
    Op::Read(1),
    Op::Read(9),
    Op::BaseRead,
];

/// The stream, its sender, TCP in between and its receiver. Sequence numbers start just below the wrap.
#[derive(Clone)]
struct World {
    lane: Snapshot,
    write_seq: u32,
    received: u32,
    copied: u32,
    /// Sequence number of the first of `tcp`.
    base: u32,
    tcp: Vec<u8>,
    ring: Vec<u8>,
    cons: u64,
    sent: u8,
    got: u8,
    closed: bool,
    handed_back: bool,
}

const ISN: u32 = u32::MAX - 1;

/// The world at the moments of a receiver's looks, whichever they are.
struct Moments<'a>(std::array::IntoIter<&'a World, 3>);

impl<'a> Moments<'a> {
    fn new(worlds: [&'a World; 3]) -> Self {
        Moments(worlds.into_iter())
    }

    fn now(&mut self) -> &'a World {
        self.0.next().expect("three looks")
    }
}

impl Source for Moments<'_> {
    fn tcp(&mut self) -> TcpView {
        self.now().view()
    }

    fn prod(&mut self) -> u64 {
        self.now().prod()
    }

    fn lane(&mut self) -> Snapshot {
        self.now().lane
    }
}

impl World {
    fn new() -> Self {
        World {
            lane: Snapshot::Tcp,
            write_seq: ISN,
            received: ISN,
            copied: ISN,
            base: ISN,
            tcp: Vec::new(),
            ring: Vec::new(),
            cons: 0,
            sent: 0,
            got: 0,
            closed: false,
            handed_back: false,
        }
    }

    fn prod(&self) -> u64 {
        self.ring.len() as u64
    }

    fn view(&self) -> TcpView {
        TcpView {
            copied: self.copied,
            received: self.received,
        }
    }

    /// Applies `op`; `false` if it does nothing now.
    fn step(&mut self, op: Op) -> bool {
        match op {
            Op::Stray => {
                if !matches!(self.lane, Snapshot::Ring { .. }) {
                    return false;
                }
                self.over_tcp();
                true
            }
            Op::Send => {
                if let Snapshot::Ring { border } = self.lane {
                    if self.write_seq != border || self.closed {
                        self.lane = Snapshot::Leaving {
                            border,
                            last: self.prod(),
                        };
                    }
                }
                match self.lane {
                    Snapshot::Ring { .. } => {
                        self.ring.push(self.sent);
                        self.sent += 1;
                    }
                    _ => self.over_tcp(),
                }
                true
            }
            // Also when it is closed: the sender may have looked before that.
            Op::Start if may_start(self.lane, self.cons) => {
                self.lane = Snapshot::Ring {
                    border: self.write_seq,
                };
                true
            }
            Op::Leave => {
                let Snapshot::Ring { border } = self.lane else {
                    return false;
                };
                self.lane = Snapshot::Leaving {
                    border,
                    last: self.prod(),
                };
                true
            }
            Op::Deliver if self.received != self.write_seq => {
                self.received = self.received.wrapping_add(1);
                true
            }
            Op::Close if !self.closed => {
                self.closed = true;
                true
            }
            Op::HandBack if self.closed && !self.handed_back => self.hand_back(),
            Op::Read(max) => self.read(self.seen(), max),
            Op::BaseRead if self.handed_back && self.copied != self.received => {
                self.take_tcp();
                true
            }
            _ => false,
        }
    }

    /// All of it in one step: it happens under the receive lock and the socket's.
    fn hand_back(&mut self) -> bool {
        let (bytes, border) = self.seen().unread(self.cons).expect("few bytes");
        // Those before the border have arrived before the ring of a real lane begins.
        if bytes > 0 && before(self.received, border) {
            return false;
        }
        let unread = self.ring[self.cons as usize..][..bytes as usize].to_vec();
        let at = border.wrapping_sub(self.base) as usize;
        self.tcp.splice(at..at, unread);
        self.base = self.base.wrapping_sub(bytes);
        self.copied = self.copied.wrapping_sub(bytes);
        self.cons += u64::from(bytes);
        self.handed_back = true;
        true
    }

    fn take_tcp(&mut self) {
        let at = self.copied.wrapping_sub(self.base) as usize;
        self.take(self.tcp[at]);
        self.copied = self.copied.wrapping_add(1);
    }

    fn over_tcp(&mut self) {
        self.tcp.push(self.sent);
        self.write_seq = self.write_seq.wrapping_add(1);
        self.sent += 1;
    }

    /// What a receiver sees that nobody disturbs.
    fn seen(&self) -> Seen {
        Seen::of(&mut Moments::new([self, self, self]))
    }

    /// One read after the given, perhaps outdated, looks.
    fn read(&mut self, seen: Seen, max: u32) -> bool {
        match seen.next(self.cons) {
            Next::Tcp(n) => {
                for _ in 0..n.min(max) {
                    self.take_tcp();
                }
                true
            }
            Next::Ring(n) => {
                for _ in 0..n.min(u64::from(max)) {
                    self.take(self.ring[self.cons as usize]);
                    self.cons += 1;
                }
                true
            }
            Next::Await => false,
        }
    }

    fn take(&mut self, byte: u8) {
        assert_eq!(byte, self.got, "a byte was lost, doubled or overtaken");
        self.got += 1;
    }

    /// Nothing may be stuck: with TCP delivered, reading on yields the whole stream.
    fn drains(mut self) {
        while self.step(Op::Deliver) {}
        let mut base = self.handed_back.then(|| self.clone());
        while self.step(Op::Read(3)) {}
        assert_eq!(self.got, self.sent, "bytes are stuck");
        if let Some(base) = &mut base {
            while base.step(Op::BaseRead) {}
            assert_eq!(
                base.got, base.sent,
                "bytes are stuck for a reader of TCP alone"
            );
        }
    }

    /// `readable()` must be what reading on would yield.
    fn counts(&self) {
        let tcp = self.view();
        let queued = tcp.received.wrapping_sub(tcp.copied);
        let mut reader = self.clone();
        while reader.step(Op::Read(9)) {}
        let can = u64::from(reader.got - self.got);
        let said = self.seen().readable(queued, self.cons);
        // TCP bytes after a ring segment are only reached through it: both count, and both are read.
        assert_eq!(said, can, "readable() is wrong");
    }
}

fn explore(world: &World, depth: u32) {
    world.counts();
    world.clone().drains();
    if depth == 0 {
        return;
    }
    for op in OPS {
        let mut after = world.clone();
        if after.step(op) {
            explore(&after, depth - 1);
        }
    }
}

#[test]
fn every_interleaving_keeps_the_order() {
    explore(&World::new(), 8);
}

/// The receiver takes its three snapshots (TCP, prod, lane) one after the other while the sender goes on, then reads.
#[test]
fn snapshots_taken_in_order_are_safe_though_outdated() {
    stale_looks(World::new(), 6);
}

/// The same with the stream well under way: a ring segment drained, TCP bytes after it.
#[test]
fn outdated_looks_are_safe_in_a_second_segment() {
    let mut world = World::new();
    for op in [
        Op::Start,
        Op::Send,
        Op::Read(9),
        Op::Leave,
        Op::Send,
        Op::Deliver,
        Op::Read(9),
        Op::Start,
        Op::Send,
    ] {
        assert!(world.step(op), "the way there is open");
    }
    stale_looks(world, 5);
}

/// Every way to spread `budget` steps of the sender over the moments between the looks.
fn stale_looks(world: World, budget: u32) {
    sender_runs(&world, budget, &mut |w0, left| {
        sender_runs(w0, left, &mut |w1, left| {
            sender_runs(w1, left, &mut |w2, left| {
                let seen = Seen::of(&mut Moments::new([w0, w1, w2]));
                sender_runs(w2, left, &mut |w3, _| {
                    let mut w = w3.clone();
                    w.read(seen, 9);
                    w.drains();
                });
            });
        });
    });
}

fn sender_runs(world: &World, budget: u32, then: &mut dyn FnMut(&World, u32)) {
    then(world, budget);
    if budget == 0 {
        return;
    }
    for op in [Op::Send, Op::Start, Op::Leave, Op::Stray, Op::Deliver] {
        let mut after = world.clone();
        if after.step(op) {
            sender_runs(&after, budget - 1, then);
        }
    }
}

/// A new use of the ring is told from an old one even if its border is the same.
#[test]
fn uses_differ() {
    let h = Handoff::new();
    assert_eq!(h.use_of_ring(), None);
    h.start(7);
    let first = h.use_of_ring();
    assert!(first.is_some() && h.in_ring());
    assert_eq!(h.use_of_ring(), first);
    h.leave(0);
    assert_eq!(h.use_of_ring(), None);
    h.start(7);
    assert!(h.use_of_ring().is_some() && h.use_of_ring() != first);
}

/// A settled use of the ring says what was published in it, and nothing of what came after.
#[test]
fn settled_uses_end() {
    let h = Handoff::new();
    assert_eq!(h.settled_prod(Use::NONE, || 3), None);
    h.start(7);
    let settled = h.use_of_ring().unwrap();
    assert_eq!(h.settled_prod(settled, || 3), Some(3));
    assert_eq!(h.settled_prod(Use::NONE, || 3), None);
    // The sender leaves and begins anew at the very moment of the look: these bytes may belong to the new use.
    let late = h.settled_prod(settled, || {
        h.leave(3);
        h.start(9);
        4
    });
    assert_eq!(late, None);
}

/// A segment ends at `last`, whatever has been published since; copied bytes beyond those received count as none.
#[test]
fn stale_edges() {
    let seen = |copied, received, lane, prod| Seen {
        tcp: TcpView { copied, received },
        prod,
        lane,
    };
    let lane = Snapshot::Leaving { border: 5, last: 3 };
    assert_eq!(seen(5, 5, lane, 9).next(1), Next::Ring(2));
    assert_eq!(seen(5, 5, lane, 9).ring_readable(1), 2);
    assert_eq!(seen(5, 5, lane, 9).next(3), Next::Await);
    assert_eq!(seen(6, 5, Snapshot::Tcp, 0).next(0), Next::Await);
}

/// Positions in a stream that never wraps, and what the kernel sees of them: 32 bits of those in TCP.
#[derive(Clone, Copy, Debug)]
struct Wide {
    copied: u64,
    received: u64,
    border: u64,
    /// Ring bytes: consumed, and up to where the segment goes.
    cons: u64,
    end: u64,
}

impl Wide {
    fn seen(self, lane: Snapshot, prod: u64) -> Seen {
        Seen {
            tcp: TcpView {
                copied: self.copied as u32,
                received: self.received as u32,
            },
            prod,
            lane,
        }
    }

    /// TCP below the border, then the ring, then TCP.
    fn next(self) -> Next {
        let queued = self.received.saturating_sub(self.copied);
        let before = self.border.saturating_sub(self.copied);
        let ring = self.end.saturating_sub(self.cons);
        if before > 0 {
            match queued.min(before) {
                0 => Next::Await,
                bytes => Next::Tcp(bytes as u32),
            }
        } else if ring > 0 {
            Next::Ring(ring)
        } else if queued > 0 {
            Next::Tcp(queued as u32)
        } else {
            Next::Await
        }
    }

    fn ring_readable(self) -> u64 {
        if self.received < self.border {
            0
        } else {
            self.end.saturating_sub(self.cons)
        }
    }
}

/// Every constellation of few bytes around every edge that sequence numbers have: zero, and where half of them lie behind.
#[test]
fn sequence_numbers_near_their_edges() {
    for edge in [1 << 31, 1 << 32, 3 << 31, 1 << 33] {
        for border in edge - 4..edge + 4 {
            for copied in border - 4..border + 4 {
                // rcv_nxt is read after copied_seq and may be older.
                for received in copied - 1..copied + 6 {
                    around(copied, received, border);
                }
            }
        }
    }
}

fn around(copied: u64, received: u64, border: u64) {
    let short = border as u32;
    for cons in [0, (1 << 32) - 1, (1 << 61) - 2] {
        for (unread, more) in (0..4).flat_map(|unread| (0..3).map(move |more| (unread, more))) {
            let last = cons + unread;
            let wide = Wide {
                copied,
                received,
                border,
                cons,
                end: last,
            };
            for (lane, prod) in [
                (Snapshot::Ring { border: short }, last),
                (
                    Snapshot::Leaving {
                        border: short,
                        last,
                    },
                    last + more,
                ),
            ] {
                let seen = wide.seen(lane, prod);
                assert_eq!(seen.next(cons), wide.next(), "{wide:?} {lane:?}");
                assert_eq!(seen.ring_readable(cons), wide.ring_readable(), "{wide:?}");
                assert_eq!(seen.unread(cons), Some((unread as u32, short)));
            }
            assert_eq!(
                may_start(
                    Snapshot::Leaving {
                        border: short,
                        last
                    },
                    cons
                ),
                unread == 0
            );
        }
    }
    let queued = received.saturating_sub(copied) as u32;
    let seen = Wide {
        copied,
        received,
        border,
        cons: 0,
        end: 0,
    }
    .seen(Snapshot::Tcp, 0);
    let next = if queued > 0 {
        Next::Tcp(queued)
    } else {
        Next::Await
    };
    assert_eq!((seen.next(0), seen.tcp().queued()), (next, queued));
}

/// `before()` around each multiple of 1/16 of the space, against distances in numbers that do not wrap.
#[test]
fn before_is_half_of_the_space() {
    for sixteenth in 0..16u64 {
        for (a, b) in (0..9).flat_map(|a| (0..9).map(move |b| (a, b))) {
            let from = (1 << 32) + a;
            let to = (1 << 32) + (sixteenth << 28) + b;
            let distance = (to - from) & 0xffff_ffff;
            // Half of the space away: before both ways, as in the kernel.
            assert_eq!(
                before(from as u32, to as u32),
                distance > 0 && distance <= 1 << 31
            );
        }
    }
}

/// More unread bytes than sequence numbers can tell are not given any.
#[test]
fn too_much_for_sequence_numbers() {
    let most = i32::MAX as u64;
    for (bytes, fits) in [
        (most - 1, true),
        (most, true),
        (most + 1, false),
        (1 << 32, false),
        (1 << 61, false),
    ] {
        let wide = Wide {
            copied: 1 << 32,
            received: 1 << 32,
            border: 1 << 32,
            cons: 5,
            end: 5 + bytes,
        };
        let unread = wide.seen(Snapshot::Ring { border: 0 }, wide.end).unread(5);
        assert_eq!(unread, fits.then_some((bytes as u32, 0)));
    }
}

/// The number of a use wraps after 2^30 changes: neighbours differ, and neither mode nor border is touched.
#[test]
fn uses_differ_where_their_number_wraps() {
    let h = Handoff::new();
    h.word.store((GEN_MASK - 5) << GEN_SHIFT, Ordering::Relaxed);
    let mut before = None;
    for round in 0..8u32 {
        let border = (u32::MAX - 3).wrapping_add(round);
        h.start(border);
        let now = h.use_of_ring();
        assert!(now.is_some() && now != before && now != Some(Use::NONE));
        assert_eq!(h.snapshot(), Snapshot::Ring { border });
        h.leave(u64::from(round));
        let last = u64::from(round);
        assert_eq!(h.snapshot(), Snapshot::Leaving { border, last });
        before = now;
    }
}
