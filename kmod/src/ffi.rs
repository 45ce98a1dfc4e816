// SPDX-License-Identifier: GPL-2.0-only
//! The seam to C: `glue.h`, line by line. Contracts that the prototypes do not show are stated here.
//!
//! Kernel objects are opaque. Where a function may sleep, or needs a lock, it says so.

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicPtr;

/// `struct sock`.
#[repr(C)]
pub(crate) struct Sock([u8; 0]);
/// `struct msghdr`.
#[repr(C)]
pub(crate) struct Msg([u8; 0]);
/// `struct seq_file`.
#[repr(C)]
pub(crate) struct SeqFile([u8; 0]);
/// `struct bpf_sock_ops_kern`.
#[repr(C)]
pub(crate) struct SockOps([u8; 0]);

/// `struct pipe_inode_info`.
#[repr(C)]
pub(crate) struct Pipe([u8; 0]);
/// `struct ts_carried`: what an end has sent through its ring, and how often that woke the other end, or found the ring full.
#[repr(C)]
pub(crate) struct Carried {
    pub(crate) ring_bytes: u64,
    pub(crate) wakes: u32,
    pub(crate) stalls: u32,
}

impl Carried {
    pub(crate) const NOTHING: Carried = Carried {
        ring_bytes: 0,
        wakes: 0,
        stalls: 0,
    };
}

/// `struct ts_control`: where the next control message of a `struct msghdr` goes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Control {
    at: *mut c_void,
    len: usize,
}
/// `struct ts_call`: a call of a socket, which keeps the socket's endpoint.
#[repr(C)]
pub(crate) struct Call {
    section: *mut c_void,
    /// `sk_disconnects` of the link's connection.
    pub(crate) disconnects: u32,
}
/// `struct ts_queue`: segments that are to go into TCP's receive queue.
#[repr(C)]
pub(crate) struct Queue {
    pub(crate) first: *mut c_void,
    pub(crate) last: *mut c_void,
}

/// `struct ts_facts`.
#[repr(C)]
pub(crate) struct Facts {
    pub(crate) sk: *mut Sock,
    pub(crate) netns: u64,
    pub(crate) obstacles: u32,
    pub(crate) write_seq: u32,
    pub(crate) rcv_nxt: u32,
    pub(crate) txhash: u32,
    pub(crate) peer_hash: u32,
    pub(crate) has_peer_hash: u8,
    pub(crate) passive: u8,
    pub(crate) init_user_ns: u8,
    pub(crate) reserved: u8,
}

/// `struct ts_rx_view`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RxView {
    pub(crate) flags: u32,
    pub(crate) received: u32,
    pub(crate) copied: u32,
    pub(crate) disconnects: u32,
}

/// `struct ts_wait`: room for a `struct wait_queue_entry`, which `ts_wait_begin` makes.
#[repr(C)]
pub(crate) struct Wait(MaybeUninit<[u64; 8]>);

impl Wait {
    pub(crate) const fn new() -> Self {
        Wait(MaybeUninit::uninit())
    }
}

pub(crate) const TX_ERR: u32 = 1 << 0;
pub(crate) const TX_SHUT: u32 = 1 << 1;
pub(crate) const TX_STATE: u32 = 1 << 2;
pub(crate) const TX_TCP_ONLY: u32 = 1 << 3;
#[allow(dead_code)] // any flag keeps a lane from starting
pub(crate) const TX_PENDING: u32 = 1 << 4;
#[allow(dead_code)] // as above
pub(crate) const TX_UNACKED: u32 = 1 << 5;

#[allow(dead_code)] // any flag is an end
pub(crate) const RX_ERR: u32 = 1 << 0;
pub(crate) const RX_DONE: u32 = 1 << 1;
#[allow(dead_code)] // as above
pub(crate) const RX_SHUT: u32 = 1 << 2;
#[allow(dead_code)] // as above
pub(crate) const RX_CLOSE: u32 = 1 << 3;

pub(crate) const EXTRA_INQ: u32 = 1 << 0;
pub(crate) const EXTRA_PEEK_OFF: u32 = 1 << 1;

pub(crate) const RX_URGENT: u32 = 1 << 4;

/// Not a result: nothing was done, and C calls base in our place, with none of our frames on the stack.
pub(crate) const BASE: c_int = c_int::MIN;

pub(crate) const BACK_FOR_GOOD: c_uint = 0;
/// `TS_PLAIN_DRAINED`.
pub(crate) const PLAIN_DRAINED: u8 = 255;
#[allow(dead_code)] // what is neither of the others
pub(crate) const BACK_DRAINED: c_uint = 1;
#[allow(dead_code)] // as above
pub(crate) const BACK_CHILD: c_uint = 2;

