// SPDX-License-Identifier: GPL-2.0-only
//! Where in the ring's chunks a run of bytes lies.
//!
//! The ring's memory is an array of equal chunks, so that no large contiguous allocation is ever needed.

/// Size of a ring and of its chunks, both powers of two, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    capacity_log2: u32,
    chunk_log2: u32,
}

/// A run of bytes within one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the chunk, below [`Geometry::chunks`].
    pub chunk: usize,
    /// Offset within the chunk, in bytes.
    pub offset: usize,
    /// Length in bytes; `offset + len` does not pass the chunk's end.
    pub len: usize,
}

impl Geometry {
    /// A ring of `1 << capacity_log2` bytes in chunks of at most `1 << chunk_log2`.
    ///
    /// `None` for more than 2^40 bytes: no such ring exists, and the arithmetic below need not think about it.
    pub const fn new(capacity_log2: u32, chunk_log2: u32) -> Option<Self> {
        if capacity_log2 > 40 {
            return None;
        }
        let chunk_log2 = if chunk_log2 > capacity_log2 {
            capacity_log2
        } else {
            chunk_log2
        };
        Some(Geometry {
            capacity_log2,
            chunk_log2,
        })
    }

    /// Bytes the ring holds.
    pub const fn capacity(self) -> u64 {
        1u64.wrapping_shl(self.capacity_log2)
    }

    /// Bytes of one chunk.
    pub const fn chunk_bytes(self) -> usize {
        1usize.wrapping_shl(self.chunk_log2)
    }

    /// Number of chunks.
    pub const fn chunks(self) -> usize {
        1usize.wrapping_shl(self.capacity_log2.wrapping_sub(self.chunk_log2))
    }

    /// The first run of at most `want` bytes from stream position `pos` on: up to the chunk's end.
    pub const fn span(self, pos: u64, want: u64) -> Span {
        let within = pos & self.capacity().wrapping_sub(1);
        let offset = within as usize & self.chunk_bytes().wrapping_sub(1);
        let room = self.chunk_bytes().wrapping_sub(offset) as u64;
        Span {
            chunk: within.wrapping_shr(self.chunk_log2) as usize,
            offset,
            len: if want < room { want } else { room } as usize,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Walking a run span by span visits exactly the bytes `pos..pos+len` of the ring, in order, within bounds.
        #[test]
        fn spans_tile_the_ring(cap in 0u32..16, chunk in 0u32..16, pos: u64, len in 0u64..100_000) {
            let pos = pos >> 2;
            let ring = Geometry::new(cap, chunk).unwrap();
            let mut done = 0;
            while done < len {
                let s = ring.span(pos + done, len - done);
                prop_assert!(s.len > 0 && s.chunk < ring.chunks() && s.offset + s.len <= ring.chunk_bytes());
                let at = (s.chunk * ring.chunk_bytes() + s.offset) as u64;
                prop_assert_eq!(at, (pos + done) % ring.capacity());
                done += s.len as u64;
            }
            prop_assert_eq!(done, len);
            prop_assert_eq!(ring.chunks() as u64 * ring.chunk_bytes() as u64, ring.capacity());
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(Geometry::new(41, 14).is_none());
        assert_eq!(Geometry::new(12, 14).unwrap().chunks(), 1);
    }
}
