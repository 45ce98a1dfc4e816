// SPDX-License-Identifier: GPL-2.0-only
//! The two cursors of a ring, `prod` and `cons`, and what is folded into their words.
//!
//! Each cursor is one atomic word, written by one side:
//!
//! ```text
//! prod  bytes published << 2 | RX_CLOSED | TX_CLOSED     bytes: the sender; flags: either side
//! cons  bytes consumed  << 1 | WANT                      bytes: the receiver; flag: the sender
//! ```
//!
//! Folding the flags in makes the three questions that decide correctness single atomic steps:
//!
//! - *publish or closed?* [`Cursors::publish`] is a compare-and-swap that expects no flag. Bytes after a FIN, or into a ring
//!   whose reader has gone, cannot exist.
//! - *how much was left unread?* [`Cursors::close_rx`] sets the flag and reads `prod` in one step.
//! - *sleep for space or not?* [`Cursors::want_space`] sets the flag and reads `cons` in one step; [`Cursors::consume`] moves
//!   `cons` and takes the flag in one step. A wake-up cannot fall between them, and the receiver touches no line of the sender.
//!
//! Byte counts are 62 and 63 bits wide: one connection at 100 GB/s would need more than a year to wrap the narrower one; they are
//! treated as never wrapping.

use crate::primitive::{AtomicU64, Ordering};
use crate::short::{SHORT, Short, Words};

const TX_CLOSED: u64 = 1 << 0;
const RX_CLOSED: u64 = 1 << 1;
const PROD_SHIFT: u32 = 2;
const WANT: u64 = 1 << 0;
const CONS_SHIFT: u32 = 1;

/// On a cache line of its own: the other side must not be disturbed by our writes next door.
#[repr(align(64))]
struct Line(AtomicU64);

/// The same, with a copy of what was published last, if that is short.
#[repr(C, align(64))]
struct Front {
    word: AtomicU64,
    short: Short,
}

/// `prod` and `cons` of one ring. All zeroes is the empty, open ring.
pub struct Cursors {
    prod: Front,
    cons: Line,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Cursors>() == 128);

/// What a load of the `prod` word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prod {
    /// Bytes published since the ring began.
    pub bytes: u64,
    /// The sender has shut down ([`Cursors::close_tx`]); `bytes` is final.
    pub tx_closed: bool,
    /// The receiver has gone ([`Cursors::close_rx`]); `bytes` is final.
    pub rx_closed: bool,
}

impl Prod {
    fn unpack(word: u64) -> Self {
        Prod {
            bytes: word >> PROD_SHIFT,
            tx_closed: word & TX_CLOSED != 0,
            rx_closed: word & RX_CLOSED != 0,
        }
    }
}

/// Why bytes could not be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// This side has shut down: the bytes may go nowhere (`EPIPE`).
    Tx,
    /// The receiver has gone: the bytes belong to TCP, which will answer with a reset.
    Rx,
}

impl Default for Cursors {
    fn default() -> Self {
        Self::new()
    }
}

impl Cursors {
    /// An empty, open ring.
    pub fn new() -> Self {
        Cursors {
            prod: Front {
                word: AtomicU64::new(0),
                short: Short::default(),
            },
            cons: Line(AtomicU64::new(0)),
        }
    }

    /// Sender: makes the `len` bytes written from position `prod` on readable.
    ///
    /// The caller holds the lane's send lock, so that `prod` is what it left there. Release: the bytes are written before they
    /// are readable; pairs with the acquire in [`Cursors::prod`].
    pub fn publish(&self, prod: u64, len: u64) -> Result<(), Closed> {
        if len <= SHORT as u64 {
            self.prod.short.forget();
        }
        self.advance(prod, len)
    }

    /// Sender: the same for a short message, at most [`SHORT`] bytes; `word` gives each eight of them, the last with anything behind.
    #[inline(always)]
    pub fn publish_short(
        &self,
        prod: u64,
        len: usize,
        word: impl Fn(usize) -> u64,
    ) -> Result<(), Closed> {
        self.prod.short.put(prod, len, word);
        self.advance(prod, len as u64)
    }

    /// Receiver, under its lock, who saw `len` bytes published from `cons` on by [`Cursors::prod`]: these, if they are one short message.
    /// `None`: they are to be read from the ring.
    #[inline(always)]
    pub fn short(&self, cons: u64, len: u64) -> Option<Words> {
        self.prod.short.get(cons, len)
    }

