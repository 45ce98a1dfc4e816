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
struct Offer {
    facts: Facts,
    /// By which older and newer ones of a set are told apart; the clock may be a coarse one.
    serial: u64,
}

/// Some of a set's places, a bit each.
struct Ways(u8);

const _: () = assert!(WAYS == u8::BITS as usize);

impl Ways {
    /// The first place that is not among these.
    fn first_other(&self) -> Option<usize> {
        let way = self.0.trailing_ones() as usize;
        (way < WAYS).then_some(way)
    }
}

impl Iterator for Ways {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let way = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (way < WAYS).then_some(way)
    }
}

/// A set of the table; [`Set::EMPTY`] is how one begins. Its times stand side by side, and its handles, so that those who look for a place or
/// take their offer back need not look at the offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// When each place's offer expires; 0: none is there.
    expires: [u64; WAYS],
    /// Serial of the offer that came last.
    last: u64,
    handles: [u64; WAYS],
    offers: [Offer; WAYS],
}

impl Set {
    /// A set without offers.
    pub const EMPTY: Set = Set {
        expires: [0; WAYS],
        last: 0,
        handles: [0; WAYS],
        offers: [Offer {
            facts: Facts {
                id: 0,
                write_seq: 0,
                rcv_nxt: 0,
                txhash: 0,
                peer_hash: None,
                netns: 0,
                init_user_ns: false,
            },
            serial: 0,
        }; WAYS],
    };

    /// Puts an offer up until `expires`; `handle` is what [`Set::take`] returns for it. A stale one's place is as good as an empty one.
    ///
    /// Returns why an older offer, if any, lost its place: [`Refusal::Share`] to one of its own namespace,
    /// [`Refusal::TableFull`] to one of another.
    pub fn put(&mut self, facts: Facts, handle: u64, now: u64, expires: u64) -> Option<Refusal> {
        let fresh = self.ways(now);
        let free = fresh.first_other();
        let held = self.held(facts.netns, fresh);
        let (way, lost) = match free.filter(|_| held < SHARE) {
            Some(way) => (way, None),
            None => {
                let (way, netns) = self.loser(facts.netns, now)?;
                let own = netns == facts.netns;
                let reason = if own {
                    Refusal::Share
                } else {
                    Refusal::TableFull
                };
                (way, Some(reason))
            }
        };
        let serial = self.last.wrapping_add(1);
        self.last = serial;
        if let (Some(time), Some(whose), Some(offer)) = (
            self.expires.get_mut(way),
            self.handles.get_mut(way),
            self.offers.get_mut(way),
        ) {
            *time = expires;
            *whose = handle;
            *offer = Offer { facts, serial };
        }
        lost
    }

    /// How many offers are here, fresh or stale.
    pub fn len(&self) -> usize {
        self.expires.iter().filter(|expires| **expires != 0).count()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places of the offers that expire after this time.
    fn ways(&self, time: u64) -> Ways {
        let mut ways = 0;
        for (way, expires) in (0..).zip(&self.expires) {
            ways |= u8::from(*expires > time).wrapping_shl(way);
        }
        Ways(ways)
    }

    /// The fresh offers and their places.
    fn fresh(&self, now: u64) -> impl Iterator<Item = (usize, &Offer)> {
        self.ways(now)
            .filter_map(|way| Some((way, self.offers.get(way)?)))
    }

    /// How many of these offers a namespace has.
    fn held(&self, netns: u64, ways: Ways) -> usize {
        let own = |way: &usize| {
            self.offers
                .get(*way)
                .is_some_and(|offer| offer.facts.netns == netns)
        };
        ways.filter(own).count()
    }

    /// The place of the fresh offer that goes when one of `netns` comes, and its namespace: the oldest of the namespace that would have
    /// most, of `netns` itself rather than of its equals.
    fn loser(&self, netns: u64, now: u64) -> Option<(usize, u64)> {
        let claim = |(_, offer): &(usize, &Offer)| {
            let own = offer.facts.netns == netns;
            let held = self.held(offer.facts.netns, self.ways(now));
            let held = held.wrapping_add(usize::from(own));
            (held, own, Reverse(offer.serial))
        };
        let (way, offer) = self.fresh(now).max_by_key(claim)?;
        Some((way, offer.facts.netns))
    }

    fn remove(&mut self, way: usize) {
        if let Some(expires) = self.expires.get_mut(way) {
            *expires = 0;
        }
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
        for (way, offer) in self.fresh(now) {
            if !pairing::same_connection(&offer.facts, facts) {
                continue;
            }
            match pairing::judge(&offer.facts, facts) {
                Ok(()) if found.is_some() => return Err(Refusal::Ambiguous),
                Ok(()) => found = Some(way),
                Err(reason) => verdict = Err(reason),
            }
        }
        match found.and_then(|way| Some((way, *self.handles.get(way)?))) {
            Some((way, handle)) => {
                self.remove(way);
                Ok(handle)
            }
            None => verdict,
        }
    }

    /// The handles of all offers here, fresh and stale.
    pub fn handles(&self) -> impl Iterator<Item = u64> {
        let ways = self.ways(0);
        ways.filter_map(|way| self.handles.get(way).copied())
    }

    /// Takes back the offer with this handle, fresh or stale; `false` when there is none (any more).
    pub fn withdraw(&mut self, handle: u64) -> bool {
        for (expires, whose) in self.expires.iter_mut().zip(&self.handles) {
            if *whose == handle && *expires != 0 {
                *expires = 0;
                return true;
            }
        }
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
