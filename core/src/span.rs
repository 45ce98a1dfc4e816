// SPDX-License-Identifier: GPL-2.0-only
//! Where in the ring's chunks a run of bytes lies, and which chunks can be used again.
//!
//! The ring's memory is a set of equal chunks, so that no large contiguous allocation is ever needed. Chunks are numbered along the
//! stream: chunk `n` holds the bytes from `n * chunk_bytes` on. A table of slots says where the memory of each is; a chunk's slot is
//! its number modulo the number of slots. When the receiver is through with a chunk, the sender takes its memory out of the slot
//! and puts it into that of a later chunk ([`Supply`]). So a ring holds no more memory than what is under way needs, a table can
//! be replaced by a larger one, and memory can leave the ring.
//!
//! The first bytes of a stream have a small memory of their own, the head: most connections are short, and the kernel may clear all
//! memory that it hands out. The same bytes of chunk 0 stay unused.

/// Size of a ring, of its chunks and of its table, all powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    capacity_log2: u32,
    chunk_log2: u32,
    head_bytes: u64,
    /// Number of slots less one.
    slot_mask: usize,
}

/// The head's number, beyond those of all chunks.
pub const HEAD: u64 = u64::MAX;

/// A run of bytes within one chunk, or within the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The chunk's number, or [`HEAD`].
    pub chunk: u64,
    /// Offset within it, in bytes.
    pub offset: usize,
    /// Length in bytes; `offset + len` does not pass its end.
    pub len: usize,
}

impl Geometry {
    /// A ring of `1 << capacity_log2` bytes in chunks of at most `1 << chunk_log2`, with a head of `head_bytes`; with none if chunks are
    /// no larger.
    ///
    /// `None` for more than 2^40 bytes: no such ring exists, and the arithmetic below need not think about it.
    pub const fn new(capacity_log2: u32, chunk_log2: u32, head_bytes: u32) -> Option<Self> {
        if capacity_log2 > 40 {
            return None;
        }
        let chunk_log2 = if chunk_log2 > capacity_log2 {
            capacity_log2
        } else {
            chunk_log2
        };
        let head_bytes = head_bytes as u64;
        Some(Geometry {
            capacity_log2,
            chunk_log2,
            head_bytes: if head_bytes < 1 << chunk_log2 {
                head_bytes
            } else {
                0
            },
            slot_mask: 2usize
                .wrapping_shl(capacity_log2.wrapping_sub(chunk_log2))
                .wrapping_sub(1),
        })
    }

    /// The same chunks, more of them: a ring for at least `bytes`. `None` if this one is large enough.
    pub const fn grown(self, bytes: u64) -> Option<Self> {
        match bytes.checked_next_power_of_two() {
            Some(more) if more > self.capacity() => {
                Geometry::new(more.ilog2(), self.chunk_log2, self.head_bytes as u32)
            }
            _ => None,
        }
    }

    /// Bytes the ring holds.
    pub const fn capacity(self) -> u64 {
        1u64.wrapping_shl(self.capacity_log2)
    }

    /// Bytes of one chunk.
    pub const fn chunk_bytes(self) -> usize {
        1usize.wrapping_shl(self.chunk_log2)
    }

    /// Bytes of the head.
    pub const fn head_bytes(self) -> usize {
        self.head_bytes as usize
    }

    /// Number of slots: unread bytes begin and end within a chunk, so there is one chunk more than fits the capacity; rounded up.
    pub const fn slots(self) -> usize {
        self.slot_mask.wrapping_add(1)
    }

    /// The slot of a chunk, below [`Self::slots`].
    pub const fn slot(self, chunk: u64) -> usize {
        chunk as usize & self.slot_mask
    }

    /// The chunk of a position.
    pub const fn chunk(self, pos: u64) -> u64 {
        pos.wrapping_shr(self.chunk_log2)
    }

    /// Does a chunk end right before `pos`?
    pub const fn is_border(self, pos: u64) -> bool {
        pos & (self.chunk_bytes() as u64).wrapping_sub(1) == 0
    }

