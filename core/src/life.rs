// SPDX-License-Identifier: GPL-2.0-only
//! The life of endpoints and pairs: who is offered, joined, withdrawn and let go, who owns which reference, and who may free what.
//!
//! | what | is owned by | until |
//! |---|---|---|
//! | an endpoint | its socket | [`endpoint_free`]: a grace period after nobody could find it any more, and when no call is under way that had found it; or at once if [`release`] said so |
//! | a pair | its two endpoints, a reference each; whoever sleeps in a call, one more | [`put`] of the last |
//! | a socket | the pair, a reference to each | [`let_go`]: its slot was cleared a grace period ago |
//!
//! An offered endpoint can be reached by a stranger (the joining end) only through the table, under the lock of its set, and only while it
//! is not yet taken out. Every way for an offered socket to go (close, disconnect, destroy, drain, an option that needs TCP alone) takes its offer out first,
//! under the same lock ([`withdraw`]), and notes that it never will be joined.
//!
//! The steps are those that the kernel runs, over what the kernel provides ([`Kernel`]). `tests/life/` runs the same source: every order of
//! the steps of both ends, of RCU callbacks and of drains, one step of [`Kernel`] at a time; `tests/loom.rs` the atomics in every
//! order that their orderings allow.

use crate::pairing::{Facts, Refusal};
use crate::primitive::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use crate::registry::Set;
use core::ptr;

/// How long an offer waits, in microseconds: a handshake on one host takes far less, a delayed ACK 200 ms.
pub const LIFETIME: u64 = 5_000_000;

/// Which end of the connection: the lowest bit of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected.
    Active,
    /// The end that was accepted.
    Passive,
}

/// What an end's policy asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wishes {
    /// The receiver's budget, in microseconds; 0: the socket's.
    pub busy_poll_us: u32,
    /// Size of the ring that it sends into; 0: the module's default.
    pub ring_kbytes: u32,
}

/// What is noted of an endpoint.
pub trait Marks {
    /// The set of the table in which its offer was put.
    fn set(&self) -> usize;
    /// What its end asked for.
    fn wishes(&self) -> Wishes;
    /// Its offer was taken back, and it is not paired: it never will be. Set once; exact under its set's lock.
    fn is_withdrawn(&self) -> bool;
    /// The set's lock is held.
    fn set_withdrawn(&self, never: bool);
    /// The link it got, kept until it is freed even when the socket has left ([`Kernel::link`] is 0 then).
    fn linked(&self) -> usize;
    /// The set's lock is held.
    fn set_linked(&self, link: usize);
}

/// Our part of an endpoint. Each word is written under its set's lock or by the only one who has the endpoint by then; read by its
/// owner, who came after them by that lock, by the link or by a grace period.
pub struct Endpoint {
    set: usize,
    wishes: Wishes,
    linked: AtomicUsize,
    withdrawn: AtomicBool,
}

impl Endpoint {
    /// An endpoint that is linked already, or is about to be offered (0).
    pub fn new(set: usize, linked: usize, wishes: Wishes) -> Self {
        Endpoint {
            set,
            wishes,
            linked: AtomicUsize::new(linked),
            withdrawn: AtomicBool::new(false),
        }
    }
}

impl Marks for &Endpoint {
    fn set(&self) -> usize {
        self.set
    }

    fn wishes(&self) -> Wishes {
        self.wishes
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    fn set_withdrawn(&self, never: bool) {
        self.withdrawn.store(never, Ordering::Relaxed);
    }

    fn linked(&self) -> usize {
        self.linked.load(Ordering::Relaxed)
    }

    fn set_linked(&self, link: usize) {
        self.linked.store(link, Ordering::Relaxed);
    }
}

/// The two sockets of a pair, where each finds the other, and the references to the pair.
#[repr(C)]
pub struct Ends<S> {
    active: AtomicPtr<S>,
    passive: AtomicPtr<S>,
    refs: AtomicU32,
}

impl<S> Ends<S> {
    /// A pair that two endpoints own.
    pub fn new(active: *mut S, passive: *mut S) -> Self {
        Ends {
            active: AtomicPtr::new(active),
            passive: AtomicPtr::new(passive),
            refs: AtomicU32::new(2),
        }
    }

    /// Where the socket of a side stands. What is read there inside an RCU read-side section is null or alive until its end.
    pub fn slot(&self, side: Side) -> &AtomicPtr<S> {
        match side {
            Side::Active => &self.active,
            Side::Passive => &self.passive,
        }
    }

