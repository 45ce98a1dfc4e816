// SPDX-License-Identifier: GPL-2.0-only
//! The ring's memory: a table of chunks, each allocated when the sender first reaches it, and used again when the receiver is
//! through with it; and a small memory for the first bytes of the stream, the head (`core::span`).
//!
//! Only the sender allocates, in process context, charged to its memory cgroup. Chunks are not zeroed: a reader can only reach
//! bytes that were published, and those were written. But a kernel with `init_on_alloc` clears what it hands out, which costs a short
//! connection more than its bytes: hence the head. It comes out of a slab cache, which is quicker than the page allocator.
//!
//! A chunk whose pages were lent to a pipe (splice(2)) is not written again while the pipe has them: the sender puts it aside, or leaves
//! it to the pipe when too many are out. Of the head nothing is lent.
//!
//! # Who may touch a slot
//!
//! The head's is used like a chunk's, but only the sender empties it: when it takes memory for another chunk and `cons` is past the head,
//! or the ring is empty and rests.
//!
//! The receiver, those of chunks between `cons` and `prod`: to read them and, in a grown ring, to empty the slot of a chunk before it
//! gives the chunk's last byte back. The sender, all others. A table that was replaced by a larger one is never written again, and
//! stays for a receiver that still reads through it; the chunks belong to the larger one.

use crate::ffi::{self, Msg};
use crate::pair::Tx;
use crate::stats::Counter;
use core::mem::size_of;
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use tcp_splice_core::cursors::Cursors;
use tcp_splice_core::short::{SHORT, Words};
use tcp_splice_core::span::{Geometry, HEAD, Span, Supply};

/// Chunks are at most 16 KiB: order 2, which the page allocator hands out without compaction.
const CHUNK_LOG2: u32 = 14;

/// A small request and its answer, with much to spare.
const HEAD_BYTES: u32 = 4096;

/// Header of the allocation; `geometry.slots()` pointers follow it.
///
/// # Invariants
///
/// Each pointer that follows is null or a chunk of `geometry.chunk_bytes()` bytes; `head` is null or has `geometry.head_bytes()`.
#[repr(C)]
pub(crate) struct Ring {
    geometry: Geometry,
    /// Bytes the ring holds; at most what the geometry has room for.
    limit: u64,
    /// The table that this one replaced.
    smaller: Option<NonNull<Ring>>,
    head: AtomicPtr<u8>,
    chunks: [AtomicPtr<u8>; 0],
}

/// What became of copying.
pub(crate) enum Copied {
    /// All of a piece: this many bytes, more than none.
    Bytes(usize),
    /// None: the user's memory is not accessible. As in TCP, a piece is copied whole or not at all.
    Fault,
    /// None: no memory for the ring.
    NoMemory,
}

/// Chunks that pipes may have before no more are lent: 1 MiB. Those that the ring holds at that moment may be lent already.
const LENT_MAX: usize = 64;

/// How many of them are asked whether they are back, when none is needed.
const LENT_LOOKS: usize = 4;

/// Chunks that pipes have pages of and the ring does not use meanwhile; behind the lane's send lock.
pub(crate) struct Lent {
    /// `room` places, of which the first `out` are in use; made when the first is needed.
    places: Option<NonNull<*mut u8>>,
    room: usize,
    out: usize,
    /// Which one is asked next.
    next: usize,
}

impl Lent {
    pub(crate) const NONE: Lent = Lent {
        places: None,
        room: 0,
        out: 0,
        next: 0,
    };

    pub(crate) fn is_empty(&self) -> bool {
        self.out == 0
    }

    fn places(&mut self) -> &mut [*mut u8] {
        match self.places {
            // SAFETY: `make_room` made as many, zeroed, and this is the only way to them.
            Some(places) => unsafe { slice::from_raw_parts_mut(places.as_ptr(), self.room) },
            None => &mut [],
        }
    }

