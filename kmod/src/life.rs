// SPDX-License-Identifier: GPL-2.0-only
//! What `core::life` asks of the kernel, and its steps behind their C faces.

use crate::delay::Point;
use crate::ffi::{self, Sock};
use crate::pair::{Link, Pair};
use crate::stats::{self, Counter};
use crate::teardown;
use core::ffi::{c_uint, c_ulong, c_void};
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::{self, NonNull};
use tcp_splice_core::life::{self, Endpoint, Event, Kernel, Marks, Side, Wishes};
use tcp_splice_core::registry::Set;

const _: () = assert!(size_of::<Endpoint>() <= ffi::ENDPOINT_BYTES && align_of::<Endpoint>() <= 8);

/// An endpoint: Rust's part of C's.
///
/// # Invariants
///
/// It is alive for `'a`, and its marks were written.
#[derive(Clone, Copy)]
pub(crate) struct Ep<'a>(*mut c_void, PhantomData<&'a Endpoint>);

impl Ep<'_> {
    /// The endpoint behind the pointer that C carries.
    ///
    /// # Safety
    ///
    /// It is alive as long as the result is used.
    pub(crate) unsafe fn at(ep: *mut c_void) -> Self {
        // INVARIANT: by the caller; C carries no pointer before `endpoint_alloc` has written the marks.
        Ep(ep, PhantomData)
    }
}

/// The kernel, for steps that are over within `'a`.
pub(crate) struct Linux<'a>(PhantomData<&'a ()>);

impl Linux<'_> {
    pub(crate) fn new() -> Self {
        Linux(PhantomData)
    }
}

/// `core::life` calls each of these where its contract holds: that is what its models check. The proofs below say which part of it counts.
impl<'a> Kernel for Linux<'a> {
    type Sock = *mut Sock;
    type Endpoint = Ep<'a>;
    type Pair = NonNull<Pair>;
    type Link = Link<'a>;
    type Table = Set;

    fn now(&self) -> u64 {
        // SAFETY: no requirements.
        unsafe { ffi::ts_coarse_clock_us() }
    }

    fn count(&self, event: Event) {
        match event {
            Event::EndpointMade => Counter::EndpointsMade.add(1),
            Event::EndpointGone => Counter::EndpointsGone.add(1),
            Event::PairMade => Counter::PairsMade.add(1),
            Event::PairGone => Counter::PairsGone.add(1),
            Event::OfferMade => Counter::OffersMade.add(1),
            Event::Refused(reason) => stats::refused(reason),
        }
    }

    fn with_set<T>(&self, set: usize, f: impl FnOnce(&mut Set) -> T) -> T {
        Point::Registry.pass();
        crate::pairing::with_set(set, f)
    }

    fn handle(&self, ep: Ep<'a>) -> u64 {
        ep.0.expose_provenance() as u64
    }