    /// Where the socket of the other side stands.
    pub fn peer_slot(&self, side: Side) -> &AtomicPtr<S> {
        match side {
            Side::Active => &self.passive,
            Side::Passive => &self.active,
        }
    }

    /// The socket of this side leaves.
    pub fn clear(&self, side: Side) {
        self.slot(side).store(ptr::null_mut(), Ordering::Release);
    }

    /// The socket of this side has left.
    pub fn has_left(&self, side: Side) -> bool {
        self.slot(side).load(Ordering::Acquire).is_null()
    }

    /// One more reference, for whoever found the pair without having one; not if it is about to go.
    pub fn hold(&self) -> bool {
        let more = |refs: u32| (refs > 0).then(|| refs.wrapping_add(1));
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.refs.fetch_update(set, fetch, more).is_ok()
    }

    /// One reference less. `true`: it was the last, and all uses of the pair by others came before.
    pub fn drop_one(&self) -> bool {
        if self.refs.fetch_sub(1, Ordering::Release) != 1 {
            return false;
        }
        // Pairs with the release above: the others' uses happened before the freeing.
        fence(Ordering::Acquire);
        true
    }
}

/// The table of offers, while its lock is held.
pub trait Offers {
    /// [`Set::put`].
    fn put(&mut self, facts: &Facts, handle: u64, now: u64, expires: u64) -> Option<Refusal>;
    /// [`Set::take`].
    fn take(&mut self, facts: &Facts, now: u64) -> Result<u64, Refusal>;
    /// [`Set::withdraw`].
    fn withdraw(&mut self, handle: u64) -> bool;
}

impl Offers for Set {
    #[inline]
    fn put(&mut self, facts: &Facts, handle: u64, now: u64, expires: u64) -> Option<Refusal> {
        Set::put(self, facts, handle, now, expires)
    }

    fn take(&mut self, facts: &Facts, now: u64) -> Result<u64, Refusal> {
        Set::take(self, facts, now)
    }

    fn withdraw(&mut self, handle: u64) -> bool {
        Set::withdraw(self, handle)
    }
}

/// What is counted. Whatever is made is gone in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    EndpointMade,
    EndpointGone,
    PairMade,
    PairGone,
    OfferMade,
    Refused(Refusal),
}

/// What the kernel provides, a step each.
///
/// A link is how a socket knows its pair: a word that says which pair and which side; 0 is none.
pub trait Kernel {
    /// A socket.
    type Sock: Copy;
    /// An endpoint that is alive.
    type Endpoint: Copy;
    /// A pair that is alive, or memory for one.
    type Pair: Copy;
    /// A pair that is alive, as one side sees it.
    type Link: Copy;
    /// A set of the table.
    type Table: Offers;

    /// The time, in the units of [`LIFETIME`].
    fn now(&self) -> u64;
    /// Counts.
    fn count(&self, event: Event);
    /// Runs `f` on a set of the table under its lock.
    fn with_set<T>(&self, set: usize, f: impl FnOnce(&mut Self::Table) -> T) -> T;
    /// An endpoint's handle in the table.
    fn handle(&self, ep: Self::Endpoint) -> u64;
    /// The endpoint with this handle, which was in the table until now. The set's lock is held.
    fn offered(&self, handle: u64) -> Self::Endpoint;

    /// Memory for an endpoint that nobody knows yet, with these marks; none without memory.
    fn endpoint_alloc(&self, set: usize, linked: usize, wishes: Wishes) -> Option<Self::Endpoint>;
    /// Its marks.
    fn marks(&self, ep: Self::Endpoint) -> impl Marks;
    /// Its socket. Of one that is installed.
    fn sock(&self, ep: Self::Endpoint) -> Self::Sock;
    /// The link that its socket's calls find. Acquire.
    fn link(&self, ep: Self::Endpoint) -> usize;
    /// Release.
    fn set_link(&self, ep: Self::Endpoint, link: usize);
    /// Frees one that nobody knows.
    fn endpoint_unmake(&self, ep: Self::Endpoint);
    /// Takes the place on the socket where it will stand. `false`: somebody else has it by now.
    fn claim(&self, sk: Self::Sock, ep: Self::Endpoint) -> bool;
    /// Puts it in that place on the socket, which is locked: its calls find it from here on.
    fn install(&self, sk: Self::Sock, ep: Self::Endpoint);
    /// Puts it where drains find it. Its socket is still locked, and the lock of its set is held.
    fn enlist(&self, ep: Self::Endpoint, set: usize);

