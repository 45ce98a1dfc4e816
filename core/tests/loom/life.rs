// SPDX-License-Identifier: GPL-2.0-only
//! The atomics of `core::life` under every order that their orderings allow. `tests/life/` has the orders of the steps.
//!
//! Memory that is freed is written to, memory that is used is read: loom fails where one is not ordered before the other. A grace period is
//! a write lock that read sections hold for reading.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex, RwLock};
use loom::thread;
use tcp_splice_core::life::{self, Endpoint, Ends, Event, Kernel, Marks, Side, Wishes};
use tcp_splice_core::pairing::Facts;
use tcp_splice_core::registry::Set;

const ACTIVE: usize = 0;
const PASSIVE: usize = 1;

/// Something that is used, and freed once.
struct Memory(UnsafeCell<bool>);

impl Memory {
    fn new() -> Self {
        Memory(UnsafeCell::new(true))
    }

    fn touch(&self) {
        // SAFETY: loom checks that nobody writes at the same time.
        self.0
            .with(|there| assert!(unsafe { *there }, "used after it was freed"));
    }

    fn free(&self) {
        // SAFETY: as above, nor reads.
        self.0.with_mut(|there| {
            assert!(
                unsafe { std::mem::replace(&mut *there, false) },
                "freed twice"
            )
        });
    }

    fn is_freed(&self) -> bool {
        // SAFETY: as in `touch`.
        self.0.with(|there| !unsafe { *there })
    }
}

/// A socket, its endpoint's marks, and C's part of the endpoint.
struct End {
    sock: Memory,
    sock_refs: AtomicU32,
    ep: Memory,
    marks: Endpoint,
    link: AtomicUsize,
    /// The ULP slot.
    installed: AtomicUsize,
}

struct Kern {
    set: Mutex<Set>,
    ends: [End; 2],
    /// The slots hold the addresses of these.
    names: [u8; 2],
    pair: Memory,
    rings: Memory,
    slots: Ends<u8>,
    rcu: RwLock<()>,
}

impl Kern {
    fn new(linked: bool) -> Self {
        let end = |side: Side| {
            let word = if linked { word(side) } else { 0 };
            End {
                sock: Memory::new(),
                sock_refs: AtomicU32::new(1 + u32::from(linked)),
                ep: Memory::new(),
                // The accepted end's is made by the join, with its link.
                marks: Endpoint::new(
                    0,
                    if side == Side::Passive { 3 } else { word },
                    Wishes::default(),
                ),
                link: AtomicUsize::new(word),
                installed: AtomicUsize::new(usize::from(linked)),
            }
        };
        let mut this = Kern {
            set: Mutex::new(Set::EMPTY),
            ends: [end(Side::Active), end(Side::Passive)],
            names: [0, 1],
            pair: Memory::new(),
            rings: Memory::new(),
            slots: Ends::new(std::ptr::null_mut(), std::ptr::null_mut()),
            rcu: RwLock::new(()),
        };
        this.slots = Ends::new(&raw mut this.names[0], &raw mut this.names[1]);
        this
    }

    /// A reader of the other end's slot, as `ts_notify_readable()`.
    fn notify(&self, side: Side, other: usize) {
        let section = self.rcu.read().unwrap();
        self.pair.touch();
        if !self.slots.slot(side).load(Ordering::Relaxed).is_null() {
            self.ends[other].sock.touch();
        }
        drop(section);
    }

    fn grace_period(&self) {
        drop(self.rcu.write().unwrap());
    }

    /// The socket is destroyed and its endpoint freed, as ts_ulp_release() and its callback do.
    fn destroy(&self, end: usize) {
        let known = life::release(self, end);
        if known {
            self.grace_period();
        }
        life::let_go(self, end);
        life::endpoint_free(self, end);
        self.ends[end].ep.free();
        self.sock_put(end);
    }
}

fn word(side: Side) -> usize {
    2 | side as usize
}

impl Kernel for Kern {
    type Sock = usize;
    type Endpoint = usize;
    type Pair = ();
    type Link = Side;
    type Table = Set;

    fn now(&self) -> u64 {
        1
    }

    fn count(&self, _event: Event) {}

    fn with_set<T>(&self, _set: usize, f: impl FnOnce(&mut Set) -> T) -> T {
        f(&mut self.set.lock().unwrap())
    }

    fn handle(&self, ep: usize) -> u64 {
        ep as u64
    }

    fn offered(&self, handle: u64) -> usize {
        handle as usize
    }

    fn endpoint_alloc(&self, _set: usize, linked: usize, _wishes: Wishes) -> Option<usize> {
        Some(if linked == 0 { ACTIVE } else { PASSIVE })
    }

    fn marks(&self, ep: usize) -> impl Marks {
        self.ends[ep].ep.touch();
        &self.ends[ep].marks
    }

    fn sock(&self, ep: usize) -> usize {
        ep
    }

    fn link(&self, ep: usize) -> usize {
        self.ends[ep].ep.touch();
        self.ends[ep].link.load(Ordering::Acquire)
    }

    fn set_link(&self, ep: usize, link: usize) {
        self.ends[ep].link.store(link, Ordering::Release);
    }

    fn endpoint_unmake(&self, ep: usize) {
        self.ends[ep].ep.free();
    }

    /// One lock orders all who claim; the models of `tests/life` have others who do.
    fn claim(&self, _sk: usize, _ep: usize) -> bool {
        true
    }

