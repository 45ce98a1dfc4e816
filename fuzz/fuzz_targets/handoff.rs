// SPDX-License-Identifier: GPL-2.0-only
//! A stream whose sender moves between TCP and the ring as it likes, and whose receiver goes by the core's answers: each byte comes once, in
//! order, and none is stuck.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;
use tcp_splice_core::handoff::{Handoff, Next, Seen, Snapshot, Source, TcpView, may_start};

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    Send(u8),
    /// A sender that went past the module.
    Stray,
    Start,
    Leave,
    Deliver(u8),
    Read(u8),
    /// Looks as of now, for a read that comes later.
    Look,
    ReadLate(u8),
}

struct Stream {
    lane: Handoff,
    write_seq: u32,
    received: u32,
    copied: u32,
    tcp: VecDeque<u32>,
    ring: Vec<u32>,
    cons: usize,
    sent: u32,
    got: u32,
    late: Option<Seen>,
}

impl Source for &Stream {
    fn tcp(&mut self) -> TcpView {
        TcpView {
            copied: self.copied,
            received: self.received,
        }
    }

    fn prod(&mut self) -> u64 {
        self.ring.len() as u64
    }

    fn lane(&mut self) -> Snapshot {
        self.lane.snapshot()
    }
}

impl Stream {
    fn seen(&self) -> Seen {
        Seen::of(&mut &*self)
    }

    fn over_tcp(&mut self) {
        self.tcp.push_back(self.sent);
        self.write_seq = self.write_seq.wrapping_add(1);
        self.sent += 1;
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Send(n) => (0..n).for_each(|_| self.send()),
            Op::Stray => self.over_tcp(),
            Op::Start => {
                if may_start(self.lane.snapshot(), self.cons as u64) {
                    self.lane.start(self.write_seq);
                }
            }
            Op::Leave => self.lane.leave(self.ring.len() as u64),
            Op::Deliver(n) => {
                let under_way = self.write_seq.wrapping_sub(self.received);
                self.received = self.received.wrapping_add(under_way.min(n.into()));
            }
            Op::Read(n) => self.read(self.seen(), n),
            Op::Look => self.late = Some(self.seen()),
            Op::ReadLate(n) => {
                if let Some(seen) = self.late.take() {
                    self.read(seen, n);
                }
            }
        }
        // Whoever has read since has other looks.
        if matches!(op, Op::Read(_)) {
            self.late = None;
        }
    }

    fn send(&mut self) {
        if let Snapshot::Ring { border } = self.lane.snapshot()
            && border != self.write_seq
        {
            self.lane.leave(self.ring.len() as u64);
        }
        if self.lane.in_ring() {
            self.ring.push(self.sent);
            self.sent += 1;
        } else {
            self.over_tcp();
        }
    }

    fn read(&mut self, seen: Seen, n: u8) {
        match seen.next(self.cons as u64) {
            Next::Tcp(bytes) => {
                for _ in 0..bytes.min(n.into()) {
                    let byte = self.tcp.pop_front().expect("TCP has what it said");
                    self.copied = self.copied.wrapping_add(1);
                    self.take(byte);
                }
            }
            Next::Ring(bytes) => {
                for _ in 0..bytes.min(n.into()) {
                    let byte = self.ring[self.cons];
                    self.cons += 1;
                    self.take(byte);
                }
            }
            Next::Await => {}
        }
    }

    fn take(&mut self, byte: u32) {
        assert_eq!(byte, self.got, "a byte was lost, doubled or overtaken");
        self.got += 1;
    }

    /// How many bytes come without the sender's help.
    fn drain(&mut self) -> u64 {
        let before = self.got;
        while !matches!(self.seen().next(self.cons as u64), Next::Await) {
            self.read(self.seen(), u8::MAX);
        }
        (self.got - before).into()
    }
}

fuzz_target!(|input: (u32, Vec<Op>)| {
    let (isn, ops) = input;
    let mut stream = Stream {
        lane: Handoff::new(),
        write_seq: isn,
        received: isn,
        copied: isn,
        tcp: VecDeque::new(),
        ring: Vec::new(),
        cons: 0,
        sent: 0,
        got: 0,
        late: None,
    };
    for op in ops {
        stream.step(op);
    }
    let queued = stream.received.wrapping_sub(stream.copied);
    let said = stream.seen().readable(queued, stream.cons as u64);
    assert_eq!(stream.drain(), said, "readable() is wrong");
    stream.received = stream.write_seq;
    stream.drain();
    assert_eq!(stream.got, stream.sent, "bytes are stuck");
});