    fn offered(&self, handle: u64) -> Ep<'a> {
        Point::Taken.pass();
        // INVARIANT: its offer was in the table, and whoever frees it takes the offer out before, under the lock that is held.
        Ep(
            ptr::with_exposed_provenance_mut(handle as usize),
            PhantomData,
        )
    }

    fn endpoint_alloc(&self, set: usize, linked: usize, wishes: Wishes) -> Option<Ep<'a>> {
        // SAFETY: any context.
        let ep = unsafe { ffi::ts_endpoint_alloc() };
        if ep.is_null() {
            return None;
        }
        // SAFETY: the body has room (checked above) and is ours alone.
        unsafe { ep.cast::<Endpoint>().write(Endpoint::new(set, linked, wishes)) };
        // INVARIANT: just made.
        Some(Ep(ep, PhantomData))
    }

    fn marks(&self, ep: Ep<'a>) -> impl Marks {
        // SAFETY: alive for 'a, by its invariant; nobody has more than shared references to marks that are known to others.
        unsafe { &*ep.0.cast::<Endpoint>() }
    }

    fn sock(&self, ep: Ep<'a>) -> *mut Sock {
        // SAFETY: alive.
        unsafe { ffi::ts_endpoint_sock(ep.0) }
    }

    fn link(&self, ep: Ep<'a>) -> usize {
        // SAFETY: alive.
        unsafe { ffi::ts_endpoint_link(ep.0) as usize }
    }

    fn set_link(&self, ep: Ep<'a>, link: usize) {
        // SAFETY: alive.
        unsafe { ffi::ts_endpoint_set_link(ep.0, link as c_ulong) }
        Point::Linked.pass();
    }

    fn endpoint_unmake(&self, ep: Ep<'a>) {
        // SAFETY: from `ts_endpoint_alloc`, known to nobody; marks need no dropping.
        unsafe { ffi::ts_endpoint_unmake(ep.0) }
    }

    fn claim(&self, sk: *mut Sock, ep: Ep<'a>) -> bool {
        Point::Claiming.pass();
        // SAFETY: the program's socket.
        unsafe { ffi::ts_claim(sk, ep.0) }
    }

    fn install(&self, sk: *mut Sock, ep: Ep<'a>) {
        let busy_polls = self.marks(ep).wishes().busy_poll_us != 0;
        // SAFETY: locked, within the program; `screen` saw the ULP slot empty, and `claim` has taken the other.
        unsafe { ffi::ts_install(sk, ep.0, busy_polls) }
        Point::Installed.pass();
    }

    fn enlist(&self, ep: Ep<'a>, set: usize) {
        // SAFETY: installed, and the set's lock is held.
        unsafe { ffi::ts_endpoint_enlist(ep.0, set as c_uint) }
    }

    fn pair_alloc(&self) -> Option<NonNull<Pair>> {
        // SAFETY: any context.
        NonNull::new(unsafe { ffi::ts_pair_alloc() }).map(NonNull::cast)
    }

    fn pair_free(&self, pair: NonNull<Pair>) {
        // SAFETY: from `ts_pair_alloc`; never linked and never listed, or its last reference is gone and it was taken out of the list.
        unsafe { ffi::ts_pair_free(pair.as_ptr().cast()) }
    }

    fn pair_init(
        &self,
        pair: NonNull<Pair>,
        socks: (*mut Sock, *mut Sock),
        wishes: (Wishes, Wishes),
    ) {
        // SAFETY: memory for a pair, which is ours until it is linked.
        unsafe { pair.write(Pair::new(wishes, socks)) }
    }

    fn pair_list(&self, pair: NonNull<Pair>) {
        Point::Joined.pass();
        // SAFETY: the program runs inside an RCU read-side section that began when both endpoints were found, and their references
        // to the pair go a grace period later at the earliest.
        unsafe { ffi::ts_pair_list(pair.as_ptr().cast()) }
    }

    fn pair_unlist(&self, pair: NonNull<Pair>) {
        Point::LastPut.pass();
        // SAFETY: each pair that got endpoints was listed when it was made.
        unsafe { ffi::ts_pair_unlist(pair.as_ptr().cast()) }
    }

    fn rings_free(&self, pair: NonNull<Pair>) {
        // SAFETY: alive until `pair_free`, and its last reference is gone: both endpoints are, a grace period after their sockets' last use,
        // and calls that had found them.
        unsafe { pair.as_ref().free_rings() }
    }

    fn pair_drop_one(&self, pair: NonNull<Pair>) -> bool {
        // SAFETY: alive by the caller's reference.
        unsafe { pair.as_ref() }.ends().drop_one()
    }

    fn word(&self, pair: NonNull<Pair>, side: Side) -> usize {
        Pair::link(pair, side) as usize
    }

    fn at(&self, word: usize) -> Option<Link<'a>> {
        // SAFETY: the link of an endpoint that is alive for 'a, and its pair with it.
        unsafe { Link::from_word(word as c_ulong) }
    }

    fn pair(&self, link: Link<'a>) -> NonNull<Pair> {
        link.pair()
    }

    fn slot_clear(&self, link: Link<'a>) {
        link.ends().clear(link.side);
        Point::SlotCleared.pass();
    }

    fn lanes_close(&self, link: Link<'a>) -> u64 {
        teardown::close_lanes(link)
    }

    fn sock_hold(&self, sk: *mut Sock) {
        // SAFETY: both sockets of a pair that is being made are alive: one is the caller's, the other's endpoint was in the table.
        unsafe { ffi::ts_sock_hold(sk) }
    }

    fn sock_put(&self, sk: *mut Sock) {
        Point::LettingGo.pass();
        // SAFETY: the reference taken when the pair was made; the pair's slot was cleared a grace period ago.
        unsafe { ffi::ts_sock_put(sk) }
    }
}

/// Takes the endpoint's offer back; `true` if it is not paired, and then it never will be. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_withdraw(ep: *mut c_void) -> bool {
    // SAFETY: the caller's endpoint is alive.
    life::withdraw(&Linux::new(), unsafe { Ep::at(ep) })
}

/// The socket is being destroyed. `false`: the endpoint was never paired, so no other end may be looking at it. Else the caller frees it
/// after a grace period.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_offered")]
extern "C" fn tcp_splice_release(ep: *mut c_void) -> bool {
    // SAFETY: the caller's endpoint is alive.
    life::release(&Linux::new(), unsafe { Ep::at(ep) })
}

/// The socket, which is locked, was drained: notes it for the list of plain ones if it was paired. Any context.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_note_drained(sk: *mut Sock, ep: *mut c_void) {
    let kernel = Linux::new();
    // SAFETY: the caller's endpoint is alive.
    let linked = kernel.marks(unsafe { Ep::at(ep) }).linked();
    // SAFETY: its pair is, too.
    if let Some(link) = unsafe { Link::from_word(linked as c_ulong) } {
        let accepted = link.side == Side::Passive;
        let carried = link.outbound().carried();
        // SAFETY: locked, by the caller.
        unsafe { ffi::ts_plain_note(sk, accepted, ffi::PLAIN_DRAINED, &carried) };
    }
}

/// Drops the pair's reference to the endpoint's socket: an RCU callback, a grace period after nobody could find the endpoint any more; or at
/// once, if `tcp_splice_release` said so.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_offered")]
extern "C" fn tcp_splice_endpoint_let_go(ep: *mut c_void) {
    // SAFETY: the caller's endpoint is alive.
    life::let_go(&Linux::new(), unsafe { Ep::at(ep) });
}

/// The endpoint's last breath, after `tcp_splice_endpoint_let_go`, when no call is under way that had found it. Not sleeping.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_offered")]
extern "C" fn tcp_splice_endpoint_free(ep: *mut c_void) {
    // SAFETY: ours alone now.
    life::endpoint_free(&Linux::new(), unsafe { Ep::at(ep) });
}

/// Drops one reference to a pair; the last one frees the rings and the pair. Any context.
///
/// # Safety
///
/// The caller owns a reference, and uses the pair no more.
pub(crate) unsafe fn put(pair: NonNull<Pair>) {
    life::put(&Linux::new(), pair);
}
