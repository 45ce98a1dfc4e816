// SPDX-License-Identifier: GPL-2.0-only
//! A copy of the last message, if it is short, in the cache line of the `prod` word.
//!
//! Its bytes are in the ring as all bytes are. But a receiver that has just seen `prod` move has this line, and finds them there without
//! fetching another one from the sender's processor; and the ring's line stays with the sender, who need not take it back for the next message.
//!
//! A reader may come while the sender writes the next message, so this is a seqlock whose number is where in the stream the message begins
//! (Boehm, *Can seqlocks get along with programming language memory models?*, MSPC 2012). No position is published twice, so none comes back.

use core::array;

use crate::primitive::{AtomicU64, Ordering, fence};

const WORDS: usize = 6;

/// Bytes of the longest message that is copied: what is left of a cache line behind two words.
pub const SHORT: usize = 8 * WORDS;

/// The bytes of a short message, in the order of memory; what follows them counts for nothing.
pub type Words = [u64; WORDS];

/// No position.
const NOWHERE: u64 = u64::MAX;

/// Where the message begins, and its bytes. All zeroes is right for a stream of which nothing was published.
#[derive(Default)]
pub(crate) struct Short {
    start: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Short {
    /// Sender, under its lock, before it publishes as many bytes at `prod`, at most [`SHORT`]: of which `word` gives each eight.
    #[inline(always)]
    pub(crate) fn put(&self, prod: u64, bytes: usize, word: impl Fn(usize) -> u64) {
        let used = bytes.div_ceil(8);
        // All of them first: while this writes to the line, a reader that waits for it may fetch it away.
        let words: Words = array::from_fn(|index| if index < used { word(index) } else { 0 });
        self.start.store(prod, Ordering::Relaxed);
        // A reader that gets one of the words below sees that they begin elsewhere now; pairs with the fence in `get`.
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(words).take(used) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Sender, under its lock, before it publishes at most [`SHORT`] bytes without a copy: whoever finds a message's beginning here takes all
    /// that it sees published from there on for this message, if that is no more.
    pub(crate) fn forget(&self) {
        self.start.store(NOWHERE, Ordering::Relaxed);
    }

    /// Receiver, under its lock, who saw `bytes` bytes published from `cons` on, by an acquire: these, if they are one message that was copied.
    #[inline(always)]
    pub(crate) fn get(&self, cons: u64, bytes: u64) -> Option<Words> {
        if bytes > SHORT as u64 || self.start.load(Ordering::Relaxed) != cons {
            return None;
        }
        let words = array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (self.start.load(Ordering::Relaxed) == cons).then_some(words)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cursors::Cursors;

    fn byte(position: u64) -> u8 {
        (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    /// The message of `len` bytes at a position, and what stands behind it in the last word.
    fn words(start: u64, len: usize) -> Words {
        let mut bytes = [0xaa; SHORT];
        for (position, place) in (start..).zip(&mut bytes[..len]) {
            *place = byte(position);
        }
        let word = |index: usize| u64::from_ne_bytes(bytes[8 * index..][..8].try_into().unwrap());
        core::array::from_fn(word)
    }

    fn bytes(words: &Words) -> impl Iterator<Item = u8> {
        words.iter().flat_map(|word| word.to_ne_bytes())
    }

    #[test]
    fn a_message_that_is_copied_is_found_at_its_beginning_only() {
        let (cursors, mut start) = (Cursors::new(), 0);
        for len in 1..=SHORT {
            let word = |index: usize| words(start, len)[index];
            cursors.publish_short(start, len, word).unwrap();
            let got = cursors.short(start, len as u64).unwrap();
            assert!(
                bytes(&got)
                    .take(len)
                    .eq(bytes(&words(start, len)).take(len))
            );
            assert_eq!(cursors.short(start + 1, len as u64 - 1), None);
            start += len as u64;
        }
    }

    #[test]
    fn two_messages_are_not_taken_for_one() {
        let cursors = Cursors::new();
        cursors.publish_short(0, 8, |_| words(0, 8)[0]).unwrap();
        cursors.publish(8, 8).unwrap();
        assert_eq!(cursors.short(0, 16), None);
        assert_eq!(cursors.short(8, 8), None);
        cursors.publish_short(16, 8, |_| words(16, 8)[0]).unwrap();
        assert_eq!(cursors.short(8, 16), None);
        cursors.publish(24, SHORT as u64 + 1).unwrap();
        assert_eq!(cursors.short(16, SHORT as u64 + 9), None);
        // Who saw no more than the message does find it.
        let got = cursors.short(16, 8).unwrap();
        assert!(bytes(&got).take(8).eq(bytes(&words(16, 8)).take(8)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Copied(usize),
        Published(u64),
        Read(u64),
        /// What is there is noted, and read after later steps.
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..=SHORT).prop_map(Step::Copied),
            3 => (1..80u64).prop_map(Step::Published),
            4 => (0..100u64).prop_map(Step::Read),
            2 => Just(Step::Look),
        ]
    }

    proptest! {
        /// Whatever was sent, and whenever the reader looked at `prod`: what it finds is the stream's bytes from where it stands, all that it saw.
        #[test]
        fn what_is_found_is_what_was_sent(steps in proptest::collection::vec(step(), 0..60)) {
            let cursors = Cursors::new();
            let (mut prod, mut cons, mut seen) = (0, 0, 0);
            for step in steps {
                match step {
                    Step::Copied(len) => {
                        cursors.publish_short(prod, len, |index| words(prod, len)[index]).unwrap();
                        prod += len as u64;
                    }
                    Step::Published(len) => {
                        cursors.publish(prod, len).unwrap();
                        prod += len;
                    }
                    Step::Look => seen = cursors.prod().bytes,
                    Step::Read(len) => {
                        if seen <= cons {
                            seen = cursors.prod().bytes;
                        }
                        let there = seen - cons;
                        if let Some(got) = cursors.short(cons, there).filter(|_| there > 0) {
                            let expected = (cons..seen).map(byte);
                            prop_assert!(bytes(&got).take(there as usize).eq(expected));
                        }
                        cons += len.min(there);
                    }
                }
            }
        }
    }
}
