// SPDX-License-Identifier: GPL-2.0-only
//! The ring's two words against plain variables.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tcp_splice_core::cursors::{Closed, Cursors, writeable};

#[derive(Arbitrary, Debug)]
enum Op {
    Publish(u32),
    Consume(u32),
    Want,
    Enough(u8),
    CloseTx,
    CloseRx,
}

fuzz_target!(|ops: Vec<Op>| {
    let ring = Cursors::new();
    let (mut prod, mut cons, mut want, mut tx, mut rx) = (0u64, 0u64, false, false, false);
    for op in ops {
        match op {
            Op::Publish(n) => {
                let expect = match (tx, rx) {
                    (true, _) => Err(Closed::Tx),
                    (_, true) => Err(Closed::Rx),
                    _ => Ok(()),
                };
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
