// SPDX-License-Identifier: GPL-2.0-only
//! A set of offers against a plain list of them, with whatever facts: who is found was there, fresh, and fits; nobody is found twice.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tcp_splice_core::pairing::{self, Facts, Refusal};
use tcp_splice_core::registry::{SHARE, Set, WAYS};

/// Small numbers, so that some agree.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct End {
    write_seq: bool,
    rcv_nxt: bool,
    txhash: bool,
    peer_hash: Option<bool>,
    netns: u8,
    may_cross: bool,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Put(End, u8),
    Take(End),
    Withdraw(u8),
    Wait(u8),
}

fn facts(end: End, id: u64) -> Facts {
    Facts {
        id,
        write_seq: end.write_seq.into(),
        rcv_nxt: end.rcv_nxt.into(),
        txhash: end.txhash.into(),
        peer_hash: end.peer_hash.map(u32::from),
        netns: (end.netns % 4).into(),
        may_cross: end.may_cross,
    }
}

struct Offer {
    facts: Facts,
    handle: u64,
    expires: u64,
}

fuzz_target!(|ops: Vec<Op>| {
    let (mut set, mut plain, mut now) = (Set::EMPTY, Vec::<Offer>::new(), 0u64);
    for (id, op) in (1..).zip(ops) {
        now += 1;
        match op {
            Op::Put(end, life) => {
                let expires = now + u64::from(life) + 1;
                let facts = facts(end, id);
                set.put(&facts, id, now, expires);
                plain.push(Offer {
                    facts,
                    handle: id,
                    expires,
                });
                assert!(
                    set.handles().any(|handle| handle == id),
                    "the newest has a place"
                );
            }
            Op::Take(end) => {
                let mine = facts(end, id);
                let there: Vec<u64> = set.handles().collect();
                let fit = |offer: &&Offer| {
                    there.contains(&offer.handle)
                        && offer.expires > now
                        && pairing::judge(&offer.facts, &mine).is_ok()
                };
                let fits: Vec<u64> = plain.iter().filter(fit).map(|offer| offer.handle).collect();
                match set.take(&mine, now) {
                    Ok(handle) => assert_eq!(fits, [handle]),
                    Err(Refusal::Ambiguous) => assert!(fits.len() > 1),
                    Err(_) => assert!(fits.is_empty()),
                }
            }
            Op::Withdraw(handle) => {
                let there = set.handles().any(|one| one == handle.into());
                assert_eq!(set.withdraw(handle.into()), there);
            }
            Op::Wait(time) => now += u64::from(time),
        }
        let there: Vec<u64> = set.handles().collect();
        assert!(there.len() <= WAYS);
        plain.retain(|offer| there.contains(&offer.handle));
        assert_eq!(
            plain.len(),
            there.len(),
            "a handle is there twice, or from nowhere"
        );
        for netns in 0..4 {
            let fresh = plain
                .iter()
                .filter(|offer| offer.facts.netns == netns && offer.expires > now);
            assert!(fresh.count() <= SHARE, "more than its share");
        }
    }
});
