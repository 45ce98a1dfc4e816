// SPDX-License-Identifier: GPL-2.0-only
//! The table of offers: connecting ends that wait for their accepting end.
//!
//! Bounded and self-cleaning: a set-associative array whose stale entries are overwritten. An offer costs no memory beyond its
//! slot, a lookup looks at one set, and nothing has to be timed. On one host the accepting end always follows the connecting end
//! (its ACK is sent after ACTIVE_ESTABLISHED ran), so only connecting ends wait here.
//!
//! A new offer always finds a place, if need be that of an older one. An honest offer is taken within microseconds, so whoever
//! leaves offers lying about loses those. A namespace holds at most [`SHARE`] of a set, and one that holds much of a full set
//! makes room for those that hold less: a flood in one namespace hurts nobody but itself.
//!
//! The caller provides the lock, a keyed hash of the two sequence numbers (so that a set is hard to aim at), and the time.

use crate::pairing::{self, Facts, Refusal};
use core::cmp::Reverse;

/// Offers that share a set.
pub const WAYS: usize = 8;

/// Offers of one network namespace in a set.
pub const SHARE: usize = WAYS / 2;

/// One waiting offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    facts: Facts,
    handle: u64,
    expires: u64,
}

/// A set of the table; [`Set::EMPTY`] is how one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    ways: [Option<Offer>; WAYS],
}

impl Set {
    /// A set without offers.
    pub const EMPTY: Set = Set { ways: [None; WAYS] };

    /// Puts an offer up until `expires`, by which older and newer ones are told apart, too; `handle` is what [`Set::take`] returns
    /// for it. A stale slot is as good as an empty one.
    ///
    /// Returns why an older offer, if any, lost its place: [`Refusal::Share`] to one of its own namespace,
    /// [`Refusal::TableFull`] to one of another.
    pub fn put(&mut self, facts: Facts, handle: u64, now: u64, expires: u64) -> Option<Refusal> {
        let offer = Offer {
            facts,
            handle,
            expires,
        };
        let (mut held, mut free) = (0_usize, None);
        for way in &mut self.ways {
            match way {
                Some(o) if o.expires > now => {
                    held = held.wrapping_add(usize::from(o.facts.netns == facts.netns));
                }
                _ => free = free.or(Some(way)),
            }
        }
        if let Some(way) = free.filter(|_| held < SHARE) {
            *way = Some(offer);
            return None;
        }
        let loser = self.loser(facts.netns, now)?;
        let way = self
            .ways
            .iter_mut()
            .find(|w| w.is_some_and(|o| o.handle == loser.handle))?;
        *way = Some(offer);
        Some(if loser.facts.netns == facts.netns {
            Refusal::Share
        } else {
            Refusal::TableFull
        })
    }

    /// How many offers are here, fresh or stale.
    pub fn len(&self) -> usize {
        self.ways.iter().flatten().count()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many fresh offers a namespace has here.
    fn held(&self, netns: u64, now: u64) -> usize {
        let fresh = self.ways.iter().flatten().filter(|o| o.expires > now);
        fresh.filter(|o| o.facts.netns == netns).count()
    }

    /// The fresh offer that goes when one of `netns` comes: the oldest of the namespace that would have most, of `netns` itself
    /// rather than of its equals.
    fn loser(&self, netns: u64, now: u64) -> Option<Offer> {
        let fresh = self.ways.iter().flatten().filter(|o| o.expires > now);
        let claim = |o: &&Offer| {
            let own = o.facts.netns == netns;
            let held = self.held(o.facts.netns, now);
            let held = held.wrapping_add(usize::from(own));
            (held, own, Reverse(o.expires))
        };
        fresh.max_by_key(claim).copied()
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

    /// The handles of all offers here, fresh and stale.
    pub fn handles(&self) -> impl Iterator<Item = u64> {
        self.ways.iter().flatten().map(|offer| offer.handle)
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
mod tests;