    #[inline(always)]
    fn advance(&self, prod: u64, len: u64) -> Result<(), Closed> {
        let old = prod << PROD_SHIFT;
        let new = prod.wrapping_add(len) << PROD_SHIFT;
        match self
            .prod
            .word
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Ok(()),
            Err(word) if word & TX_CLOSED != 0 => Err(Closed::Tx),
            Err(_) => Err(Closed::Rx),
        }
    }

    /// Anyone: what has been published, and whether more can come. Acquire: pairs with [`Cursors::publish`].
    pub fn prod(&self) -> Prod {
        Prod::unpack(self.prod.word.load(Ordering::Acquire))
    }

    /// Anyone: bytes consumed so far. Acquire: the receiver has finished reading them before the sender writes over them;
    /// pairs with the release in [`Cursors::consume`].
    pub fn cons(&self) -> u64 {
        self.cons.0.load(Ordering::Acquire) >> CONS_SHIFT
    }

    /// Sender: nothing may be published from now on (FIN). Returns the final `prod`. Idempotent, any context.
    pub fn close_tx(&self) -> Prod {
        Prod::unpack(self.prod.word.fetch_or(TX_CLOSED, Ordering::AcqRel))
    }

    /// Receiver: nobody will read any more. Returns the final `prod` and what of it was never read. Idempotent, any context.
    pub fn close_rx(&self) -> u64 {
        let prod = Prod::unpack(self.prod.word.fetch_or(RX_CLOSED, Ordering::AcqRel)).bytes;
        prod.saturating_sub(self.cons())
    }

    /// Sender or its poller: asks for a wake-up when space is freed, and returns `cons` as of the asking.
    ///
    /// If that `cons` leaves no room, a later [`Cursors::consume`] returns `true`.
    pub fn want_space(&self) -> u64 {
        self.cons.0.fetch_or(WANT, Ordering::AcqRel) >> CONS_SHIFT
    }

    /// Receiver: gives the `len` bytes from position `cons` on back to the sender; `true` if somebody waits for space.
    ///
    /// The caller holds the lane's receive lock. Release: the bytes have been copied out before they may be overwritten; pairs
    /// with [`Cursors::cons`]. After `true` the caller asks [`Cursors::is_worth_waking`].
    pub fn consume(&self, cons: u64, len: u64) -> bool {
        let new = cons.wrapping_add(len) << CONS_SHIFT;
        self.cons.0.swap(new, Ordering::AcqRel) & WANT != 0
    }

    /// Receiver, whose [`Cursors::consume`] up to `cons` said that somebody waits: is there enough space now? If not, the wish is
    /// kept for the next time; the ring is not empty then, so there will be one.
    pub fn is_worth_waking(&self, capacity: u64, cons: u64) -> bool {
        let enough = writeable(capacity, self.prod().bytes.wrapping_sub(cons));
        if !enough {
            self.want_space();
        }
        enough
    }
}

