// SPDX-License-Identifier: GPL-2.0-only
//! The kfunc: puts connecting ends up as offers and joins accepting ends with them.
//!
//! # Context
//!
//! Called by a sock_ops program, under `rcu_read_lock()`, with the socket's own lock held: for the connecting end usually in
//! process context (connect() processing its backlog), for the accepted end in softirq, possibly nested in the former. Nothing
//! here sleeps, and nothing takes another socket's lock.

use crate::ffi::{self, Carried, EINVAL, ENOMEM, EOPNOTSUPP, Facts as Seen, SockOps};
use crate::life::Linux;
use crate::stats;
use core::ffi::{c_int, c_uint};
use core::mem::{MaybeUninit, size_of};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use tcp_splice_core::abi;
use tcp_splice_core::life::{self, Wishes};
use tcp_splice_core::pairing::{self, Facts, Refusal};
use tcp_splice_core::registry::Set;

/// Sets of the table: room for 4096 offers.
const SETS: usize = 512;

const _: () = assert!(SETS.is_power_of_two());

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

/// Runs `f` on a set under its lock.
pub(crate) fn with_set<T>(set: usize, f: impl FnOnce(&mut Set) -> T) -> T {
    let set = set % SETS;
    // SAFETY: any context that does not hold a set's lock; nothing called below takes one.
    let flags = unsafe { ffi::ts_registry_lock(set as c_uint) };
    // SAFETY: the table has SETS sets from load to unload, and its lock makes this the only reference to this one.
    let result = f(unsafe { &mut *TABLE.load(Ordering::Acquire).add(set) });
    // SAFETY: taken above.
    unsafe { ffi::ts_registry_unlock(set as c_uint, flags) };
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
    let hash = unsafe { ffi::ts_registry_hash(active_seq, passive_seq) };
    hash.wrapping_shr(u32::BITS.wrapping_sub(SETS.ilog2())) as usize
}

/// The kfunc behind its C face.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text..ts_offered")]
extern "C" fn tcp_splice_pair(
    ctx: *const SockOps,
    flags: u64,
    busy_poll_us: u32,
    ring_kbytes: u32,
) -> c_int {
    if flags & !abi::PAIR_SAME_NETNS != 0 || busy_poll_us > abi::BUSY_POLL_US_MAX {
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
        flags & abi::PAIR_SAME_NETNS == 0,
        Wishes {
            busy_poll_us,
            ring_kbytes,
        },
    ) {
        Ok(()) => 0,
        Err(reason) => {
            stats::refused(reason);
            // What the policy does not want is no news of it.
            let forbidden = matches!(reason, Refusal::Namespace) && flags & abi::PAIR_SAME_NETNS != 0;
            if reason.is_noted() && !forbidden {
                let (accepted, nothing) = (seen.passive != 0, Carried::NOTHING);
                // SAFETY: the program's socket, which is locked.
                unsafe { ffi::ts_plain_note(seen.sk, accepted, reason as u8, &nothing) };
            }
            if matches!(reason, Refusal::NoMemory) {
                -ENOMEM
            } else {
                -EOPNOTSUPP
            }
        }
    }
}

/// `cross`: the policy allows an end in another network namespace.
fn admit(seen: &Seen, cross: bool, wishes: Wishes) -> Result<(), Refusal> {
    let peer_hash = (seen.has_peer_hash != 0).then_some(seen.peer_hash);
    pairing::screen(seen.obstacles, peer_hash)?;
    let facts = Facts {
        id: seen.sk.expose_provenance() as u64,
        write_seq: seen.write_seq,
        rcv_nxt: seen.rcv_nxt,
        txhash: seen.txhash,
        peer_hash,
        netns: seen.netns,
        may_cross: cross && seen.init_user_ns != 0,
    };
    let kernel = Linux::new();
    if seen.passive == 0 {
        let set = set_of(facts.write_seq, facts.rcv_nxt);
        life::offer(&kernel, seen.sk, &facts, set, wishes)?;
        // SAFETY: any context; the endpoint was enlisted.
        unsafe { ffi::ts_stale_watch() };
        Ok(())
    } else {
        let set = set_of(facts.rcv_nxt, facts.write_seq);
        life::join(&kernel, seen.sk, &facts, set, wishes)
    }
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