    /// At least `room` places. Sleeps; false without memory.
    fn make_room(&mut self, room: usize) -> bool {
        if self.room >= room {
            return true;
        }
        // SAFETY: process context.
        let memory = unsafe { ffi::ts_ring_alloc(size_of::<*mut u8>().wrapping_mul(room)) };
        let Some(memory) = NonNull::new(memory.cast::<*mut u8>()) else {
            return false;
        };
        for (index, chunk) in self.places().iter().enumerate() {
            // SAFETY: there are more places in the new memory.
            unsafe { memory.add(index).write(*chunk) };
        }
        self.free_places();
        self.places = Some(memory);
        self.room = room;
        true
    }

    /// Takes a chunk of a ring of `slots` slots into keeping; false without memory. Sleeps.
    fn keep(&mut self, chunk: *mut u8, slots: usize, lends: &AtomicBool) -> bool {
        // Room for those that were lent before the receiver saw that it shall not.
        if !self.make_room(LENT_MAX.wrapping_add(slots)) {
            return false;
        }
        let out = self.out;
        let Some(place) = self.places().get_mut(out) else {
            return false;
        };
        *place = chunk;
        self.out = out.wrapping_add(1);
        if self.out >= LENT_MAX {
            lends.store(false, Ordering::Relaxed);
        }
        true
    }

    /// A chunk that has come back, or null; at most `looks` are asked. There is room then for another one.
    fn take_back(&mut self, looks: usize, lends: &AtomicBool) -> *mut u8 {
        if self.out == 0 {
            // None is noted, perhaps for want of memory.
            if !lends.load(Ordering::Relaxed) {
                lends.store(true, Ordering::Relaxed);
            }
            return ptr::null_mut();
        }
        let last = self.out.wrapping_sub(1);
        for _ in 0..looks.min(self.out) {
            let next = self.next.min(last);
            self.next = if next == last { 0 } else { next.wrapping_add(1) };
            let Some(chunk) = self.places().get(next).copied() else {
                continue;
            };
            // SAFETY: a chunk that no slot has.
            if unsafe { ffi::ts_chunk_is_lent(chunk) } {
                continue;
            }
            self.places().swap(next, last);
            self.out = last;
            if last < LENT_MAX {
                lends.store(true, Ordering::Relaxed);
            }
            return chunk;
        }
        ptr::null_mut()
    }

    /// Leaves all of them to the pipes. Any context.
    fn free(&mut self, chunk_bytes: usize) {
        let out = self.out;
        for chunk in self.places().iter().take(out) {
            // SAFETY: a chunk of that size that no slot has.
            unsafe { release(*chunk, chunk_bytes) };
        }
        self.out = 0;
        self.free_places();
    }

    fn free_places(&mut self) {
        self.room = 0;
        if let Some(places) = self.places.take() {
            // SAFETY: made in `make_room`.
            unsafe { ffi::ts_ring_free(places.as_ptr().cast()) };
        }
    }
}

/// Counts memory that the ring has got, or null.
fn got(memory: *mut u8, bytes: usize) -> Option<NonNull<u8>> {
    let memory = NonNull::new(memory)?;
    Counter::RingMemory.add(bytes as u64);
    Some(memory)
}

/// Frees a chunk. Any context.
///
/// # Safety
///
/// It was allocated with `bytes` bytes, and neither a slot nor `Lent` has it (any more). A pipe may still have its pages.
unsafe fn release(chunk: *mut u8, bytes: usize) {
    // SAFETY: by the caller.
    unsafe { ffi::ts_chunk_free(chunk, bytes) };
    Counter::RingMemoryGone.add(bytes as u64);
}

/// Bytes of as many as eight-byte words.
#[inline(always)]
fn in_words(bytes: u64) -> u64 {
    bytes.wrapping_add(7) & !7
}

/// Bytes of a message that were written to a chunk, whose last word is the chunk's, too, and that are not yet published.
#[derive(Clone, Copy)]
pub(crate) struct Filled {
    at: NonNull<u8>,
    len: usize,
}

impl Filled {
    /// Are they a short message?
    #[inline(always)]
    pub(crate) fn is_short(&self) -> bool {
        self.len <= SHORT
    }

    /// Eight bytes of a short message; behind its last one, whatever the chunk had there.
    ///
    /// # Safety
    ///
    /// The send lock has been held since they were written, the message is short, and `index` one of its words.
    #[inline(always)]
    pub(crate) unsafe fn word(&self, index: usize) -> u64 {
        // SAFETY: by the caller, within the chunk; behind `prod` it is the sender's, who does not write now.
        unsafe { self.at.cast::<u64>().add(index).read_unaligned() }
    }
}

