// SPDX-License-Identifier: GPL-2.0-only
//! When a sender that could use the ring should wait for TCP to deliver what it was sent before.
//!
//! A ring segment begins when TCP has nothing under way. A sender that never pauses would not see that moment: each message
//! goes over TCP because of the one before. So after some bytes it lets TCP come to an end once, which costs a stream little, since its receiver
//! still has something to read meanwhile. When no byte got into the ring by that, be it that the receiver does not read or that there is no
//! memory, it does not try again before there were twice as many.

/// Bytes before the first wait.
pub const FIRST: u64 = 256 << 10;

/// Bytes between two waits at most.
pub const MOST: u64 = 64 << 20;

/// Bytes of calls that may wait, which went over TCP in a row only because earlier ones were still under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    bytes: u64,
    limit: u64,
}

impl Lag {
    /// None.
    pub const NONE: Lag = Lag {
        bytes: 0,
        limit: FIRST,
    };

    /// So many more are about to: should the sender wait first?
    pub fn is_over(&mut self, more: u64) -> bool {
        self.bytes = self.bytes.saturating_add(more);
        self.bytes > self.limit
    }

    /// It has waited. [`Lag::NONE`] again once a byte is in the ring.
    pub fn has_waited(&mut self) {
        self.bytes = 0;
        self.limit = self.limit.saturating_mul(2).min(MOST);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Messages of `length`, and how many waits all of `bytes` take if each is in vain.
    fn waits(length: u64, bytes: u64) -> usize {
        let mut lag = Lag::NONE;
        (0..bytes / length)
            .filter(|_| {
                let over = lag.is_over(length);
                if over {
                    lag.has_waited();
                }
                over
            })
            .count()
    }

    #[test]
    fn a_few_messages_do_not_wait() {
        assert_eq!(waits(64, FIRST), 0);
        assert_eq!(waits(64, FIRST + 64), 1);
    }

    #[test]
    fn waits_in_vain_become_rare() {
        assert_eq!(waits(16 << 10, 100 << 20), 8);
        assert_eq!(waits(1 << 30, 100 << 30), 100);
    }

    #[test]
    fn no_length_is_too_much() {
        let mut lag = Lag::NONE;
        assert!(lag.is_over(u64::MAX));
        assert!(lag.is_over(u64::MAX));
    }
}
