// SPDX-License-Identifier: GPL-2.0-only
//! The kfunc: puts connecting ends up as offers and joins accepting ends with them.
//!
//! # Context
//!
//! Called by a sock_ops program, under `rcu_read_lock()`, with the socket's own lock held: for the connecting end usually in
//! process context (connect() processing its backlog), for the accepted end in softirq, possibly nested in the former. Nothing
//! here sleeps, and nothing takes another socket's lock.
//!
//! # The offer's life
//!
//! An offered endpoint can be reached by a stranger (the joining end) only through the table, under the registry's lock, and only
//! while it is not yet taken out. Every way for an offered socket to go (close, disconnect, destroy, giving its slot away) takes
//! its offer out first, under the same lock.

use crate::ffi::{self, EINVAL, ENOMEM, EOPNOTSUPP, Facts as Seen, SockOps};
use crate::pair::{Link, Pair, Side};
use crate::stats::{self, Counter};
use core::ffi::{c_int, c_ulong, c_void};
use core::mem::{MaybeUninit, align_of, size_of};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use tcp_splice_core::abi;
use tcp_splice_core::pairing::{self, Facts, Refusal};
use tcp_splice_core::registry::Set;

/// Sets of the table: room for 4096 offers.
const SETS: usize = 512;

/// How long an offer waits, in units of 1.024 µs: a handshake on one host takes far less, a delayed ACK 200 ms.
const LIFETIME: u64 = 5_000_000;

/// Our part of an endpoint.
pub(crate) struct Endpoint {
    /// The set of the table in which its offer was put.
    set: usize,
    /// Its offer was taken back, and it is not paired: it never will be. Set once.
    withdrawn: AtomicBool,
    /// The link it got, kept until it is freed even when the socket has left (`ts_endpoint.link` is 0 then).
    linked: c_ulong,
    /// The pair's reference to this endpoint's socket was dropped early: see `tcp_splice_let_go`.
    let_go: bool,
    busy_poll_us: u32,
    ring_kbytes: u32,
}

const _: () = assert!(size_of::<Endpoint>() <= ffi::ENDPOINT_BYTES && align_of::<Endpoint>() <= 8);

static TABLE: AtomicPtr<Set> = AtomicPtr::new(ptr::null_mut());

/// Makes the table. Process context, at load.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_init() -> c_int {
    // SAFETY: process context.
    let table = unsafe { ffi::ts_ring_alloc(size_of::<Set>().wrapping_mul(SETS)) }.cast::<Set>();
    if table.is_null() {
        return -ENOMEM;
    }
    for index in 0..SETS {
        // SAFETY: the allocation has room for SETS sets.
        unsafe { table.add(index).write(Set::EMPTY) };
    }
    TABLE.store(table, Ordering::Release);
    0
}

/// Frees the table. Process context, at unload: no socket and no program is left.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_exit() {
    let table = TABLE.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: allocated at load, and nobody can call into the table any more.
    unsafe { ffi::ts_ring_free(table.cast()) };
}

/// Runs `f` on a set under the registry's lock.
fn with_set<T>(set: usize, f: impl FnOnce(&mut Set) -> T) -> T {
    // SAFETY: any context that does not hold this lock; nothing called below takes it.
    unsafe { ffi::ts_registry_lock() };
    // SAFETY: the table has SETS sets from load to unload, and the lock makes this the only reference.
    let result = f(unsafe { &mut *TABLE.load(Ordering::Acquire).add(set % SETS) });
    // SAFETY: taken above.
    unsafe { ffi::ts_registry_unlock() };
    result
}

/// How many offers are in the table, those included that nobody will take any more. Process context.
pub(crate) fn offers_held() -> u64 {
    (0..SETS).fold(0, |sum: u64, index| {
        sum.wrapping_add(with_set(index, |set| set.len() as u64))
    })
}

/// Both ends find the same set: the connecting end's own number comes first.
fn set_of(active_seq: u32, passive_seq: u32) -> usize {
    // SAFETY: no requirements.
    unsafe { ffi::ts_registry_hash(active_seq, passive_seq) as usize % SETS }
}

/// Our part of the endpoint behind the pointer that C carries.
///
/// # Safety
///
/// `ep` is alive, and nobody else has a reference to its body: see the callers.
unsafe fn body<'a>(ep: *mut c_void) -> &'a mut Endpoint {
    // SAFETY: by the caller; the body was written in `endpoint`.
    unsafe { &mut *ep.cast::<Endpoint>() }
}