/// Receiver: copies the first `len` bytes of `words` to `msg`, all of them. Where the user's memory is not accessible, `false`, and nothing was done.
/// Sleeps.
///
/// # Safety
///
/// `msg` is a live message.
#[inline(always)]
pub(crate) unsafe fn drain_words(words: &Words, len: usize, msg: *mut Msg) -> bool {
    if len > size_of::<Words>() {
        return false;
    }
    // SAFETY: by the caller; so many bytes are there.
    unsafe {
        let got = ffi::ts_copy_to_iter(words.as_ptr().cast(), len, msg);
        matches!(Copied::whole(got, len, msg), Copied::Bytes(_))
    }
}

impl Copied {
    /// # Safety
    ///
    /// `msg` is a live message out of whose iterator `got` bytes were just taken.
    unsafe fn whole(got: usize, len: usize, msg: *mut Msg) -> Self {
        if got == len && len > 0 {
            return Copied::Bytes(len);
        }
        // SAFETY: by the caller.
        unsafe { ffi::ts_iov_iter_revert(msg, got) };
        Copied::Fault
    }
}

impl Ring {
    fn bytes(geometry: Geometry) -> usize {
        size_of::<Ring>().wrapping_add(geometry.slots().wrapping_mul(size_of::<AtomicPtr<u8>>()))
    }

    /// A ring of `kbytes` KiB, a power of two; none of its chunks allocated. Sleeps.
    pub(crate) fn alloc(kbytes: u32) -> Option<NonNull<Ring>> {
        let geometry = Geometry::new(kbytes.ilog2().wrapping_add(10), CHUNK_LOG2, HEAD_BYTES)?;
        Self::table(geometry, geometry.capacity(), None)
    }

    fn table(
        geometry: Geometry,
        limit: u64,
        smaller: Option<NonNull<Ring>>,
    ) -> Option<NonNull<Ring>> {
        // SAFETY: process context.
        let ring = unsafe { ffi::ts_ring_alloc(Self::bytes(geometry)) };
        let ring = NonNull::new(ring.cast::<Ring>())?;
        // SAFETY: large enough and ours alone; zeroes are null chunk pointers.
        unsafe {
            ring.write(Ring {
                geometry,
                limit,
                smaller,
                head: AtomicPtr::new(ptr::null_mut()),
                chunks: [],
            })
        };
        Counter::RingMemory.add(Self::bytes(geometry) as u64);
        Some(ring)
    }

    /// A larger table, for `bytes`, with this one's chunks. `None` if this one is large enough, or without memory. Sleeps.
    ///
    /// The caller holds the send lock and puts it in this one's place before it publishes again.
    pub(crate) fn grown(&self, supply: &Supply, bytes: u64) -> Option<NonNull<Ring>> {
        let larger = Self::table(
            self.geometry.grown(bytes)?,
            bytes,
            Some(NonNull::from(self)),
        )?;
        // SAFETY: just made.
        let table = unsafe { larger.as_ref() };
        let head = self.head.load(Ordering::Relaxed);
        table.head.store(head, Ordering::Relaxed);
        for chunk in supply.in_use() {
            let memory = self.slot(chunk).load(Ordering::Relaxed);
            table.slot(chunk).store(memory, Ordering::Relaxed);
        }
        Some(larger)
    }

    /// Frees the ring, its chunks and the table it replaced. Any context.
    ///
    /// # Safety
    ///
    /// Nobody uses the ring any more, and no larger table replaced it.
    pub(crate) unsafe fn free(ring: NonNull<Ring>, lent: &mut Lent) {
        // SAFETY: allocated by `table` and not yet freed.
        let this = unsafe { ring.as_ref() };
        lent.free(this.geometry.chunk_bytes());
        this.empty_head();
        for index in 0..this.geometry.slots() as u64 {
            this.empty(index);
        }
        let mut next = Some(ring);
        while let Some(table) = next {
            // SAFETY: as above, by the caller's word for each table in the list.
            let Ring {
                geometry, smaller, ..
            } = unsafe { table.as_ref() };
            Counter::RingMemoryGone.add(Self::bytes(*geometry) as u64);
            next = *smaller;
            // SAFETY: as above.
            unsafe { ffi::ts_ring_free(table.as_ptr().cast()) };
        }
    }

