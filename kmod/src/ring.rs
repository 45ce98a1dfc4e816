// SPDX-License-Identifier: GPL-2.0-only
//! The ring's memory: an array of chunks, each allocated when the sender first reaches it.
//!
//! Only the sender allocates, in process context, charged to its memory cgroup. Chunks are not zeroed: a reader can only reach
//! bytes that were published, and those were written.

use crate::ffi::{self, Msg};
use crate::stats::Counter;
use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};
use tcp_splice_core::span::{Geometry, Span};

/// Chunks are at most 16 KiB: order 2, which the page allocator hands out without compaction.
const CHUNK_LOG2: u32 = 14;

/// Header of the allocation; `geometry.chunks()` pointers follow it.
///
/// # Invariants
///
/// Each pointer that follows is null or a chunk of `geometry.chunk_bytes()` bytes, and once set does not change until the ring is
/// freed.
#[repr(C)]
pub(crate) struct Ring {
    geometry: Geometry,
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
        size_of::<Ring>().wrapping_add(geometry.chunks().wrapping_mul(size_of::<AtomicPtr<u8>>()))
    }

    /// A ring of `kbytes` KiB, a power of two; none of its chunks allocated. Sleeps.
    pub(crate) fn alloc(kbytes: u32) -> Option<NonNull<Ring>> {
        let geometry = Geometry::new(kbytes.ilog2().wrapping_add(10), CHUNK_LOG2)?;
        // SAFETY: process context.
        let ring = unsafe { ffi::ts_ring_alloc(Self::bytes(geometry)) };
        let ring = NonNull::new(ring.cast::<Ring>())?;
        // SAFETY: large enough and ours alone; zeroes are null chunk pointers.
        unsafe {
            ring.write(Ring {
                geometry,
                chunks: [],
            })
        };
        Counter::RingMemory.add(Self::bytes(geometry) as u64);
        Some(ring)
    }

    /// Frees the ring and its chunks. Any context.
    ///
    /// # Safety
    ///
    /// Nobody uses the ring any more.
    pub(crate) unsafe fn free(ring: NonNull<Ring>) {
        // SAFETY: allocated by `alloc` and not yet freed.
        let this = unsafe { ring.as_ref() };
        let bytes = this.geometry.chunk_bytes();
        let mut freed = Self::bytes(this.geometry) as u64;
        for index in 0..this.geometry.chunks() {
            let chunk = this
                .slot(index)
                .map_or(core::ptr::null_mut(), |s| s.load(Ordering::Relaxed));
            if !chunk.is_null() {
                // SAFETY: by the type's invariant a chunk of that size; nobody uses it.
                unsafe { ffi::ts_chunk_free(chunk, bytes) };
                freed = freed.wrapping_add(bytes as u64);
            }
        }
        Counter::RingMemoryGone.add(freed);
        // SAFETY: as above.
        unsafe { ffi::ts_ring_free(ring.as_ptr().cast()) };
    }

    /// Bytes the ring holds.
    pub(crate) fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    fn slot(&self, index: usize) -> Option<&AtomicPtr<u8>> {
        if index >= self.geometry.chunks() {
            return None;
        }
        // SAFETY: `geometry.chunks()` pointers follow the header, and `index` is below that.
        Some(unsafe { &*self.chunks.as_ptr().add(index) })
    }

    fn chunk_or_alloc(&self, index: usize) -> Option<NonNull<u8>> {
        let slot = self.slot(index)?;
        if let Some(chunk) = NonNull::new(slot.load(Ordering::Relaxed)) {
            return Some(chunk);
        }
        let bytes = self.geometry.chunk_bytes();
        // SAFETY: process context (the sender's).
        let chunk = NonNull::new(unsafe { ffi::ts_chunk_alloc(bytes) })?;
        Counter::RingMemory.add(bytes as u64);
        // Published to the reader with the bytes in it.
        slot.store(chunk.as_ptr(), Ordering::Relaxed);
        Some(chunk)
    }

    /// Copies at most `want` bytes of `msg` to position `prod`, up to the chunk's end. Sleeps.
    ///
    /// # Safety
    ///
    /// The caller holds the send lock; `prod..prod + want` is free; `msg` is a live message.
    pub(crate) unsafe fn fill(&self, prod: u64, want: u64, msg: *mut Msg) -> Copied {
        let Span { chunk, offset, len } = self.geometry.span(prod, want);
        let Some(chunk) = self.chunk_or_alloc(chunk) else {
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

    /// Copies at most `want` bytes from position `pos` to `msg`, up to the chunk's end; to nowhere if `msg` is null. Sleeps.
    ///
    /// # Safety
    ///
    /// The caller holds the receive lock; `pos..pos + want` is published and not given back; `msg` is null or a live message.
    pub(crate) unsafe fn drain(&self, pos: u64, want: u64, msg: *mut Msg) -> Copied {
        let Span { chunk, offset, len } = self.geometry.span(pos, want);
        let Some(chunk) = self
            .slot(chunk)
            .and_then(|s| NonNull::new(s.load(Ordering::Relaxed)))
        else {
            return Copied::Fault;
        };
        if msg.is_null() {
            return Copied::Bytes(len);
        }
        // SAFETY: the span lies within the chunk; the sender does not write to published positions.
        unsafe {
            Copied::whole(
                ffi::ts_copy_to_iter(chunk.as_ptr().add(offset), len, msg),
                len,
                msg,
            )
        }
    }
}