    fn install(&self, sk: usize, _ep: usize) {
        self.ends[sk].installed.store(1, Ordering::Release);
    }

    fn enlist(&self, _ep: usize, _set: usize) {}

    fn pair_alloc(&self) -> Option<()> {
        Some(())
    }

    fn pair_free(&self, (): ()) {
        self.pair.free();
    }

    fn pair_init(&self, (): (), _socks: (usize, usize), _wishes: (Wishes, Wishes)) {}

    fn pair_list(&self, (): ()) {}

    fn pair_unlist(&self, (): ()) {
        self.pair.touch();
    }

    fn rings_free(&self, (): ()) {
        self.rings.free();
    }

    fn pair_drop_one(&self, (): ()) -> bool {
        self.slots.drop_one()
    }

    fn word(&self, (): (), side: Side) -> usize {
        word(side)
    }

    fn at(&self, word: usize) -> Option<Side> {
        (word != 0).then_some(if word & 1 == 0 {
            Side::Active
        } else {
            Side::Passive
        })
    }

    fn pair(&self, _link: Side) {}

    fn slot_clear(&self, side: Side) {
        self.slots.clear(side);
    }

    fn lanes_close(&self, side: Side) -> u64 {
        self.pair.touch();
        self.rings.touch();
        let other = if side == Side::Active {
            Side::Passive
        } else {
            Side::Active
        };
        self.notify(other, other as usize);
        0
    }

    fn sock_hold(&self, sk: usize) {
        self.ends[sk].sock.touch();
        self.ends[sk].sock_refs.fetch_add(1, Ordering::Relaxed);
    }

    /// As refcount_dec_and_test().
    fn sock_put(&self, sk: usize) {
        if self.ends[sk].sock_refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ends[sk].sock.free();
        }
    }
}

fn facts(sk: usize) -> Facts {
    let numbers = if sk == ACTIVE { (1, 2) } else { (2, 1) };
    Facts {
        id: sk as u64,
        write_seq: numbers.0,
        rcv_nxt: numbers.1,
        txhash: numbers.0,
        peer_hash: Some(numbers.1),
        netns: 1,
        may_cross: true,
    }
}

fn model(bound: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(bound);
    model.check(f);
}

/// Both ends are destroyed at once, and a sleeper of one of them ends: the pair is freed once, after the last use of each.
#[test]
fn the_last_one_frees_the_pair() {
    model(3, || {
        let kernel = Arc::new(Kern::new(true));
        assert!(kernel.slots.hold());
        let sleeper = thread::spawn({
            let kernel = kernel.clone();
            move || {
                kernel.rings.touch();
                life::put(&*kernel, ());
            }
        });
        let other = thread::spawn({
            let kernel = kernel.clone();
            move || {
                kernel.rings.touch();
                life::let_go(&*kernel, PASSIVE);
                life::endpoint_free(&*kernel, PASSIVE);
            }
        });
        kernel.rings.touch();
        life::let_go(&*kernel, ACTIVE);
        life::endpoint_free(&*kernel, ACTIVE);
        sleeper.join().unwrap();
        other.join().unwrap();
        assert!(
            kernel.pair.is_freed() && kernel.rings.is_freed(),
            "the pair is left"
        );
        assert!(!kernel.slots.hold(), "a pair that is gone can be held");
    });
}

/// An end is destroyed while the other wakes it: what is read from a slot inside a read section is alive.
#[test]
fn a_slot_read_in_a_section_is_alive() {
    model(3, || {
        let kernel = Arc::new(Kern::new(true));
        let sender = thread::spawn({
            let kernel = kernel.clone();
            move || {
                if kernel.link(PASSIVE) != 0 {
                    kernel.notify(Side::Active, ACTIVE);
                }
            }
        });
        kernel.destroy(ACTIVE);
        sender.join().unwrap();
        assert!(kernel.ends[ACTIVE].sock.is_freed() && !kernel.pair.is_freed());
        kernel.destroy(PASSIVE);
        assert!(kernel.ends[PASSIVE].sock.is_freed() && kernel.pair.is_freed());
    });
}

/// An offer against a close() that finds the endpoint without a lock, and against the accepted end: joined or withdrawn, and known as that.
#[test]
fn offered_joined_or_withdrawn() {
    model(2, || {
        let kernel = Arc::new(Kern::new(false));
        let joiner = thread::spawn({
            let kernel = kernel.clone();
            move || life::join(&*kernel, PASSIVE, &facts(PASSIVE), 0, Wishes::default()).is_ok()
        });
        let closer = thread::spawn({
            let kernel = kernel.clone();
            move || {
                let installed = kernel.ends[ACTIVE].installed.load(Ordering::Acquire) != 0;
                if installed {
                    life::close(&*kernel, ACTIVE);
                }
                installed
            }
        });
        life::offer(&*kernel, ACTIVE, &facts(ACTIVE), 0, Wishes::default()).unwrap();
        let joined = joiner.join().unwrap();
        let closed = closer.join().unwrap();
        assert_eq!(joined, kernel.link(ACTIVE) != 0);
        let table_is_empty = kernel.set.lock().unwrap().handles().next().is_none();
        assert!(table_is_empty || !closed, "an offer of a closed socket");
        // And the end: what the steps before it say is enough for it to free everything once.
        kernel.destroy(ACTIVE);
        if joined {
            kernel.destroy(PASSIVE);
        }
        assert_eq!(kernel.pair.is_freed(), joined);
        assert!(kernel.ends[ACTIVE].sock.is_freed());
    });
}