pub(crate) const NEED_NOTHING: c_uint = 0;
pub(crate) const NEED_TCP_FOR_GOOD: c_uint = 2;

pub(crate) const POLL_READABLE: c_uint = 1 << 0;
pub(crate) const POLL_WRITEABLE: c_uint = 1 << 1;

pub(crate) const MSG_OOB: c_int = 0x1;
pub(crate) const MSG_PEEK: c_int = 0x2;
pub(crate) const MSG_TRUNC: c_int = 0x20;
pub(crate) const MSG_DONTWAIT: c_int = 0x40;
pub(crate) const MSG_WAITALL: c_int = 0x100;
pub(crate) const MSG_ERRQUEUE: c_int = 0x2000;

#[allow(dead_code)] // compared at compile time
pub(crate) const COUNTERS: usize = 64;
#[allow(dead_code)] // compared at compile time
pub(crate) const ENDPOINT_BYTES: usize = 32;
#[allow(dead_code)] // compared at compile time
pub(crate) const PAIR_BYTES: usize = 832;

pub(crate) const EAGAIN: c_int = 11;
pub(crate) const ENOMEM: c_int = 12;
pub(crate) const EFAULT: c_int = 14;
pub(crate) const EINVAL: c_int = 22;
pub(crate) const ESTALE: c_int = 116;
pub(crate) const EPIPE: c_int = 32;
pub(crate) const ENOBUFS: c_int = 105;
pub(crate) const EBUSY: c_int = 16;
pub(crate) const EOPNOTSUPP: c_int = 95;