    /// The first run of at most `want` bytes from stream position `pos` on: up to the end of the head or of a chunk.
    pub const fn span(self, pos: u64, want: u64) -> Span {
        let (chunk, offset, end) = if pos < self.head_bytes {
            (HEAD, pos as usize, self.head_bytes())
        } else {
            let offset = pos as usize & self.chunk_bytes().wrapping_sub(1);
            (self.chunk(pos), offset, self.chunk_bytes())
        };
        let room = end.wrapping_sub(offset) as u64;
        Span {
            chunk,
            offset,
            len: if want < room { want } else { room } as usize,
        }
    }
}

/// The sender's knowledge of which chunks have memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// The slots of all chunks below this one were emptied.
    next: u64,
    /// All chunks below this one were given memory.
    top: u64,
}

impl Supply {
    /// No chunk has memory.
    pub const fn new() -> Self {
        Supply { next: 0, top: 0 }
    }

    /// Was this chunk given memory?
    pub fn reaches(&self, chunk: u64) -> bool {
        chunk < self.top
    }

    /// The next chunk that the receiver, who stands at `cons`, is through with: its slot is the sender's to empty. To be asked
    /// before any other memory is found for a new chunk, whose slot this may be.
    pub fn take(&mut self, geometry: Geometry, cons: u64) -> Option<u64> {
        if self.next >= geometry.chunk(cons) || self.next >= self.top {
            return None;
        }
        let chunk = self.next;
        self.next = chunk.wrapping_add(1);
        Some(chunk)
    }

    /// The next chunk has memory now.
    pub fn extend(&mut self) {
        self.top = self.top.wrapping_add(1);
    }

    /// All slots were emptied while no byte was in the ring: what comes next goes into this chunk, perhaps not at its start.
    pub fn start_at(&mut self, chunk: u64) {
        (self.next, self.top) = (chunk, chunk);
    }

    /// The chunks whose slots may have memory: what a larger table has to take over.
    pub fn in_use(&self) -> core::ops::Range<u64> {
        self.next..self.top
    }
}

/// Bytes of a message that are published, or given back, at a time: the reader copies while the sender still writes.
pub const PIECE: u64 = 8 << 10;

/// From so many bytes on, those that are not copied yet are copied in pieces of twice the size.
const LONG: u64 = 4 * PIECE;