/// How many free bytes make it worth waking a sender: a quarter of the ring, at least one byte.
///
/// Waking at the first free byte would cost a context switch for each of them; `tcp_stream_memory_free()` has the same kind of
/// hysteresis. An empty ring always passes, so nobody sleeps for ever.
pub const fn writeable(capacity: u64, used: u64) -> bool {
    capacity.saturating_sub(used) >= capacity.div_ceil(4)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Publish(u64),
        Consume(u64),
        Want,
        CloseTx,
        CloseRx,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1u64..20_000).prop_map(Op::Publish),
            4 => (1u64..20_000).prop_map(Op::Consume),
            2 => Just(Op::Want),
            1 => Just(Op::CloseTx),
            1 => Just(Op::CloseRx),
        ]
    }

    /// What the words stand for.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Plain {
        prod: u64,
        cons: u64,
        want: bool,
        tx: bool,
        rx: bool,
    }

    impl Plain {
        fn at(base: u64) -> Self {
            Plain {
                prod: base,
                cons: base,
                want: false,
                tx: false,
                rx: false,
            }
        }

        fn words(self) -> Cursors {
            let flags = u64::from(self.rx) << 1 | u64::from(self.tx);
            Cursors {
                prod: Front {
                    word: AtomicU64::new(self.prod << 2 | flags),
                    short: Short::default(),
                },
                cons: Line(AtomicU64::new(self.cons << 1 | u64::from(self.want))),
            }
        }

        fn step(&mut self, ring: &Cursors, op: Op) {
            match op {
                Op::Publish(n) => {
                    let expect = match (self.tx, self.rx) {
                        (true, _) => Err(Closed::Tx),
                        (_, true) => Err(Closed::Rx),
                        _ => Ok(()),
                    };
                    assert_eq!(ring.publish(self.prod, n), expect);
                    self.prod += if expect.is_ok() { n } else { 0 };
                }
                Op::Consume(n) => {
                    let n = n.min(self.prod - self.cons);
                    assert_eq!(ring.consume(self.cons, n), self.want);
                    self.cons += n;
                    self.want = false;
                }
                Op::Want => {
                    assert_eq!(ring.want_space(), self.cons);
                    self.want = true;
                }
                Op::CloseTx => {
                    assert_eq!(ring.close_tx().bytes, self.prod);
                    self.tx = true;
                }
                Op::CloseRx => {
                    assert_eq!(ring.close_rx(), self.prod - self.cons);
                    self.rx = true;
                }
            }
            let (prod, cons) = (ring.prod(), ring.cons());
            assert_eq!((prod.bytes, cons), (self.prod, self.cons));
            assert_eq!((prod.tx_closed, prod.rx_closed), (self.tx, self.rx));
        }
    }

    /// A ring of four bytes, from where half a word ends to the last byte that the narrower word can count: every sequence of five steps,
    /// each from words that are made anew, so that what the steps leave in the flags' bits counts too.
    #[test]
    fn every_short_sequence_near_the_edges_of_a_word() {
        const CAPACITY: u64 = 4;
        const LAST: u64 = u64::MAX >> PROD_SHIFT;
        let edges = [1 << 30, 1 << 31, 1 << 32, 1 << 61];
        let around = edges.iter().flat_map(|edge| edge - 6..*edge);
        for base in around.chain([0]).chain(LAST - 5 * CAPACITY..=LAST - 4) {
            sequences(Plain::at(base), CAPACITY, 5, &mut |_| {});
        }
    }

    fn sequences(plain: Plain, capacity: u64, steps: u32, seen: &mut impl FnMut(Plain)) {
        seen(plain);
        if steps == 0 {
            return;
        }
        let room =
            (capacity - (plain.prod - plain.cons)).min((u64::MAX >> PROD_SHIFT) - plain.prod);
        let writes = (1..=room).map(Op::Publish);
        let reads = (0..=plain.prod - plain.cons).map(Op::Consume);
        for op in writes
            .chain(reads)
            .chain([Op::Want, Op::CloseTx, Op::CloseRx])
        {
            let (mut after, ring) = (plain, plain.words());
            after.step(&ring, op);
            assert_eq!(
                ring.prod.word.into_inner(),
                after.words().prod.word.into_inner()
            );
            assert_eq!(ring.cons.0.into_inner(), after.words().cons.0.into_inner());
            sequences(after, capacity, steps - 1, seen);
        }
    }

    /// The walk above reaches the last byte, full rings, and both flags.
    #[test]
    fn the_walk_gets_around() {
        let last = u64::MAX >> PROD_SHIFT;
        let (mut top, mut full, mut closed) = (false, false, false);
        sequences(Plain::at(last - 4), 4, 5, &mut |plain| {
            top |= plain.prod == last;
            full |= plain.prod - plain.cons == 4;
            closed |= plain.tx && plain.rx && plain.want;
        });
        assert!(top && full && closed);
    }

    /// Every ring of up to 256 bytes, however full, and fuller than it can be.
    #[test]
    fn a_quarter_is_a_quarter() {
        for capacity in 1..=256u64 {
            for used in 0..=2 * capacity {
                let free = capacity.saturating_sub(used);
                assert_eq!(writeable(capacity, used), free > 0 && 4 * free >= capacity);
            }
        }
    }

    proptest! {
        /// The words against plain variables: any sequence of steps, one after the other, from anywhere.
        #[test]
        fn words_do_what_variables_would(base in 0..u64::MAX >> 3, ops in proptest::collection::vec(op(), 0..60)) {
            let mut plain = Plain::at(base);
            let ring = plain.words();
            for op in ops {
                plain.step(&ring, op);
            }
        }

        /// Hysteresis: an empty ring is always worth a wake-up, a full one never.
        #[test]
        fn an_empty_ring_wakes_and_a_full_one_does_not(log2 in 0u32..25, used: u64) {
            let capacity = 1u64 << log2;
            prop_assert!(writeable(capacity, 0));
            prop_assert!(!writeable(capacity, capacity));
            prop_assert_eq!(writeable(capacity, used % (capacity + 1)), (capacity - used % (capacity + 1)) * 4 >= capacity);
        }
    }
}