    /// Memory for a pair; none without.
    fn pair_alloc(&self) -> Option<Self::Pair>;
    /// Nobody can reach it.
    fn pair_free(&self, pair: Self::Pair);
    /// Makes the pair of these sockets, (active, passive), in its memory. Nobody knows it yet.
    fn pair_init(
        &self,
        pair: Self::Pair,
        socks: (Self::Sock, Self::Sock),
        wishes: (Wishes, Wishes),
    );
    /// Puts it where walkers find it. Its endpoints are alive.
    fn pair_list(&self, pair: Self::Pair);
    /// Walkers find it no more, and nobody else does.
    fn pair_unlist(&self, pair: Self::Pair);
    /// Frees its rings. Nobody uses them.
    fn rings_free(&self, pair: Self::Pair);
    /// [`Ends::drop_one`].
    fn pair_drop_one(&self, pair: Self::Pair) -> bool;

    /// The link word of a side.
    fn word(&self, pair: Self::Pair, side: Side) -> usize;
    /// What a link word says; none for 0.
    fn at(&self, word: usize) -> Option<Self::Link>;
    /// The link's pair.
    fn pair(&self, link: Self::Link) -> Self::Pair;
    /// [`Ends::clear`] of the link's own side.
    fn slot_clear(&self, link: Self::Link);
    /// Closes both lanes to publishing; returns the bytes that this end has not read. Any context.
    fn lanes_close(&self, link: Self::Link) -> u64;

    /// A reference more.
    fn sock_hold(&self, sk: Self::Sock);
    /// A reference less.
    fn sock_put(&self, sk: Self::Sock);
}

/// The connecting end: installs and waits. The socket is installed first, so that whoever takes the offer finds it complete.
///
/// The socket is locked, and was seen to have nothing of this kind. An offer that loses its place leaves a socket that works as base does:
/// its endpoint has no link and never will.
///
/// # Errors
///
/// Without memory, or when somebody else has taken the place on the socket.
pub fn offer<K: Kernel>(
    kernel: &K,
    sk: K::Sock,
    facts: &Facts,
    set: usize,
    wishes: Wishes,
) -> Result<(), Refusal> {
    let ep = endpoint(kernel, sk, set, 0, wishes)?;
    let now = kernel.now();
    kernel.install(sk, ep);
    let lost = kernel.with_set(set, |table| {
        kernel.enlist(ep, set);
        // A close() on another processor, which needs no lock to find the endpoint, may have withdrawn it by now: it stays so.
        if kernel.marks(ep).is_withdrawn() {
            return None;
        }
        kernel.count(Event::OfferMade);
        table.put(facts, kernel.handle(ep), now, now.wrapping_add(LIFETIME))
    });
    if let Some(reason) = lost {
        kernel.count(Event::Refused(reason));
    }
    Ok(())
}

/// A new endpoint, not yet known to anyone, and its place on the socket.
fn endpoint<K: Kernel>(
    kernel: &K,
    sk: K::Sock,
    set: usize,
    linked: usize,
    wishes: Wishes,
) -> Result<K::Endpoint, Refusal> {
    let ep = kernel
        .endpoint_alloc(set, linked, wishes)
        .ok_or(Refusal::NoMemory)?;
    if !kernel.claim(sk, ep) {
        kernel.endpoint_unmake(ep);
        return Err(Refusal::Taken);
    }
    kernel.count(Event::EndpointMade);
    Ok(ep)
}

/// The accepted end: takes the offer and joins. No descriptor exists yet, so nobody is inside base code of this socket, which is locked.
///
/// The caller is inside an RCU read-side section: the pair is listed after the lock was let go, and either end may have left by then.
///
/// # Errors
///
/// Without an offer (see [`Set::take`]), memory, or the place on the socket: then the offer is gone, and both ends stay TCP.
pub fn join<K: Kernel>(
    kernel: &K,
    sk: K::Sock,
    facts: &Facts,
    set: usize,
    wishes: Wishes,
) -> Result<(), Refusal> {
    let now = kernel.now();
    let pair = kernel.with_set(set, |table| {
        let other = kernel.offered(table.take(facts, now)?);
        // Made when the offer is found, since most that look find none.
        let (pair, ep) = pair_and_endpoint(kernel, sk, set, wishes)?;
        // Its offer was in the table, so the endpoint and its socket are alive, and stay so under this lock.
        let marks = kernel.marks(other);
        marks.set_linked(kernel.word(pair, Side::Active));
        let theirs = kernel.sock(other);
        kernel.pair_init(pair, (theirs, sk), (marks.wishes(), wishes));
        kernel.sock_hold(theirs);
        kernel.sock_hold(sk);
        kernel.set_link(ep, kernel.word(pair, Side::Passive));
        kernel.install(sk, ep);
        kernel.enlist(ep, set);
        kernel.set_link(other, kernel.word(pair, Side::Active));
        Ok(pair)
    })?;
    kernel.count(Event::PairMade);
    kernel.pair_list(pair);
    Ok(())
}

