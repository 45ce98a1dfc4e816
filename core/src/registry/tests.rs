// SPDX-License-Identifier: GPL-2.0-only
//! Who gets a place, who loses one, and who is found.
use super::*;
use proptest::prelude::*;

fn end(id: u64, write_seq: u32, rcv_nxt: u32) -> Facts {
    let (txhash, peer) = (write_seq ^ 0x5555, rcv_nxt ^ 0x5555);
    Facts {
        id,
        write_seq,
        rcv_nxt,
        txhash,
        peer_hash: Some(peer),
        netns: 1,
        may_cross: true,
    }
}

/// An end in namespace `netns`.
fn within(netns: u64, facts: Facts) -> Facts {
    Facts { netns, ..facts }
}

#[test]
fn an_offer_serves_once() {
    let mut set = Set::EMPTY;
    assert_eq!(set.put(&end(1, 10, 20), 1, 0, 5), None);
    assert_eq!(set.len(), 1);
    assert_eq!(set.take(&end(2, 20, 10), 1).unwrap(), 1);
    assert!(set.is_empty());
    assert_eq!(set.take(&end(3, 20, 10), 1), Err(Refusal::NoOffer));
}

#[test]
fn a_stale_offer_is_not_served_and_makes_room() {
    let mut set = Set::EMPTY;
    for i in 0..WAYS as u64 {
        assert_eq!(set.put(&within(i, end(i, 10, 20)), i, 0, 5), None);
    }
    assert_eq!(set.take(&end(100, 20, 10), 5), Err(Refusal::NoOffer));
    for i in 0..SHARE as u64 {
        assert_eq!(
            set.put(&end(99 + i, 10, 20 + 2 * i as u32), 99 + i, 5, 10),
            None
        );
    }
    assert_eq!(set.take(&end(100, 20, 10), 6).unwrap(), 99);
}

#[test]
fn a_namespace_keeps_its_newest() {
    let mut set = Set::EMPTY;
    let offer = |i: u64| end(i, 10 + i as u32, 50);
    for i in 0..20 {
        let lost = (i >= SHARE as u64).then_some(Refusal::Share);
        assert_eq!(set.put(&offer(i), i, i, i + 100), lost);
    }
    for i in 0..20 {
        let kept = i >= 20 - SHARE as u64;
        let answer = set.take(&end(99, 50, 10 + i as u32), 20);
        assert_eq!(answer, if kept { Ok(i) } else { Err(Refusal::NoOffer) });
    }
}

/// Two namespaces fill the set; a third one takes from them in turn until all have as much.
#[test]
fn a_full_set_makes_room_for_who_has_less() {
    let mut set = Set::EMPTY;
    for i in 0..WAYS as u64 {
        assert_eq!(set.put(&within(i % 2, end(i, 10, 20)), i, i, i + 100), None);
    }
    let newcomer = |i: u64| within(7, end(100 + i, 10, 20));
    for i in 0..3 {
        let lost = set.put(&newcomer(i), 100 + i, 10, 110 + i);
        assert_eq!(
            lost,
            Some(if i < 2 {
                Refusal::TableFull
            } else {
                Refusal::Share
            })
        );
    }
    assert!(!set.withdraw(0) && !set.withdraw(1), "the oldest went");
    assert_eq!(
        [0, 1, 7].map(|netns| set.held(netns, set.ways(20))),
        [3, 3, 2]
    );
}

/// A coarse clock says the same of many: the oldest goes all the same.
#[test]
fn those_of_one_moment_go_in_their_order() {
    let mut set = Set::EMPTY;
    for i in 0..20u64 {
        let _ = set.put(&end(i, 10 + i as u32, 50), i, 7, 107);
    }
    let kept: Vec<_> = fresh(&set, 7).iter().map(|offer| offer.0).collect();
    assert_eq!(kept, [16, 17, 18, 19]);
}

/// Whoever has one offer in a set keeps it while a namespace with more is there.
#[test]
fn a_flood_hurts_nobody_else() {
    let mut set = Set::EMPTY;
    assert_eq!(set.put(&end(1, 10, 20), 1, 0, 1000), None);
    for i in 2..500u64 {
        let flood = within(2 + i % 3, end(i, 10, 20 + i as u32));
        let _ = set.put(&flood, i, i, 1000 + i);
    }
    assert_eq!(set.take(&end(3, 20, 10), 500).unwrap(), 1);
}

