// SPDX-License-Identifier: GPL-2.0-only
//! The ring's two words against plain variables, and short messages beside them against the stream's bytes.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tcp_splice_core::cursors::{Closed, Cursors, writeable};
use tcp_splice_core::short::SHORT;

#[derive(Arbitrary, Debug)]
enum Op {
    Publish(u32),
    PublishShort(u8),
    /// Sees what is there, to read it later.
    Look,
    Read,
    Consume(u32),
    Want,
    Enough(u8),
    CloseTx,
    CloseRx,
}

/// The stream's byte at a position.
fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fuzz_target!(|ops: Vec<Op>| {
    let ring = Cursors::new();
    let mut seen_before = 0;
    let (mut prod, mut cons, mut want, mut tx, mut rx) = (0u64, 0u64, false, false, false);
    for op in ops {
        let expect = match (tx, rx) {
            (true, _) => Err(Closed::Tx),
            (_, true) => Err(Closed::Rx),
            _ => Ok(()),
        };
        match op {
            Op::PublishShort(n) => {
                let len = 1 + usize::from(n) % SHORT;
                let word = |index: usize| {
                    let bytes =
                        [0, 1, 2, 3, 4, 5, 6, 7].map(|at| byte(prod + 8 * index as u64 + at));
                    u64::from_ne_bytes(bytes)
                };
                assert_eq!(ring.publish_short(prod, len, word), expect);
                prod += if expect.is_ok() { len as u64 } else { 0 };
            }
            Op::Look => seen_before = ring.prod().bytes,
            Op::Read => {
                let there = seen_before.saturating_sub(cons);
                if let Some(words) = ring.short(cons, there) {
                    let mut bytes = words.iter().flat_map(|word| word.to_ne_bytes());
                    assert!((cons..cons + there).all(|at| bytes.next() == Some(byte(at))));
                }
            }
            Op::Publish(n) => {
                assert_eq!(ring.publish(prod, n.into()), expect);
                prod += if expect.is_ok() { u64::from(n) } else { 0 };
            }
            Op::Consume(n) => {
                let n = u64::from(n).min(prod - cons);
                assert_eq!(ring.consume(cons, n), want);
                (cons, want) = (cons + n, false);
            }
            Op::Want => {
                assert_eq!(ring.want_space(), cons);
                want = true;
            }
            Op::Enough(log2) => {
                let capacity = 1 << (log2 % 33);
                let enough = ring.is_worth_waking(capacity, cons);
                assert_eq!(enough, writeable(capacity, prod - cons));
                want |= !enough;
            }
            Op::CloseTx => {
                assert_eq!(ring.close_tx().bytes, prod);
                tx = true;
            }
            Op::CloseRx => {
                assert_eq!(ring.close_rx(), prod - cons);
                rx = true;
            }
        }
        let seen = ring.prod();
        assert_eq!((seen.bytes, seen.tx_closed, seen.rx_closed), (prod, tx, rx));
        assert_eq!(ring.cons(), cons);
    }
});
