// SPDX-License-Identifier: GPL-2.0-only
//! Streams whose every byte is known from its position, so that a receiver can check them without the sender.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};

/// A stream of pseudo-random bytes named by a seed; the byte at each position is a function of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The stream named `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Eight bytes at the word position `index` (splitmix64).
    fn word(self, index: u64) -> [u8; 8] {
        let golden = 0x9e37_79b9_7f4a_7c15_u64;
        let mut word = index
            .wrapping_add(self.seed.rotate_left(32))
            .wrapping_mul(golden);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }

    /// Fills `buffer` with the bytes that begin at `position`.
    pub fn fill(self, position: u64, buffer: &mut [u8]) {
        let skip = (position % 8) as usize;
        let mut index = position / 8;
        let head = buffer.len().min((8 - skip) % 8);
        let (first, rest) = buffer.split_at_mut(head);
        if head > 0 {
            first.copy_from_slice(&self.word(index)[skip..skip + head]);
            index += 1;
        }
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.word(index)[..chunk.len()]);
            index += 1;
        }
    }

    /// The `length` bytes that begin at `position`.
    pub fn bytes(self, position: u64, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        self.fill(position, &mut buffer);
        buffer
    }

    /// Checks that `got` are the bytes that begin at `position`; names the first wrong one.
    pub fn check(self, position: u64, got: &[u8]) -> Result<()> {
        let want = self.bytes(position, got.len());
        if want == got {
            return Ok(());
        }
        let at = want.iter().zip(got).position(|(a, b)| a != b).unwrap_or(0);
        let wrong = want.iter().zip(got).filter(|(a, b)| a != b).count();
        anyhow::bail!(
            "wrong byte at position {}: {:#04x} instead of {:#04x} ({wrong} of {} are wrong)",
            position + at as u64,
            got[at],
            want[at],
            got.len()
        )
    }

    /// Writes the bytes from `position` on, `length` of them.
    pub fn write(self, mut to: impl Write, position: u64, length: usize) -> Result<()> {
        to.write_all(&self.bytes(position, length))
            .with_context(|| format!("failed to write {length} bytes at position {position}"))
    }

    /// Reads `length` bytes and checks that they are those from `position` on.
    pub fn read(self, mut from: impl Read, position: u64, length: usize) -> Result<()> {
        let mut buffer = vec![0; length];
        from.read_exact(&mut buffer)
            .with_context(|| format!("failed to read {length} bytes at position {position}"))?;
        self.check(position, &buffer)
    }

    /// Reads to the end of the stream, which has to come after exactly `length` bytes from `position` on.
    pub fn read_to_end(self, mut from: impl Read, position: u64, length: usize) -> Result<()> {
        let mut buffer = Vec::with_capacity(length);
        let read = from.read_to_end(&mut buffer);
        self.check(position, &buffer)?;
        read.with_context(|| format!("failed to read to the end after {} bytes", buffer.len()))?;
        ensure!(
            buffer.len() == length,
            "stream ended after {} bytes instead of {length}",
            buffer.len()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let pattern = Pattern::new(7);
        let whole = pattern.bytes(0, 100);
        for from in 0..40 {
            for length in 0..40 {
                let cut = pattern.bytes(from as u64, length);
                assert_eq!(cut, whole[from..from + length], "{from} {length}");
            }
        }
    }

    #[test]
    fn a_wrong_byte_is_named() {
        let pattern = Pattern::new(7);
        let mut bytes = pattern.bytes(5, 50);
        bytes[3] ^= 1;
        let said = pattern.check(5, &bytes).unwrap_err().to_string();
        assert!(said.starts_with("wrong byte at position 8: "), "{said}");
    }

    #[test]
    fn streams_differ() {
        assert_ne!(Pattern::new(1).bytes(0, 64), Pattern::new(2).bytes(0, 64));
    }
}