#[test]
fn ambiguity_pairs_nobody() {
    let mut set = Set::EMPTY;
    assert_eq!(set.put(&end(1, 10, 20), 1, 0, 5), None);
    assert_eq!(set.put(&end(2, 10, 20), 2, 0, 5), None);
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
        assert_eq!(set.put(&first, first.id, 0, 5), None);
        assert_eq!(set.put(&second, second.id, 0, 5), None);
        assert_eq!(set.take(&end(2, 20, 10), 1).unwrap(), 1);
        assert_eq!(set.take(&end(3, 20, 10), 1), Err(Refusal::Witness));
    }
}

#[test]
fn withdrawing_is_idempotent() {
    let mut set = Set::EMPTY;
    assert_eq!(set.put(&end(1, 10, 20), 1, 0, 5), None);
    assert!(set.withdraw(1));
    assert!(!set.withdraw(1));
    assert_eq!(set.take(&end(2, 20, 10), 1), Err(Refusal::NoOffer));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Put { netns: u64, seq: u32 },
    Take { seq: u32 },
    Withdraw { handle: u64 },
    Wait { time: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..5u64, 0..20u32).prop_map(|(netns, seq)| Step::Put { netns, seq }),
        1 => (0..20u32).prop_map(|seq| Step::Take { seq }),
        1 => (0..100u64).prop_map(|handle| Step::Withdraw { handle }),
        1 => (1..30u64).prop_map(|time| Step::Wait { time }),
    ];
    proptest::collection::vec(step, 1..100)
}

/// The set by the plainest means: the fresh offers as (handle, namespace), oldest first.
fn fresh(set: &Set, now: u64) -> Vec<(u64, u64)> {
    let fresh = set.fresh(now);
    let mut all: Vec<_> = fresh
        .map(|(way, offer)| (set.handles[way], offer.facts.netns))
        .collect();
    // Handles go up in these tests.
    all.sort();
    all
}

fn most(offers: &[(u64, u64)]) -> usize {
    let held = |netns| offers.iter().filter(|o| o.1 == netns).count();
    offers.iter().map(|o| held(o.1)).max().unwrap_or(0)
}

proptest! {
    #[test]
    fn bounds_hold_and_the_newest_is_there(steps in steps()) {
        const LIFE: u64 = 40;
        let mut set = Set::EMPTY;
        let mut now = 0;
        for (handle, step) in (0..).zip(steps) {
            let before = fresh(&set, now);
            match step {
                Step::Put { netns, seq } => {
                    let lost = set.put(&within(netns, end(handle, seq, 1000 + seq)), handle, now, now + LIFE);
                    let after = fresh(&set, now);
                    prop_assert_eq!(after.last(), Some(&(handle, netns)));
                    let gone: Vec<_> = before.iter().filter(|o| !after.contains(o)).collect();
                    prop_assert_eq!(gone.len(), usize::from(lost.is_some()));
                    let mut all = before.clone();
                    all.push((handle, netns));
                    for loser in gone {
                        let held = all.iter().filter(|o| o.1 == loser.1).count();
                        prop_assert_eq!(held, most(&all), "the loser's namespace had most");
                        prop_assert_eq!(lost == Some(Refusal::Share), loser.1 == netns);
                        prop_assert_eq!(all.iter().find(|o| o.1 == loser.1), Some(loser), "its oldest");
                    }
                    prop_assert!(lost.is_none() || before.len() == WAYS || most(&all) > SHARE);
                }
                Step::Take { seq } => {
                    let taken = set.take(&end(u64::MAX, 1000 + seq, seq), now);
                    if let Ok(taken) = taken {
                        prop_assert!(before.iter().any(|o| o.0 == taken));
                    }
                }
                Step::Withdraw { handle } => { let _ = set.withdraw(handle); }
                Step::Wait { time } => now += time,
            }
            let after = fresh(&set, now);
            prop_assert!(most(&after) <= SHARE && after.len() <= WAYS);
        }
    }
}