/// Memory for a pair, and the accepted end's endpoint in it.
fn pair_and_endpoint<K: Kernel>(
    kernel: &K,
    sk: K::Sock,
    set: usize,
    wishes: Wishes,
) -> Result<(K::Pair, K::Endpoint), Refusal> {
    let pair = kernel.pair_alloc().ok_or(Refusal::NoMemory)?;
    match endpoint(kernel, sk, set, kernel.word(pair, Side::Passive), wishes) {
        Ok(ep) => Ok((pair, ep)),
        Err(reason) => {
            kernel.pair_free(pair);
            Err(reason)
        }
    }
}

/// Takes the endpoint's offer back; `true` if it is not paired, and then it never will be. Any context.
pub fn withdraw<K: Kernel>(kernel: &K, ep: K::Endpoint) -> bool {
    let marks = kernel.marks(ep);
    if marks.is_withdrawn() {
        return true;
    }
    kernel.with_set(marks.set(), |table| {
        table.withdraw(kernel.handle(ep));
        // Whoever has a link had this before, for good.
        let never = marks.linked() == 0;
        marks.set_withdrawn(never);
        never
    })
}

/// The link of an endpoint that is or becomes paired; none if it never will be, or has left: an unpaired one gets its offer withdrawn, so
/// that it stays unpaired.
pub fn settle<K: Kernel>(kernel: &K, ep: K::Endpoint) -> Option<K::Link> {
    if kernel.link(ep) == 0 && withdraw(kernel, ep) {
        return None;
    }
    kernel.at(kernel.link(ep))
}

/// close(), before base's: no descriptor of this socket is left. Returns the ring bytes that it never read.
pub fn close<K: Kernel>(kernel: &K, ep: K::Endpoint) -> u64 {
    settle(kernel, ep).map_or(0, |link| kernel.lanes_close(link))
}

/// The socket leaves its pair for good and may live on: its calls fall to base from here on.
#[inline]
pub fn leave<K: Kernel>(kernel: &K, ep: K::Endpoint) {
    if let Some(link) = settle(kernel, ep) {
        // The slot first: who finds no link may count on a grace period since the slot was cleared ([`let_go`]).
        kernel.slot_clear(link);
        kernel.set_link(ep, 0);
        kernel.lanes_close(link);
    }
}

/// The socket is being destroyed. `false`: the endpoint was never paired, so no other end may be looking at it. Else the caller frees it
/// after a grace period.
pub fn release<K: Kernel>(kernel: &K, ep: K::Endpoint) -> bool {
    leave(kernel, ep);
    // Leaving it found the link that is set after `linked`, or took the set's lock, under which `linked` is written.
    kernel.marks(ep).linked() != 0
}

/// Drops the pair's reference to the endpoint's socket, once: an RCU callback, a grace period after nobody could find the endpoint any more,
/// or at once if nobody else ever knew of it ([`release`]). Calls that had found it may be under way: they have the socket's file.
pub fn let_go<K: Kernel>(kernel: &K, ep: K::Endpoint) {
    if kernel.marks(ep).linked() != 0 {
        kernel.sock_put(kernel.sock(ep));
    }
}

/// The endpoint's last breath, after [`let_go`], when no call is under way that had found it. Its memory is the caller's to free.
pub fn endpoint_free<K: Kernel>(kernel: &K, ep: K::Endpoint) {
    if let Some(link) = kernel.at(kernel.marks(ep).linked()) {
        put(kernel, kernel.pair(link));
    }
    kernel.count(Event::EndpointGone);
}

/// Drops a reference to the pair, which the caller owns and uses no more; the last one frees the rings and the pair. Any context.
#[inline]
pub fn put<K: Kernel>(kernel: &K, pair: K::Pair) {
    if !kernel.pair_drop_one(pair) {
        return;
    }
    // Each pair that got endpoints was listed when it was made; from here on no walker of the list can reach it.
    kernel.pair_unlist(pair);
    kernel.rings_free(pair);
    kernel.count(Event::PairGone);
    kernel.pair_free(pair);
}
