// SPDX-License-Identifier: GPL-2.0-only
//! The ring's memory as the module keeps it: no slot is needed by two chunks, no memory is in two places or lost.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;
use tcp_splice_core::span::{Geometry, HEAD, Supply};

#[derive(Arbitrary, Debug)]
enum Op {
    Send(u16),
    Receive(u16),
    Rest,
    Grow(u16),
}

struct Table {
    geometry: Geometry,
    head: Option<u32>,
    slots: Vec<Option<u32>>,
    supply: Supply,
    prod: u64,
    cons: u64,
    made: u32,
    freed: BTreeSet<u32>,
}

impl Table {
    fn memory(&mut self, chunk: u64) {
        if chunk == HEAD {
            if self.head.is_none() {
                self.head = Some(self.made);
                self.made += 1;
            }
            return;
        }
        let slot = self.geometry.slot(chunk);
        if self.supply.reaches(chunk) {
            assert!(self.slots[slot].is_some(), "no memory where bytes go");
            return;
        }
        self.supply.extend();
        if self.cons >= self.geometry.head_bytes() as u64 {
            self.freed.extend(self.head.take());
        }
        let mut found = None;
        while let Some(old) = self.supply.take(self.geometry, self.cons) {
            found = self.slots[self.geometry.slot(old)].take();
            if found.is_some() {
                break;
            }
        }
        let new = || {
            self.made += 1;
            self.made - 1
        };
        let memory = found.unwrap_or_else(new);
        assert!(
            self.slots[slot].replace(memory).is_none(),
            "a slot is in use"
        );
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Send(n) => {
                let room = self.geometry.capacity() - (self.prod - self.cons);
                let mut left = room.min(n.into());
                while left > 0 {
                    let span = self.geometry.span(self.prod, left);
                    self.memory(span.chunk);
                    self.prod += span.len as u64;
                    left -= span.len as u64;
                }
            }
            Op::Receive(n) => {
                let mut left = (self.prod - self.cons).min(n.into());
                while left > 0 {
                    let span = self.geometry.span(self.cons, left);
                    let memory = match span.chunk {
                        HEAD => self.head,
                        chunk => self.slots[self.geometry.slot(chunk)],
                    };
                    assert!(memory.is_some(), "no memory where bytes are");
                    self.cons += span.len as u64;
                    left -= span.len as u64;
                }
            }
            Op::Rest if self.prod == self.cons => {
                self.freed.extend(self.head.take());
                for chunk in self.supply.in_use() {
                    self.freed
                        .extend(self.slots[self.geometry.slot(chunk)].take());
                }
                self.supply.start_at(self.geometry.chunk(self.prod));
                assert!(
                    self.slots.iter().all(Option::is_none),
                    "an idle ring has memory"
                );
            }
            Op::Rest => {}
            Op::Grow(bytes) => {
                if let Some(larger) = self.geometry.grown(bytes.into()) {
                    let mut slots = vec![None; larger.slots()];
                    for chunk in self.supply.in_use() {
                        slots[larger.slot(chunk)] = self.slots[self.geometry.slot(chunk)].take();
                    }
                    assert!(
                        self.slots.iter().all(Option::is_none),
                        "memory is left behind"
                    );
                    (self.geometry, self.slots) = (larger, slots);
                }
            }
        }
        let held: Vec<u32> = self.slots.iter().flatten().copied().collect();
        let places = held.iter().chain(&self.head).chain(&self.freed);
        let all: BTreeSet<u32> = places.clone().copied().collect();
        assert_eq!(
            all.len(),
            places.count(),
            "one memory in two places"
        );
        assert_eq!(all.len(), self.made as usize, "memory is lost");
    }
}

fuzz_target!(|input: (u8, u8, u8, u64, Vec<Op>)| {
    let (capacity, chunk, head, base, ops) = input;
    let Some(geometry) = Geometry::new((capacity % 12).into(), (chunk % 12).into(), head.into()) else {
        unreachable!("small rings exist");
    };
    // A connection does not get further than this; and one in two is at its beginning.
    let base = if base % 2 == 0 { 0 } else { base >> 3 };
    let mut supply = Supply::new();
    supply.start_at(geometry.chunk(base));
    let mut table = Table {
        geometry,
        head: None,
        slots: vec![None; geometry.slots()],
        supply,
        prod: base,
        cons: base,
        made: 0,
        freed: BTreeSet::new(),
    };
    for op in ops {
        table.step(op);
    }
});