/// The kfunc behind its C face.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_pair(
    ctx: *const SockOps,
    flags: u64,
    busy_poll_us: u32,
    ring_kbytes: u32,
) -> c_int {
    if flags != 0 || busy_poll_us > abi::BUSY_POLL_US_MAX {
        return -EINVAL;
    }
    let ring_kbytes = match ring_kbytes {
        0 => 0,
        n => match abi::ring_kbytes(n, n) {
            Some(n) => n,
            None => return -EINVAL,
        },
    };
    let mut seen = MaybeUninit::<Seen>::uninit();
    // SAFETY: `ctx` is the program's context; the callee fills everything in.
    let seen = unsafe {
        ffi::ts_facts(ctx, seen.as_mut_ptr());
        seen.assume_init()
    };
    match admit(
        &seen,
        Endpoint {
            set: 0,
            withdrawn: AtomicBool::new(false),
            linked: 0,
            let_go: false,
            busy_poll_us,
            ring_kbytes,
        },
    ) {
        Ok(()) => 0,
        Err(reason) => {
            stats::refused(reason);
            if matches!(reason, Refusal::NoMemory) {
                -ENOMEM
            } else {
                -EOPNOTSUPP
            }
        }
    }
}

fn admit(seen: &Seen, mut mine: Endpoint) -> Result<(), Refusal> {
    let peer_hash = (seen.has_peer_hash != 0).then_some(seen.peer_hash);
    pairing::screen(seen.obstacles, peer_hash)?;
    let facts = Facts {
        id: seen.sk.expose_provenance() as u64,
        write_seq: seen.write_seq,
        rcv_nxt: seen.rcv_nxt,
        txhash: seen.txhash,
        peer_hash,
        netns: seen.netns,
        init_user_ns: seen.init_user_ns != 0,
    };
    if seen.passive == 0 {
        mine.set = set_of(facts.write_seq, facts.rcv_nxt);
        offer(seen, facts, mine)
    } else {
        mine.set = set_of(facts.rcv_nxt, facts.write_seq);
        join(seen, facts, mine)
    }
}

/// A new endpoint around `mine`, not yet known to anyone.
fn endpoint(mine: Endpoint) -> Result<*mut c_void, Refusal> {
    // SAFETY: any context.
    let ep = unsafe { ffi::ts_endpoint_alloc() };
    if ep.is_null() {
        return Err(Refusal::NoMemory);
    }
    // SAFETY: the body has room (checked above) and is ours alone.
    unsafe { ep.cast::<Endpoint>().write(mine) };
    Counter::EndpointsMade.add(1);
    Ok(ep)
}

/// An endpoint's handle in the table.
fn handle(ep: *mut c_void) -> u64 {
    ep.expose_provenance() as u64
}

/// The connecting end: installs and waits. The socket is installed first, so that whoever takes the offer finds it complete.
fn offer(seen: &Seen, facts: Facts, mine: Endpoint) -> Result<(), Refusal> {
    let set = mine.set;
    let ep = endpoint(mine)?;
    // SAFETY: no requirements.
    let now = unsafe { ffi::ts_clock_us() };
    // SAFETY: locked, within the program; `screen` saw both slots empty. An offer that loses its place leaves a socket that works
    // as base does: its endpoint has no link and never will.
    unsafe { ffi::ts_install(seen.sk, ep) };
    let lost = with_set(set, |set| {
        // A close() on another processor, which needs no lock to find the endpoint, may have withdrawn it by now: it stays so.
        if is_withdrawn(ep) {
            return None;
        }
        Counter::OffersMade.add(1);
        set.put(facts, handle(ep), now, now.wrapping_add(LIFETIME))
    });
    lost.into_iter().for_each(stats::refused);
    Ok(())
}

/// The accepted end: takes the offer and joins. No descriptor exists yet, so nobody is inside base code of this socket.
fn join(seen: &Seen, facts: Facts, mine: Endpoint) -> Result<(), Refusal> {
    let (ring_kbytes, busy_poll_us) = (mine.ring_kbytes, mine.busy_poll_us);
    // SAFETY: no requirements.
    let now = unsafe { ffi::ts_clock_us() };
    let pair = with_set(mine.set, |set| {
        let theirs = set.take(&facts, now)?;
        let other = ptr::with_exposed_provenance_mut::<c_void>(theirs as usize);
        // Made when the offer is found, since most that look find none. Without memory the offer is gone, and both ends stay TCP.
        let (pair, ep) = pair_and_endpoint(mine)?;
        // SAFETY: its offer was in the table, so the endpoint and its socket are alive and stay so under this lock; nobody
        // else touches these fields while it is offered.
        let (sk, sizes, budgets) = unsafe {
            let body = other.cast::<Endpoint>();
            (*body).linked = Pair::link(pair, Side::Active);
            let sizes = ((*body).ring_kbytes, ring_kbytes);
            let budgets = ((*body).busy_poll_us, busy_poll_us);
            (ffi::ts_endpoint_sock(other), sizes, budgets)
        };
        // SAFETY: the pair is ours until it is linked. Both sockets are alive: the references are dropped when the
        // endpoints are freed.
        unsafe {
            pair.write(Pair::new(sizes, budgets, (sk, seen.sk)));
            ffi::ts_sock_hold(sk);
            ffi::ts_sock_hold(seen.sk);
            ffi::ts_endpoint_set_link(ep, Pair::link(pair, Side::Passive));
            ffi::ts_install(seen.sk, ep);
            ffi::ts_endpoint_set_link(other, Pair::link(pair, Side::Active));
        }
        Ok(pair)
    })?;
    Counter::PairsMade.add(1);
    // SAFETY: the program runs inside an RCU read-side section that began when both endpoints were found, and their references
    // to the pair go a grace period later at the earliest.
    unsafe { ffi::ts_pair_list(pair.as_ptr().cast()) };
    Ok(())
}