/// How many of the next `rest` bytes of a message belong together: few while little is left, so that the other side, which copies one piece later,
/// is soon through with the last; more before that, for each costs its own publication (`make bench-ring FILTER=otherwise`). Of a ring of `capacity`
/// bytes a large piece is a quarter at most, so that it may have room.
#[inline(always)]
pub const fn piece(rest: u64, capacity: u64) -> u64 {
    if rest >= LONG && capacity >= 2 * LONG {
        2 * PIECE
    } else if rest > PIECE {
        PIECE
    } else {
        rest
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Walking a run span by span visits exactly the bytes `pos..pos+len`, in order, within bounds.
        #[test]
        fn spans_tile_the_ring(cap in 0u32..16, chunk in 0u32..16, head in 0u32..5000, pos in pos(), len in 0u64..100_000) {
            tiles(Geometry::new(cap, chunk, head).unwrap(), pos, len);
        }

        /// A table as the kernel's part keeps it: no slot is needed by two chunks, no memory by two slots or lost, whatever sender and
        /// receiver do, also when the table grows on the way or memory is taken out by the receiver.
        #[test]
        fn memory_moves_from_slot_to_slot(
            cap in 2u32..6, chunk in 0u32..6, head in 0u32..40, big in 0u64..600, base in base(),
            ops in proptest::collection::vec((0u8..9, 1u64..50), 0..200),
        ) {
            let mut table = Table::new(Geometry::new(cap, chunk, head).unwrap(), base);
            for (op, n) in ops {
                match op {
                    0..=3 => table.send(n),
                    4..=6 => table.receive(n, op == 6),
                    7 => table.rest(),
                    _ => table.grow(big),
                }
                table.check();
            }
        }
    }

    /// Any place in a stream, its beginning as often as all others.
    fn pos() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..6000, any::<u64>().prop_map(|pos| pos >> 2)]
    }

    /// Where a stream stands: at its beginning, about to pass what 32 bits count, or near its end.
    fn base() -> impl Strategy<Value = u64> {
        let near = |edge: u64| edge - 3000..edge;
        prop_oneof![
            Just(0),
            near(1 << 31),
            near(1 << 32),
            near(1 << 61),
            near((1 << 62) - 60_000)
        ]
    }

    /// Every run of up to two rings' length from every position around the edges that 31, 32, 61 and 62 bits have, in every ring of up to
    /// 32 bytes: the spans tile it, and no two chunks that can be in use at once share a slot.
    #[test]
    fn spans_and_slots_near_the_edges() {
        for (cap, chunk) in (0..6).flat_map(|cap| (0..6).map(move |chunk| (cap, chunk))) {
            let ring = Geometry::new(cap, chunk, 5).unwrap();
            let bytes = ring.chunk_bytes() as u64;
            for edge in [40, 64, 1 << 31, 1 << 32, 1 << 61, 1 << 62] {
                for pos in edge - 40..edge + 8 {
                    tiles(ring, pos, 2 * ring.capacity());
                    assert_eq!(ring.is_border(pos), pos % bytes == 0);
                    let used = ring.chunk(pos)..=ring.chunk(pos + ring.capacity() - 1);
                    let slots: BTreeSet<_> = used.clone().map(|chunk| ring.slot(chunk)).collect();
                    assert_eq!(slots.len() as u64, used.end() - used.start() + 1);
                    assert!(slots.iter().all(|slot| *slot < ring.slots()));
                }
            }
        }
    }

    fn tiles(ring: Geometry, pos: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let span = ring.span(pos + done, len - done);
            let (chunk, room) = match span.chunk {
                HEAD => (0, ring.head_bytes()),
                chunk => (chunk, ring.chunk_bytes()),
            };
            assert_eq!(
                chunk * ring.chunk_bytes() as u64 + span.offset as u64,
                pos + done
            );
            assert!(span.len > 0 && span.offset + span.len <= room);
            assert_eq!(span.chunk == HEAD, pos + done < ring.head_bytes() as u64);
            done += span.len as u64;
            let ends = span.chunk != HEAD && span.offset + span.len == ring.chunk_bytes();
            assert_eq!(ring.is_border(pos + done), ends);
        }
        assert_eq!(done, len);
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
        fn new(geometry: Geometry, base: u64) -> Self {
            let mut supply = Supply::new();
            supply.start_at(geometry.chunk(base));
            Table {
                geometry,
                head: None,
                slots: vec![None; geometry.slots()],
                supply,
                prod: base,
                cons: base,
                made: 0,
                freed: BTreeSet::new(),
            }
        }

        /// As Ring::head_or_alloc().
        fn head(&mut self) {
            if self.head.is_none() {
                self.head = Some(self.made);
                self.made += 1;
            }
        }

        /// As Ring::chunk_or_alloc().
        fn memory(&mut self, chunk: u64) {
            if chunk == HEAD {
                return self.head();
            }
            let slot = self.geometry.slot(chunk);
            if self.supply.reaches(chunk) {
                assert!(self.slots[slot].is_some());
                return;
            }
            assert!(
                !self.supply.reaches(chunk + 1)
                    && (self.supply.in_use().is_empty() || self.supply.reaches(chunk - 1))
            );
            self.supply.extend();
            if self.cons >= self.geometry.head_bytes() as u64 {
                self.freed.extend(self.head.take());
            }
            while let Some(old) = self.supply.take(self.geometry, self.cons) {
                let slot_of_old = self.geometry.slot(old);
                if let Some(memory) = self.slots[slot_of_old].take() {
                    assert!(
                        self.slots[slot].is_none(),
                        "an old chunk's memory is in the way"
                    );
                    self.slots[slot] = Some(memory);
                    return;
                }
            }
            assert!(
                self.slots[slot].is_none(),
                "an old chunk's memory is in the way"
            );
            self.slots[slot] = Some(self.made);
            self.made += 1;
        }

        fn send(&mut self, n: u64) {
            let mut left = n.min(self.geometry.capacity() - (self.prod - self.cons));
            while left > 0 {
                let span = self.geometry.span(self.prod, left);
                self.memory(span.chunk);
                self.prod += span.len as u64;
                left -= span.len as u64;
            }
        }

        fn receive(&mut self, n: u64, frees: bool) {
            let mut left = n.min(self.prod - self.cons);
            while left > 0 {
                let span = self.geometry.span(self.cons, left);
                self.cons += span.len as u64;
                left -= span.len as u64;
                if span.chunk == HEAD {
                    assert!(self.head.is_some(), "no memory where the first bytes are");
                    continue;
                }
                let slot = self.geometry.slot(span.chunk);
                assert!(self.slots[slot].is_some(), "no memory where bytes are");
                if frees && self.geometry.is_border(self.cons) {
                    self.freed.insert(self.slots[slot].take().unwrap());
                }
            }
        }

        /// As Ring::rest().
        fn rest(&mut self) {
            if self.prod != self.cons {
                return;
            }
            self.freed.extend(self.head.take());
            for chunk in self.supply.in_use() {
                self.freed
                    .extend(self.slots[self.geometry.slot(chunk)].take());
            }
            self.supply.start_at(self.geometry.chunk(self.prod));
            assert!(
                self.slots.iter().all(Option::is_none),
                "an idle ring has kept memory"
            );
        }

        /// As Ring::grow().
        fn grow(&mut self, bytes: u64) {
            let Some(larger) = self.geometry.grown(bytes) else {
                return;
            };
            let mut slots = vec![None; larger.slots()];
            for chunk in self.supply.in_use() {
                slots[larger.slot(chunk)] = self.slots[self.geometry.slot(chunk)].take();
            }
            assert!(
                self.slots.iter().all(Option::is_none),
                "memory was left in the old table"
            );
            (self.geometry, self.slots) = (larger, slots);
        }

        fn check(&self) {
            let held: Vec<u32> = self.slots.iter().flatten().copied().collect();
            let all = held.iter().chain(&self.head).chain(&self.freed);
            let distinct: BTreeSet<u32> = all.clone().copied().collect();
            assert_eq!(distinct.len(), all.count(), "one memory in two places");
            assert_eq!(distinct.len(), self.made as usize, "memory was lost");
            let most = self.geometry.capacity() as usize / self.geometry.chunk_bytes() + 1;
            assert!(
                held.len() <= most.max(1),
                "{} chunks held, {most} needed at most",
                held.len()
            );
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Geometry::new(41, 14, 0).is_none());
        assert_eq!(Geometry::new(12, 14, 4096).unwrap().slots(), 2);
        assert_eq!(Geometry::new(12, 14, 4096).unwrap().head_bytes(), 0);
        let small = Geometry::new(16, 14, 4096).unwrap();
        assert_eq!(small.head_bytes(), 4096);
        assert_eq!(small.grown(1 << 16), None);
        assert_eq!(small.grown((1 << 16) + 1), Geometry::new(17, 14, 4096));
        assert_eq!(small.grown(1 << 18), Geometry::new(18, 14, 4096));
        assert_eq!(small.grown(u64::MAX), None);
    }

    /// Every message up to a few pieces: all of it, the last part never a large one, nor any part of a small ring.
    #[test]
    fn pieces_make_the_whole_and_end_small() {
        for (capacity, large) in [(4 << 10, false), (32 << 10, false), (64 << 10, true)] {
            for size in 1..20 * PIECE {
                let (mut rest, mut last, mut most) = (size, 0, 0);
                while rest > 0 {
                    last = piece(rest, capacity);
                    assert!(last > 0 && last <= rest);
                    rest -= last;
                    most = last.max(most);
                }
                assert!(last <= PIECE);
                assert_eq!(most > PIECE, large && size >= LONG);
            }
        }
    }
}