    /// Bytes the ring holds.
    pub(crate) fn capacity(&self) -> u64 {
        self.limit
    }

    /// Is this a larger table than the ring began with?
    pub(crate) fn is_grown(&self) -> bool {
        self.smaller.is_some()
    }

    fn slot(&self, chunk: u64) -> &AtomicPtr<u8> {
        if chunk == HEAD {
            return &self.head;
        }
        // SAFETY: `geometry.slots()` pointers follow the header, and the slot of any chunk is below that.
        unsafe { &*self.chunks.as_ptr().add(self.geometry.slot(chunk)) }
    }

    /// Takes a chunk's memory, or the head's, out of its slot; null if there is none. The slot is the caller's.
    fn take(&self, chunk: u64) -> *mut u8 {
        let slot = self.slot(chunk);
        let memory = slot.load(Ordering::Relaxed);
        if !memory.is_null() {
            slot.store(ptr::null_mut(), Ordering::Relaxed);
        }
        memory
    }

    /// Frees a chunk's memory, if its slot has any. The slot is the caller's.
    fn empty(&self, chunk: u64) {
        let memory = self.take(chunk);
        if !memory.is_null() {
            // SAFETY: by the type's invariant of that size; only this slot had it, and now none has.
            unsafe { release(memory, self.geometry.chunk_bytes()) };
        }
    }

    /// Frees the head's memory, if there is any. Its slot is the caller's.
    fn empty_head(&self) {
        let memory = self.take(HEAD);
        if !memory.is_null() {
            let bytes = self.geometry.head_bytes();
            // SAFETY: as in `empty`.
            unsafe { ffi::ts_head_free(memory, bytes) };
            Counter::RingMemoryGone.add(bytes as u64);
        }
    }

    /// Receiver, about to give back the bytes up to `end` while `unread` more are there: a ring that grew for a receiver that was late
    /// lets go of its memory as that one catches up. Not of what a pipe has: that counts (`Lent`).
    #[inline(always)]
    pub(crate) fn let_go(&self, end: u64, unread: u64) {
        if let Some(smaller) = self.smaller {
            self.let_go_grown(smaller, end, unread);
        }
    }

    #[inline(never)]
    fn let_go_grown(&self, smaller: NonNull<Ring>, end: u64, unread: u64) {
        // SAFETY: lives as long as this one.
        if self.geometry.is_border(end) && unread > unsafe { smaller.as_ref() }.capacity() {
            self.empty_unless_lent(self.geometry.chunk(end).wrapping_sub(1));
        }
    }

    fn empty_unless_lent(&self, chunk: u64) {
        let memory = self.slot(chunk).load(Ordering::Relaxed);
        // SAFETY: the chunk is the caller's, and so alive.
        if !memory.is_null() && !unsafe { ffi::ts_chunk_is_lent(memory) } {
            self.empty(chunk);
        }
    }

    /// Sender of a lane that will not use its ring again: frees the memory. Everything was read, so all slots are the sender's.
    pub(crate) fn clear(&self, tx: &mut Tx) {
        self.empty_head();
        for chunk in tx.supply.in_use() {
            self.empty(chunk);
        }
        tx.supply = Supply::new();
        tx.lent.free(self.geometry.chunk_bytes());
    }