/// Memory for a pair, and the accepted end's endpoint in it.
fn pair_and_endpoint(mine: Endpoint) -> Result<(NonNull<Pair>, *mut c_void), Refusal> {
    // SAFETY: any context.
    let memory = NonNull::new(unsafe { ffi::ts_pair_alloc() }).ok_or(Refusal::NoMemory)?;
    let pair = memory.cast::<Pair>();
    let linked = Pair::link(pair, Side::Passive);
    match endpoint(Endpoint { linked, ..mine }) {
        Ok(ep) => Ok((pair, ep)),
        Err(reason) => {
            // SAFETY: never linked, never listed.
            unsafe { ffi::ts_pair_free(memory.as_ptr()) };
            Err(reason)
        }
    }
}

/// Takes the endpoint's offer back; `true` if it is not paired, and then it never will be. Any context.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tcp_splice_withdraw(ep: *mut c_void) -> bool {
    // SAFETY: the caller's endpoint is alive; `set` was written before it was known to anyone.
    let (set, withdrawn) = unsafe {
        let body = ep.cast::<Endpoint>();
        ((*body).set, &(*body).withdrawn)
    };
    if withdrawn.load(Ordering::Relaxed) {
        return true;
    }
    with_set(set, |set| {
        set.withdraw(handle(ep));
        // SAFETY: alive.
        let never =
            unsafe { ffi::ts_endpoint_link(ep) == 0 && (*ep.cast::<Endpoint>()).linked == 0 };
        withdrawn.store(never, Ordering::Relaxed);
        never
    })
}

/// The endpoint's offer was taken back. Exact under the registry's lock.
fn is_withdrawn(ep: *mut c_void) -> bool {
    // SAFETY: the caller's endpoint is alive.
    unsafe { (*ep.cast::<Endpoint>()).withdrawn.load(Ordering::Relaxed) }
}

/// The endpoint was paired once, so that the other end may know of its socket. Of an endpoint that has left (`leave` in teardown.rs): it
/// will not be paired any more.
pub(crate) fn was_paired(ep: *mut c_void) -> bool {
    // SAFETY: the caller's endpoint is alive. Leaving it found the link that is set after `linked`, or took the registry's lock, under
    // which `linked` is written.
    unsafe { (*ep.cast::<Endpoint>()).linked != 0 }
}

/// Drops the pair's reference to the endpoint's socket: an RCU callback, a grace period after the slot was cleared. Only once.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_let_go(ep: *mut c_void) {
    // SAFETY: alive, and this callback is the only one that touches these fields by now.
    let body = unsafe { body(ep) };
    if body.linked != 0 && !body.let_go {
        body.let_go = true;
        // SAFETY: the reference taken when the pair was made; the pair's slot was cleared a grace period ago.
        unsafe { ffi::ts_sock_put(ffi::ts_endpoint_sock(ep)) };
    }
}

/// The endpoint's last breath: an RCU callback, a grace period after nobody could find it any more.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_endpoint_free(ep: *mut c_void) {
    tcp_splice_let_go(ep);
    // SAFETY: ours alone now.
    let linked = unsafe { (*ep.cast::<Endpoint>()).linked };
    // SAFETY: the endpoint owns a reference to the pair it was linked with, and to its own socket.
    unsafe {
        if let Some(link) = Link::from_word(linked) {
            Pair::put(link.pair());
        }
    }
    Counter::EndpointsGone.add(1);
}

/// A size for the module parameter, checked and rounded: 0 and `*kbytes`, or -EINVAL.
#[unsafe(no_mangle)]
extern "C" fn tcp_splice_ring_kbytes(request: u32, kbytes: *mut u32) -> c_int {
    match (request, abi::ring_kbytes(request, abi::RING_KBYTES_DEFAULT)) {
        (0, _) | (_, None) => -EINVAL,
        (_, Some(size)) => {
            // SAFETY: the caller's variable.
            unsafe { *kbytes = size };
            0
        }
    }
}
