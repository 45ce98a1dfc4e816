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
use core::iter;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ways(u8);

const _: () = assert!(WAYS == u8::BITS as usize);

impl Ways {
    fn with(self, way: usize) -> Self {
        Ways(self.0 | Self::bit(way))
    }

    fn without(self, way: usize) -> Self {
        Ways(self.0 & !Self::bit(way))
    }

    fn bit(way: usize) -> u8 {
        1u8.wrapping_shl(way as u32)
    }

    /// Each of them, the lowest first.
    fn each(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        iter::from_fn(move || {
            let way = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (way < WAYS).then_some(way)
        })
    }

    /// The first place that is not among these.
    fn first_other(&self) -> Option<usize> {
        let way = self.0.trailing_ones() as usize;
        (way < WAYS).then_some(way)
    }
}

/// A set of the table; [`Set::EMPTY`] is how one begins. Mostly nothing is in it, and one word says so; its times stand side by side, and its
/// handles, so that those who look for a place or take their offer back need not look at the offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// The places that have an offer, fresh or stale.
    taken: Ways,
    /// When the offer of each of them expires.
    expires: [u64; WAYS],
    /// Serial of the offer that came last.
    last: u64,
    handles: [u64; WAYS],
    offers: [Offer; WAYS],
}

impl Set {
    /// A set without offers.
    pub const EMPTY: Set = Set {
        taken: Ways(0),
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
                may_cross: false,
            },
            serial: 0,
        }; WAYS],
    };

    /// Puts an offer up until `expires`; `handle` is what [`Set::take`] returns for it. A stale one's place is as good as an empty one.
    ///
    /// Returns why an older offer, if any, lost its place: [`Refusal::Share`] to one of its own namespace,
    /// [`Refusal::TableFull`] to one of another.
    #[inline]
    pub fn put(&mut self, facts: &Facts, handle: u64, now: u64, expires: u64) -> Option<Refusal> {
        let (way, lost) = if self.is_empty() {
            (0, None)
        } else {
            self.place(facts.netns, now)?
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
            *offer = Offer {
                facts: *facts,
                serial,
            };
            self.taken = self.taken.with(way);
        }
        lost
    }

    /// A place for an offer of `netns`, and why it loses the one that has it, if any.
    fn place(&self, netns: u64, now: u64) -> Option<(usize, Option<Refusal>)> {
        let fresh = self.ways(now);
        let held = self.held(netns, fresh);
        if let Some(free) = fresh.first_other().filter(|_| held < SHARE) {
            return Some((free, None));
        }
        let (way, whose) = self.loser(netns, now)?;
        let reason = if whose == netns {
            Refusal::Share
        } else {
            Refusal::TableFull
        };
        Some((way, Some(reason)))
    }

    /// How many offers are here, fresh or stale.
    pub fn len(&self) -> usize {
        self.taken.each().count()
    }

    /// True when none is.
    pub fn is_empty(&self) -> bool {
        self.taken == Ways(0)
    }

    /// The places of the offers that expire after this time.
    fn ways(&self, time: u64) -> Ways {
        let stale = |way: &usize| {
            self.expires
                .get(*way)
                .is_none_or(|expires| *expires <= time)
        };
        self.taken
            .each()
            .filter(stale)
            .fold(self.taken, Ways::without)
    }

    /// The fresh offers and their places.
    fn fresh(&self, now: u64) -> impl Iterator<Item = (usize, &Offer)> {
        self.ways(now)
            .each()
            .filter_map(|way| Some((way, self.offers.get(way)?)))
    }

    /// How many of these offers a namespace has.
    fn held(&self, netns: u64, ways: Ways) -> usize {
        let own = |way: &usize| {
            self.offers
                .get(*way)
                .is_some_and(|offer| offer.facts.netns == netns)
        };
        ways.each().filter(own).count()
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
                self.taken = self.taken.without(way);
                Ok(handle)
            }
            None => verdict,
        }
    }

    /// The handles of all offers here, fresh and stale.
    pub fn handles(&self) -> impl Iterator<Item = u64> {
        self.taken
            .each()
            .filter_map(|way| self.handles.get(way).copied())
    }

    /// Takes back the offer with this handle, fresh or stale; `false` when there is none (any more).
    pub fn withdraw(&mut self, handle: u64) -> bool {
        let ours = |way: &usize| self.handles.get(*way) == Some(&handle);
        let found = self.taken.each().find(ours);
        if let Some(way) = found {
            self.taken = self.taken.without(way);
        }
        found.is_some()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