    /// Sender of an empty ring that nobody has used for a while: frees the memory until the next byte comes, but for what pipes have.
    pub(crate) fn rest(&self, tx: &mut Tx, lends: &AtomicBool) {
        self.empty_head();
        for chunk in tx.supply.in_use() {
            let memory = self.slot(chunk).swap(ptr::null_mut(), Ordering::Relaxed);
            if memory.is_null() {
                continue;
            }
            // SAFETY: the slot was the sender's: everything was read. The chunk is the ring's alone, or lent.
            if unsafe { ffi::ts_chunk_is_lent(memory) } {
                self.put_aside(memory, tx, lends);
            } else {
                // SAFETY: a chunk of that size that no slot has any more.
                unsafe { release(memory, self.geometry.chunk_bytes()) };
            }
        }
        tx.supply.start_at(self.geometry.chunk(tx.prod));
        loop {
            let back = tx.lent.take_back(LENT_MAX, lends);
            if back.is_null() {
                break;
            }
            // SAFETY: a chunk of that size, which nothing else has.
            unsafe { release(back, self.geometry.chunk_bytes()) };
        }
    }

    /// Sender: the memory of the chunk at `prod`.
    fn chunk_or_alloc(
        &self,
        chunk: u64,
        tx: &mut Tx,
        cursors: &Cursors,
        lends: &AtomicBool,
    ) -> Option<NonNull<u8>> {
        let slot = self.slot(chunk);
        if chunk == HEAD {
            return self.head_or_alloc();
        }
        if tx.supply.reaches(chunk) {
            return NonNull::new(slot.load(Ordering::Relaxed));
        }
        // Acquire, in `cons`: the receiver has read the chunk, and emptied its slot if it did, before its memory is used again.
        tx.cons = cursors.cons();
        if tx.cons >= self.geometry.head_bytes() as u64 {
            self.empty_head();
        }
        let mut memory = ptr::null_mut::<u8>();
        while memory.is_null() {
            let Some(old) = tx.supply.take(self.geometry, tx.cons) else {
                break;
            };
            memory = self.slot(old).swap(ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: the slot was ours by `cons`: the chunk is the ring's alone, or lent.
            if !memory.is_null() && unsafe { ffi::ts_chunk_is_lent(memory) } {
                self.put_aside(memory, tx, lends);
                memory = ptr::null_mut();
            }
        }
        if memory.is_null() {
            memory = tx.lent.take_back(LENT_MAX, lends);
        } else {
            // Not needed here: not kept either.
            let back = tx.lent.take_back(LENT_LOOKS, lends);
            if !back.is_null() {
                // SAFETY: a chunk of that size, which nothing else has.
                unsafe { release(back, self.geometry.chunk_bytes()) };
            }
        }
        if memory.is_null() {
            let bytes = self.geometry.chunk_bytes();
            // SAFETY: the sender's process context.
            memory = got(unsafe { ffi::ts_chunk_alloc(bytes) }, bytes)?.as_ptr();
        }
        // Published to the reader with the bytes in it.
        slot.store(memory, Ordering::Relaxed);
        tx.supply.extend();
        NonNull::new(memory)
    }

    /// Sender: the head's memory. Sleeps.
    fn head_or_alloc(&self) -> Option<NonNull<u8>> {
        if let Some(memory) = NonNull::new(self.head.load(Ordering::Relaxed)) {
            return Some(memory);
        }
        let bytes = self.geometry.head_bytes();
        // SAFETY: the sender's process context.
        let memory = got(unsafe { ffi::ts_head_alloc(bytes) }, bytes)?;
        // Published to the reader with the bytes in it.
        self.head.store(memory.as_ptr(), Ordering::Relaxed);
        Some(memory)
    }

    /// Sender: a pipe still has pages of this chunk. Without memory to note it, nothing is lent any more until one of those noted is
    /// back.
    fn put_aside(&self, memory: *mut u8, tx: &mut Tx, lends: &AtomicBool) {
        if tx.lent.keep(memory, self.geometry.slots(), lends) {
            return;
        }
        lends.store(false, Ordering::Relaxed);
        // SAFETY: a chunk of that size that no slot has; it is the pipe's then.
        unsafe { release(memory, self.geometry.chunk_bytes()) };
    }

    /// Sender: copies all `len` bytes of `msg` to position `tx.prod`, if they fit what is there of a chunk, in whole words, and returns where they are. Otherwise,
    /// or where the user's memory is not accessible, `None`, and nothing was done; `fill` meets the fault once more. Sleeps.
    ///
    /// # Safety
    ///
    /// As for `fill`.
    #[inline(always)]
    pub(crate) unsafe fn fill_at_once(&self, tx: &Tx, len: usize, msg: *mut Msg) -> Option<Filled> {
        let words = in_words(len as u64);
        let Span {
            chunk,
            offset,
            len: there,
        } = self.geometry.span(tx.prod, words);
        if (there as u64) < words || !(chunk == HEAD || tx.supply.reaches(chunk)) {
            return None;
        }
        let memory = NonNull::new(self.slot(chunk).load(Ordering::Relaxed))?;
        // SAFETY: the span lies within the chunk; readers do not look at free positions.
        let (at, copied) = unsafe {
            let at = memory.add(offset);
            let got = ffi::ts_copy_from_iter(at.as_ptr(), len, msg);
            (at, Copied::whole(got, len, msg))
        };
        matches!(copied, Copied::Bytes(_)).then_some(Filled { at, len })
    }

    /// Copies at most `want` bytes of `msg` to position `tx.prod`, up to the chunk's end. Sleeps.
    ///
    /// # Safety
    ///
    /// This is the lane's newest table; as many bytes from `tx.prod` on are free; `msg` is a live message.
    pub(crate) unsafe fn fill(
        &self,
        tx: &mut Tx,
        cursors: &Cursors,
        lends: &AtomicBool,
        want: u64,
        msg: *mut Msg,
    ) -> Copied {
        let Span { chunk, offset, len } = self.geometry.span(tx.prod, want);
        let Some(chunk) = self.chunk_or_alloc(chunk, tx, cursors, lends) else {
            return Copied::NoMemory;
        };
        // SAFETY: the span lies within the chunk; readers do not look at free positions.
        unsafe {
            Copied::whole(
                ffi::ts_copy_from_iter(chunk.as_ptr().add(offset), len, msg),
                len,
                msg,
            )
        }
    }

    /// The memory of at most `want` bytes from position `pos` on, up to the chunk's end.
    ///
    /// The caller holds the receive lock, and these bytes are published and not given back: nobody writes to them.
    #[inline(always)]
    pub(crate) fn published(&self, pos: u64, want: u64) -> Option<(NonNull<u8>, usize)> {
        let Span { chunk, offset, len } = self.geometry.span(pos, want);
        let chunk = NonNull::new(self.slot(chunk).load(Ordering::Relaxed))?;
        // SAFETY: the span lies within the chunk.
        Some((unsafe { chunk.add(offset) }, len))
    }

    /// Can a pipe be lent what is published at position `pos`, and not only be given a copy?
    pub(crate) fn is_lendable(&self, pos: u64) -> bool {
        pos >= self.geometry.head_bytes() as u64
    }

    /// Copies all `len` bytes from position `pos` to `msg`, if they are in one chunk. Otherwise, or where the user's memory is not
    /// accessible, `false`, and nothing was done; `drain` meets the fault once more. Sleeps.
    ///
    /// # Safety
    ///
    /// As for `drain`.
    #[inline(always)]
    pub(crate) unsafe fn drain_at_once(&self, pos: u64, len: usize, msg: *mut Msg) -> bool {
        match self.published(pos, len as u64) {
            // SAFETY: by the caller these bytes are published; the sender does not write to published positions.
            Some((from, there)) if there == len => {
                let got = unsafe { ffi::ts_copy_to_iter(from.as_ptr(), len, msg) };
                matches!(unsafe { Copied::whole(got, len, msg) }, Copied::Bytes(_))
            }
            _ => false,
        }
    }

    /// Copies at most `want` bytes from position `pos` to `msg`, up to the chunk's end; to nowhere if `msg` is null. Sleeps.
    ///
    /// # Safety
    ///
    /// The caller holds the receive lock; `pos..pos + want` is published and not given back; `msg` is null or a live message.
    pub(crate) unsafe fn drain(&self, pos: u64, want: u64, msg: *mut Msg) -> Copied {
        let Some((from, len)) = self.published(pos, want) else {
            return Copied::Fault;
        };
        if msg.is_null() {
            return Copied::Bytes(len);
        }
        // SAFETY: by the caller these bytes are published; the sender does not write to published positions.
        unsafe { Copied::whole(ffi::ts_copy_to_iter(from.as_ptr(), len, msg), len, msg) }
    }
}