unsafe extern "C" {
    /// Fills in what is known of the socket. Within the sock_ops program; does not sleep.
    pub(crate) fn ts_facts(ctx: *const SockOps, facts: *mut Facts);
    pub(crate) fn ts_tx_view(sk: *const Sock, peer: *const AtomicPtr<Sock>) -> u64;
    /// False where it does not know.
    pub(crate) fn ts_tx_is_quiet(
        sk: *const Sock,
        peer: *const AtomicPtr<Sock>,
        border: u32,
    ) -> bool;
    pub(crate) fn ts_rx_view(sk: *const Sock, view: *mut RxView);
    pub(crate) fn ts_tcp_inq(sk: *mut Sock) -> c_int;
    /// 0, a negative errno, or -EAGAIN if there is no end after all. Takes the socket's lock; sleeps.
    pub(crate) fn ts_rx_end(sk: *mut Sock) -> c_int;
    pub(crate) fn ts_disconnects(sk: *const Sock) -> u32;
    /// The first sequence number that is not acknowledged.
    pub(crate) fn ts_acknowledged(sk: *const Sock) -> u32;
    /// No SO_SNDTIMEO, no TCP_CORK.
    pub(crate) fn ts_is_patient(sk: *const Sock) -> bool;

    /// Its body is not written; or null. Any context.
    pub(crate) fn ts_endpoint_alloc() -> *mut c_void;
    /// Its body is not written; or null. Any context.
    pub(crate) fn ts_pair_alloc() -> *mut c_void;
    /// Not listed (any more). Any context.
    pub(crate) fn ts_pair_free(pair: *mut c_void);
    /// Process context; one thread at a time, and not again once it is paid. `false`: the caller's cgroup has no room for it.
    pub(crate) fn ts_pair_charge(pair: *mut c_void) -> bool;
    /// Puts it into the list of all pairs. Once; its endpoints are alive. Any context.
    pub(crate) fn ts_pair_list(pair: *mut c_void);
    /// Takes it out again, before anything of it is freed. Any context.
    pub(crate) fn ts_pair_unlist(pair: *mut c_void);
    /// Zeroed, or null. Sleeps.
    pub(crate) fn ts_ring_alloc(bytes: usize) -> *mut c_void;
    pub(crate) fn ts_ring_free(ring: *mut c_void);
    /// Not zeroed, or null; `bytes` is a power of two of at least a page. Sleeps.
    pub(crate) fn ts_chunk_alloc(bytes: usize) -> *mut u8;
    pub(crate) fn ts_chunk_free(chunk: *mut u8, bytes: usize);
    /// Not zeroed, or null; no page that could be lent. Sleeps.
    pub(crate) fn ts_head_alloc(bytes: usize) -> *mut u8;
    pub(crate) fn ts_head_free(head: *mut u8, bytes: usize);

    /// Known to nobody, or to nobody any more. Any context.
    pub(crate) fn ts_endpoint_unmake(ep: *mut c_void);
    /// `false`: somebody else has `sk_user_data`. Any context.
    pub(crate) fn ts_claim(sk: *mut Sock, ep: *mut c_void) -> bool;
    /// Socket locked, within the sock_ops program; claimed.
    pub(crate) fn ts_install(sk: *mut Sock, ep: *mut c_void, busy_polls: bool);
    pub(crate) fn ts_endpoint_enlist(ep: *mut c_void, set: c_uint);
    /// An endpoint was enlisted that has no link. Any context.
    pub(crate) fn ts_stale_watch();
    pub(crate) fn ts_endpoint_sock(ep: *mut c_void) -> *mut Sock;
    /// Acquire.
    pub(crate) fn ts_endpoint_link(ep: *const c_void) -> c_ulong;
    /// Release.
    pub(crate) fn ts_endpoint_set_link(ep: *mut c_void, link: c_ulong);
    pub(crate) fn ts_sock_hold(sk: *mut Sock);
    pub(crate) fn ts_sock_put(sk: *mut Sock);
    /// Sleeps.
    pub(crate) fn ts_lock_sock(sk: *mut Sock);
    pub(crate) fn ts_release_sock(sk: *mut Sock);
    /// Sleeps: takes the socket's lock.
    pub(crate) fn ts_linger_reset(sk: *mut Sock);

    /// The socket is locked and connected.
    pub(crate) fn ts_plain_note(sk: *mut Sock, accepted: bool, why: u8, carried: *const Carried);

    /// Returns what the unlock needs.
    pub(crate) fn ts_registry_lock(set: c_uint) -> c_ulong;
    pub(crate) fn ts_registry_unlock(set: c_uint, flags: c_ulong);
    pub(crate) fn ts_registry_hash(active_seq: u32, passive_seq: u32) -> u32;

    /// Sleeps.
    pub(crate) fn ts_lane_lock(pair: *mut c_void, which: c_uint);
    /// Process context; `patient`: sleeps, for some ms at most. False if it could not be had.
    pub(crate) fn ts_lane_trylock(pair: *mut c_void, which: c_uint, patient: bool) -> bool;
    pub(crate) fn ts_lane_unlock(pair: *mut c_void, which: c_uint);
    pub(crate) fn ts_lane_is_locked(pair: *mut c_void, which: c_uint) -> bool;

    /// Bytes copied; fewer on a fault. Sleeps.
    pub(crate) fn ts_copy_from_iter(to: *mut u8, bytes: usize, msg: *mut Msg) -> usize;
    /// As above.
    pub(crate) fn ts_copy_to_iter(from: *const u8, bytes: usize, msg: *mut Msg) -> usize;
    pub(crate) fn ts_iov_iter_revert(msg: *mut Msg, bytes: usize);
    /// Sleeps, for long if the call may wait.
    pub(crate) fn ts_base_sendmsg(sk: *mut Sock, msg: *mut Msg, size: usize) -> c_int;
    /// Does not wait for room; sleeps for the socket's lock and page faults only.
    pub(crate) fn ts_base_sendmsg_rest(
        sk: *mut Sock,
        msg: *mut Msg,
        size: usize,
        disconnects: u32,
        force: bool,
        starved: *mut bool,
    ) -> c_int;
    pub(crate) fn ts_tcp_has_room(sk: *mut Sock) -> bool;
    /// Sleeps for the socket's lock and page faults only.
    pub(crate) fn ts_base_recvmsg_nowait(
        sk: *mut Sock,
        msg: *mut Msg,
        len: usize,
        flags: c_int,
    ) -> c_int;
    pub(crate) fn ts_base_peek_nowait(
        sk: *mut Sock,
        msg: *mut Msg,
        len: usize,
        flags: c_int,
        offset: c_int,
    ) -> c_int;
    /// Where control messages go: to be kept before the first base call, and put back before each later one.
    pub(crate) fn ts_control_of(msg: *const Msg) -> Control;
    pub(crate) fn ts_control_reset(msg: *mut Msg, control: Control);
    pub(crate) fn ts_base_stream_memory_free(sk: *const Sock, wake: c_int) -> bool;
    /// Negative: `SO_PEEK_OFF` is off.
    pub(crate) fn ts_peek_off(sk: *const Sock) -> c_int;
    pub(crate) fn ts_peek_off_move(sk: *mut Sock, bytes: c_int, peek: bool);
    pub(crate) fn ts_recv_extras(sk: *const Sock, msg: *const Msg) -> u32;
    pub(crate) fn ts_put_inq(sk: *mut Sock, msg: *mut Msg, inq: c_int, control: Control);

    /// Appends a copy. Sleeps; false without memory.
    pub(crate) fn ts_queue_add(queue: *mut Queue, from: *const u8, len: usize) -> bool;
    pub(crate) fn ts_queue_free(queue: *mut Queue);
    /// 0, or a negative errno and nothing has changed; -ESTALE: not that connection any more. Takes the socket's lock; sleeps.
    pub(crate) fn ts_queue_insert(
        sk: *mut Sock,
        queue: *mut Queue,
        disconnects: u32,
        bytes: u32,
        border: u32,
        sent: u64,
        received: u64,
        how: c_uint,
    ) -> c_int;

    /// Bytes that are in the pipe now, whose lock the caller holds, or a negative errno. Sleeps.
    pub(crate) fn ts_pipe_add(pipe: *mut Pipe, from: *const u8, len: usize, lend: bool) -> c_long;
    /// Should that many bytes be lent?
    pub(crate) fn ts_pipe_lends(len: usize) -> bool;
    /// The chunk is given back. Full barrier after the look.
    pub(crate) fn ts_chunk_is_lent(chunk: *const u8) -> bool;
    /// As `ts_base_recvmsg_nowait`, into the pipe, whose lock the caller holds; -ENOBUFS if that is full.
    pub(crate) fn ts_pipe_base_recv(sk: *mut Sock, pipe: *mut Pipe, len: usize) -> c_long;

    /// Puts `current` on the socket's wait queue, ready to sleep; full barrier. `wait` stays put until `ts_wait_end`.
    pub(crate) fn ts_wait_begin(sk: *mut Sock, wait: *mut Wait);
    /// Sleeps outside the read section that keeps endpoints: the caller has a reference to its pair. Returns the jiffies left.
    pub(crate) fn ts_sleep(call: *mut Call, timeout: c_long) -> c_long;
    pub(crate) fn ts_wait_end(sk: *mut Sock, wait: *mut Wait);
    pub(crate) fn ts_rcvtimeo(sk: *const Sock) -> c_long;
    pub(crate) fn ts_sndtimeo(sk: *const Sock) -> c_long;
    pub(crate) fn ts_rcvlowat(sk: *const Sock, waitall: bool, len: c_int) -> c_int;
    pub(crate) fn ts_signal_pending() -> bool;
    /// A negative errno.
    pub(crate) fn ts_intr_errno(timeout: c_long) -> c_int;
    pub(crate) fn ts_set_nospace(sk: *mut Sock);
    /// The caller is ready to sleep. Full barrier.
    pub(crate) fn ts_wake_at_acknowledgements(sk: *mut Sock);
    /// The errno to return; raises SIGPIPE where due.
    pub(crate) fn ts_stream_error(sk: *mut Sock, flags: c_int, err: c_int) -> c_int;
    pub(crate) fn ts_wake_writers(sk: *mut Sock);
    /// After a publication. The slot is null or holds a socket that lives until a grace period after it was cleared. True if somebody
    /// was woken.
    pub(crate) fn ts_notify_readable(slot: *const AtomicPtr<Sock>) -> bool;
    pub(crate) fn ts_notify_writeable(slot: *const AtomicPtr<Sock>);
    pub(crate) fn ts_tcp_would_hold(
        from: *const AtomicPtr<Sock>,
        to: *const AtomicPtr<Sock>,
    ) -> u64;
    pub(crate) fn ts_stall_jiffies() -> c_long;
    pub(crate) fn ts_end_jiffies() -> c_long;
    pub(crate) fn ts_wake_ahead(slot: *const AtomicPtr<Sock>, pollers: bool) -> bool;
    pub(crate) fn ts_is_in_a_batch() -> bool;
    /// Full barrier first.
    pub(crate) fn ts_base_reader_asleep(slot: *const AtomicPtr<Sock>) -> bool;
    pub(crate) fn ts_kick_base_reader(sk: *mut Sock);
    pub(crate) fn ts_busy_poll_us(sk: *const Sock) -> u32;
    pub(crate) fn ts_clock_us() -> u64;
    pub(crate) fn ts_coarse_clock_us() -> u64;
    pub(crate) fn ts_must_stop_spinning() -> bool;
    pub(crate) fn ts_is_alone_here() -> bool;
    pub(crate) fn ts_spin_us() -> u32;
    pub(crate) fn ts_cpu() -> u32;

    pub(crate) fn ts_stat_add(counter: c_uint, value: u64);
    pub(crate) fn ts_stat_sum(counter: c_uint) -> u64;
    pub(crate) fn ts_seq_line(seq: *mut SeqFile, name: *const c_char, name_len: usize, value: u64);
    pub(crate) fn ts_seq_word(seq: *mut SeqFile, word: *const c_char, len: usize);
    /// The name ends with NUL.
    pub(crate) fn ts_seq_number(seq: *mut SeqFile, name: *const c_char, value: u64);
    pub(crate) fn ts_ring_kbytes() -> u32;
    /// Waits a moment, now and then. Any context.
    #[cfg(ts_checked)]
    pub(crate) fn ts_delay(point: c_uint);
    pub(crate) fn ts_bug() -> !;
}
