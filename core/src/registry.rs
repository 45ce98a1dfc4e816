// SPDX-License-Identifier: GPL-2.0-only
//! The table of offers: connecting ends that wait for their accepting end.
//!
//! Bounded and self-cleaning: a set-associative array whose stale entries are overwritten. An offer costs no memory beyond its
//! slot, a lookup looks at one set, and nothing has to be timed. On one host the accepting end always follows the connecting end
//! (its ACK is sent after ACTIVE_ESTABLISHED ran), so only connecting ends wait here.
//!
//! The caller provides the lock, a keyed hash of the two sequence numbers (so that nobody can aim at one set), and the time.

use crate::pairing::{self, Facts, Refusal};

/// Offers that share a set.
pub const WAYS: usize = 8;

/// One waiting offer.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    facts: Facts,
    handle: u64,
    expires: u64,
}

/// A set of the table; [`Set::EMPTY`] is how one begins.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    ways: [Option<Offer>; WAYS],
}

impl Set {
    /// A set without offers.
    pub const EMPTY: Set = Set { ways: [None; WAYS] };

    /// Puts an offer up until `expires`; `handle` is what [`Set::take`] returns for it. A stale slot is as good as an empty one.
    ///
    /// # Errors
    ///
    /// [`Refusal::TableFull`] when every way holds a fresh offer.
    pub fn put(
        &mut self,
        facts: Facts,
        handle: u64,
        now: u64,
        expires: u64,
    ) -> Result<(), Refusal> {
        let free = self
            .ways
            .iter_mut()
            .find(|w| w.is_none_or(|o| o.expires <= now));
        let way = free.ok_or(Refusal::TableFull)?;
        *way = Some(Offer {
            facts,
            handle,
            expires,
        });
        Ok(())
    }

    /// Finds the offer that `facts` completes and takes it out, returning its handle: an offer serves once.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoOffer`] when none has these sequence numbers, [`Refusal::Ambiguous`] when several could be meant (none is
    /// taken), otherwise what [`pairing::judge`] says of the one that has them.
    pub fn take(&mut self, facts: &Facts, now: u64) -> Result<u64, Refusal> {
        let mut verdict = Err(Refusal::NoOffer);
        let mut found = None;
        for way in &mut self.ways {
            let Some(offer) = way else { continue };
            if offer.expires <= now || !pairing::same_connection(&offer.facts, facts) {
                continue;
            }
            match pairing::judge(&offer.facts, facts) {
                Ok(()) if found.is_some() => return Err(Refusal::Ambiguous),
                Ok(()) => found = Some(way),
                Err(reason) => verdict = Err(reason),
            }
        }
        match found.and_then(Option::take) {
            Some(offer) => Ok(offer.handle),
            None => verdict,
        }
    }

    /// Takes back the offer with this handle, fresh or stale; `false` when there is none (any more).
    pub fn withdraw(&mut self, handle: u64) -> bool {
        let mine = self
            .ways
            .iter_mut()
            .find(|w| w.is_some_and(|o| o.handle == handle));
        mine.and_then(Option::take).is_some()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn end(id: u64, write_seq: u32, rcv_nxt: u32) -> Facts {
        let (txhash, peer) = (write_seq ^ 0x5555, rcv_nxt ^ 0x5555);
        Facts {
            id,
            write_seq,
            rcv_nxt,
            txhash,
            peer_hash: Some(peer),
            netns: 1,
            init_user_ns: true,
        }
    }

    #[test]
    fn an_offer_serves_once() {
        let mut set = Set::EMPTY;
        set.put(end(1, 10, 20), 1, 0, 5).unwrap();
        assert_eq!(set.take(&end(2, 20, 10), 1).unwrap(), 1);
        assert_eq!(set.take(&end(3, 20, 10), 1), Err(Refusal::NoOffer));
    }

    #[test]
    fn a_stale_offer_is_not_served_and_makes_room() {
        let mut set = Set::EMPTY;
        for i in 0..WAYS as u64 {
            set.put(end(i, 10, 20), i, 0, 5).unwrap();
        }
        assert_eq!(set.put(end(99, 10, 20), 99, 4, 9), Err(Refusal::TableFull));
        assert_eq!(set.take(&end(100, 20, 10), 5), Err(Refusal::NoOffer));
        set.put(end(99, 10, 20), 99, 5, 9).unwrap();
        assert_eq!(set.take(&end(100, 20, 10), 6).unwrap(), 99);
    }

    #[test]
    fn ambiguity_pairs_nobody() {
        let mut set = Set::EMPTY;
        set.put(end(1, 10, 20), 1, 0, 5).unwrap();
        set.put(end(2, 10, 20), 2, 0, 5).unwrap();
        assert_eq!(set.take(&end(3, 20, 10), 1), Err(Refusal::Ambiguous));
        assert!(
            set.withdraw(1) && set.withdraw(2),
            "both offers are still there"
        );
    }

    /// A hostile offer with the right sequence numbers neither pairs nor hides the honest one.
    #[test]
    fn a_forged_offer_does_not_shadow_the_true_one() {
        for forged_first in [true, false] {
            let mut set = Set::EMPTY;
            let forged = Facts {
                txhash: 0xdead,
                ..end(66, 10, 20)
            };
            let (first, second) = if forged_first {
                (forged, end(1, 10, 20))
            } else {
                (end(1, 10, 20), forged)
            };
            set.put(first, first.id, 0, 5).unwrap();
            set.put(second, second.id, 0, 5).unwrap();
            assert_eq!(set.take(&end(2, 20, 10), 1).unwrap(), 1);
            assert_eq!(set.take(&end(3, 20, 10), 1), Err(Refusal::Witness));
        }
    }

    #[test]
    fn withdrawing_is_idempotent() {
        let mut set = Set::EMPTY;
        set.put(end(1, 10, 20), 1, 0, 5).unwrap();
        assert!(set.withdraw(1));
        assert!(!set.withdraw(1));
        assert_eq!(set.take(&end(2, 20, 10), 1), Err(Refusal::NoOffer));
    }
}
