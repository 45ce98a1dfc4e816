// SPDX-License-Identifier: GPL-2.0-only
/* Forwards from Rust to the kernel: one line each where possible, no decisions. Contracts are in src/ffi.rs. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/random.h>
#include <linux/sizes.h>
#include <linux/uio.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

static_assert(TS_MSG_OOB == MSG_OOB);
static_assert(TS_MSG_PEEK == MSG_PEEK);
static_assert(TS_MSG_TRUNC == MSG_TRUNC);
static_assert(TS_MSG_DONTWAIT == MSG_DONTWAIT);
static_assert(TS_MSG_WAITALL == MSG_WAITALL);
static_assert(TS_MSG_ERRQUEUE == MSG_ERRQUEUE);

/* ---- what send and receive see of their own socket ---- */

#define TS_RX_STAMPS (SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_RAW_HARDWARE | \
		      SOF_TIMESTAMPING_RX_HARDWARE)

/*
 * The other end's reader is somebody else now (ts_is_taken()), or wants to filter packets, or to know when they came. Or it has shut
 * down both ways: TCP answers what it is still sent with a reset (tcp_rcv_state_process()).
 */
static bool ts_peer_wants_packets(struct sock *const *slot)
{
	const struct sock *sk;
	bool wants;

	rcu_read_lock();
	sk = READ_ONCE(*slot);
	wants = sk && (ts_is_taken(sk) || rcu_access_pointer(sk->sk_filter) || sock_flag(sk, SOCK_RCVTSTAMP) ||
		       READ_ONCE(sk->sk_shutdown) == SHUTDOWN_MASK || (READ_ONCE(sk->sk_tsflags) & TS_RX_STAMPS));
	rcu_read_unlock();
	return wants;
}

/* OPT_ID counts the bytes of the stream as TCP numbers them: none may pass it by. */
#define TS_TX_STAMPS (SOF_TIMESTAMPING_TX_RECORD_MASK | SOF_TIMESTAMPING_OPT_ID)

/*
 * Flags of struct tcp_sock that share a byte with others: TCP changes those, under the socket's lock, while one is read here without. The one
 * that is read stays what it is meanwhile, since nobody writes the byte but as a whole.
 */
#define ts_tcp_flag(sk, flag) data_race((bool)tcp_sk(sk)->flag)

__ts_spliced u64 ts_tx_view(const struct sock *sk, struct sock *const *peer)
{
	u32 flags = 0;

	if (unlikely(READ_ONCE(sk->sk_err)))
		flags |= TS_TX_ERR;
	if (unlikely(READ_ONCE(sk->sk_shutdown) & SEND_SHUTDOWN))
		flags |= TS_TX_SHUT;
	if (unlikely((1 << inet_sk_state_load(sk)) & ~(TCPF_ESTABLISHED | TCPF_CLOSE_WAIT)))
		flags |= TS_TX_STATE;
	if (unlikely((READ_ONCE(sk->sk_tsflags) & TS_TX_STAMPS) || READ_ONCE(sk->sk_bpf_cb_flags) || ts_tcp_flag(sk, repair) ||
		     READ_ONCE(sk->sk_allocation) != GFP_KERNEL || ts_peer_wants_packets(peer)))
		flags |= TS_TX_TCP_ONLY;
	if (unlikely(READ_ONCE(sk->sk_write_pending)))
		flags |= TS_TX_PENDING;
	if (unlikely(READ_ONCE(tcp_sk(sk)->snd_una) != READ_ONCE(tcp_sk(sk)->write_seq)))
		flags |= TS_TX_UNACKED;
	return (u64)flags << 32 | READ_ONCE(tcp_sk(sk)->write_seq);
}

/*
 * Is there nothing in ts_tx_view() that keeps a message out of a ring that is in use, and write_seq at @border? The usual case in few
 * branches; false where it does not know. What ts_peer_wants_packets() asks is asked here, too.
 *
 * Process context, the lane's send lock held. The socket is the caller's own, the other end's lives until rcu_read_unlock(), see
 * ts_notify_readable().
 */
__ts_spliced bool ts_tx_is_quiet(const struct sock *sk, struct sock *const *peer, u32 border)
{
	const struct sock *to;
	unsigned long odd;

	odd = READ_ONCE(sk->sk_err) | (READ_ONCE(sk->sk_shutdown) & SEND_SHUTDOWN) | (inet_sk_state_load(sk) ^ TCP_ESTABLISHED);
	odd |= (READ_ONCE(sk->sk_tsflags) & TS_TX_STAMPS) | READ_ONCE(sk->sk_bpf_cb_flags) | ts_tcp_flag(sk, repair);
	odd |= (READ_ONCE(sk->sk_allocation) ^ GFP_KERNEL) | (READ_ONCE(tcp_sk(sk)->write_seq) ^ border);
	rcu_read_lock();
	to = READ_ONCE(*peer);
	if (likely(to))
		odd |= ((unsigned long)READ_ONCE(to->sk_data_ready) ^ (unsigned long)ts_default.data_ready) |
		       (unsigned long)rcu_access_pointer(to->sk_filter) | (READ_ONCE(to->sk_flags) & BIT(SOCK_RCVTSTAMP)) |
		       READ_ONCE(to->sk_shutdown) | (READ_ONCE(to->sk_tsflags) & TS_RX_STAMPS);
	else
		odd = 1;
	rcu_read_unlock();
	return !odd;
}

__ts_spliced void ts_rx_view(const struct sock *sk, struct ts_rx_view *view)
{
	const struct tcp_sock *tp = tcp_sk(sk);
	u32 flags = 0;

	if (unlikely(READ_ONCE(sk->sk_shutdown) & RCV_SHUTDOWN))
		flags |= TS_RX_SHUT;
	if (unlikely(inet_sk_state_load(sk) == TCP_CLOSE))
		flags |= TS_RX_CLOSE;
	if (unlikely(sock_flag(sk, SOCK_DONE)))
		flags |= TS_RX_DONE;
	/* Pairs with the barrier in tcp_done_with_error(): whoever sees its state or shutdown sees its error. */
	smp_rmb();
	if (unlikely(READ_ONCE(sk->sk_err)))
		flags |= TS_RX_ERR;
	view->flags = flags;
	view->disconnects = READ_ONCE(sk->sk_disconnects);
	/* End of stream and errors first: what was queued before them is seen below. */
	smp_rmb();
	view->received = READ_ONCE(tp->rcv_nxt);
	view->copied = READ_ONCE(tp->copied_seq);
	if (unlikely(READ_ONCE(tp->urg_data)) && READ_ONCE(tp->urg_seq) == view->copied)
		view->flags |= TS_RX_URGENT;
	/* TCP before the lane: see core::handoff::next(). */
	smp_rmb();
}

/* What tcp_recvmsg_locked() answers when it finds no bytes, in its order; it reads none. */
int ts_rx_end(struct sock *sk)
{
	int err = -EAGAIN;

	lock_sock(sk);
	if (sock_flag(sk, SOCK_DONE))
		err = 0;
	else if (sk->sk_err)
		err = sock_error(sk);
	else if (sk->sk_shutdown & RCV_SHUTDOWN)
		err = 0;
	else if (sk->sk_state == TCP_CLOSE)
		err = -ENOTCONN;
	release_sock(sk);
	return err;
}

__ts_spliced u32 ts_disconnects(const struct sock *sk)
{
	return READ_ONCE(sk->sk_disconnects);
}

/* The first sequence number that is not acknowledged. */
u32 ts_acknowledged(const struct sock *sk)
{
	return READ_ONCE(tcp_sk(sk)->snd_una);
}

/* May a blocking call wait for as long as it takes, and does TCP send what it has? A corked tail stays where it is. */
bool ts_is_patient(const struct sock *sk)
{
	return sock_sndtimeo(sk, false) == MAX_SCHEDULE_TIMEOUT && !data_race(tcp_sk(sk)->nonagle & TCP_NAGLE_CORK);
}

int ts_tcp_inq(struct sock *sk)
{
	return tcp_inq(sk);
}

/* ---- endpoint and socket ---- */

__ts_spliced void ts_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

__ts_spliced void ts_sock_put(struct sock *sk)
{
	sock_put(sk);
}

__ts_spliced void ts_lock_sock(struct sock *sk)
{
	lock_sock(sk);
}

__ts_spliced void ts_release_sock(struct sock *sk)
{
	release_sock(sk);
}

/* Makes the coming base close() send a reset, as it does when it finds unread bytes of its own. */
void ts_linger_reset(struct sock *sk)
{
	lock_sock(sk);
	sock_set_flag(sk, SOCK_LINGER);
	WRITE_ONCE(sk->sk_lingertime, 0);
	release_sock(sk);
}

/* ---- the registry's locks and hash ---- */

static u64 ts_registry_key __ro_after_init;

/*
 * A set's lock is that of the bucket in which the endpoints of its connections stand: to be put up or joined and to be found by drains takes one.
 *
 * Never taken in a hard interrupt: to keep all of them out is cheaper than to let softirqs in again.
 */
__ts_offered unsigned long ts_registry_lock(unsigned int set)
{
	unsigned long flags;

	spin_lock_irqsave(&ts_bucket_of_set(set)->lock, flags);
	return flags;
}

__ts_offered void ts_registry_unlock(unsigned int set, unsigned long flags)
{
	spin_unlock_irqrestore(&ts_bucket_of_set(set)->lock, flags);
}

/*
 * Multiply-shift, by an odd number that nobody knows (Dietzfelbinger et al., A reliable randomized algorithm for the closest-pair problem, 1997):
 * the upper bits are good. Sequence numbers are the kernel's choice, and a flood takes no more than its namespace's share of a set.
 */
__ts_offered u32 ts_registry_hash(u32 active_seq, u32 passive_seq)
{
	return (((u64)active_seq << 32 | passive_seq) * ts_registry_key) >> 32;
}

void __init ts_registry_init(void)
{
	ts_registry_key = get_random_u64() | 1;
}

/* ---- bytes ---- */

void ts_iov_iter_revert(struct msghdr *msg, size_t bytes)
{
	iov_iter_revert(&msg->msg_iter, bytes);
}

int ts_base_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)
{
	return tcp_prot.sendmsg(sk, msg, size);
}

/* Would base sendmsg find room? */
bool ts_tcp_has_room(struct sock *sk)
{
	return READ_ONCE(sk->sk_wmem_queued) < READ_ONCE(sk->sk_sndbuf) && tcp_stream_memory_free(sk, 0);
}

/* A socket's buffer is not made to hold more than this beyond its limit. */
#define TS_FORCE_MAX (16U << 20)

/*
 * Base sendmsg for the rest of a message, some of which was sent already: it does not wait, raises no signal, and an error that it would
 * take off the socket stays for the next call. @force: whatever TCP's buffer has room for, so that the call can end. -EPIPE also when the
 * connection that @disconnects is of has ended. @starved: it was not room in the buffer that was missing.
 */
int ts_base_sendmsg_rest(struct sock *sk, struct msghdr *msg, size_t size, u32 disconnects, bool force, bool *starved)
{
	unsigned int flags = msg->msg_flags;
	struct tcp_sock *tp = tcp_sk(sk);
	int sndbuf, err, sent = -EPIPE;
	u32 lowat;

	*starved = false;
	msg->msg_flags |= MSG_DONTWAIT | MSG_NOSIGNAL;
	lock_sock(sk);
	force &= (u64)sk->sk_wmem_queued + size <= TS_FORCE_MAX;
	if (sk->sk_disconnects != disconnects)
		goto out;
	sndbuf = sk->sk_sndbuf;
	lowat = tp->notsent_lowat;
	err = sk->sk_err;
	if (force) {
		/* Segments cost more than their bytes, small ones a multiple. */
		WRITE_ONCE(sk->sk_sndbuf, max_t(int, sndbuf, sk->sk_wmem_queued + 4 * (int)size + SZ_1M));
		WRITE_ONCE(tp->notsent_lowat, UINT_MAX);
	}
	sent = tcp_sendmsg_locked(sk, msg, size);
	if (force) {
		WRITE_ONCE(sk->sk_sndbuf, sndbuf);
		WRITE_ONCE(tp->notsent_lowat, lowat);
	}
	if (sent < 0 && err && !sk->sk_err)
		WRITE_ONCE(sk->sk_err, err);
	/* Now, since releasing the lock may make room. */
	*starved = sent != size && ts_tcp_has_room(sk);
out:
	release_sock(sk);
	msg->msg_flags = flags;
	return sent;
}

/* Base recvmsg as a part of ours: the control messages of the last one count, as if it had been the only one. */
__ts_spliced int ts_base_recvmsg_nowait(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	return ts_call_recvmsg(sk, msg, len, flags | MSG_DONTWAIT);
}

__ts_spliced struct ts_control ts_control_of(const struct msghdr *msg)
{
	return (struct ts_control) { .at = msg->msg_control, .len = msg->msg_controllen };
}

__ts_spliced void ts_control_reset(struct msghdr *msg, struct ts_control control)
{
	msg->msg_control = control.at;
	msg->msg_controllen = control.len;
}

/*
 * Base recvmsg with MSG_PEEK, from @offset bytes into its queue. Its own way to say so is SO_PEEK_OFF, lent for the call and then put
 * back, moved as by any peek. Callers hold the lane's receive lock; setsockopt(SO_PEEK_OFF) at the same moment may be lost or win.
 */
int ts_base_peek_nowait(struct sock *sk, struct msghdr *msg, size_t len, int flags, int offset)
{
	int old = READ_ONCE(sk->sk_peek_off);
	int copied;

	WRITE_ONCE(sk->sk_peek_off, offset);
	copied = ts_base_recvmsg_nowait(sk, msg, len, flags);
	WRITE_ONCE(sk->sk_peek_off, old >= 0 && copied > 0 ? old + copied : old);
	return copied;
}

bool ts_base_stream_memory_free(const struct sock *sk, int wake)
{
	return tcp_stream_memory_free(sk, wake);
}

int ts_peek_off(const struct sock *sk)
{
	return READ_ONCE(sk->sk_peek_off);
}

void ts_peek_off_move(struct sock *sk, int bytes, bool peek)
{
	if (peek)
		sk_peek_offset_fwd(sk, bytes);
	else
		sk_peek_offset_bwd(sk, bytes);
}

__ts_spliced u32 ts_recv_extras(const struct sock *sk, const struct msghdr *msg)
{
	u32 extras = 0;

	if (unlikely(msg->msg_get_inq || ts_tcp_flag(sk, recvmsg_inq)))
		extras |= TS_EXTRA_INQ;
	if (unlikely(READ_ONCE(sk->sk_peek_off) >= 0))
		extras |= TS_EXTRA_PEEK_OFF;
	return extras;
}

/* Undoes the last control message that base put behind @control, if it is TCP_CM_INQ and can be undone. */
static bool ts_undo_inq(struct msghdr *msg, struct ts_control control)
{
	const ssize_t space = CMSG_SPACE(sizeof(int));
	struct cmsghdr __user *last = msg->msg_control_user - space;
	int level, type;

	if (!msg->msg_control_is_user || (msg->msg_flags & MSG_CMSG_COMPAT) || msg->msg_control - control.at < space)
		return false;
	if (get_user(level, &last->cmsg_level) || get_user(type, &last->cmsg_type) || level != SOL_TCP || type != TCP_CM_INQ)
		return false;
	msg->msg_control_user = last;
	msg->msg_controllen += space;
	return true;
}

/*
 * In place of what base may have said since @control, but behind its receive timestamps. Where that is not possible base's answer stays,
 * which does not count the ring's bytes.
 */
void ts_put_inq(struct sock *sk, struct msghdr *msg, int inq, struct ts_control control)
{
	msg->msg_inq = inq;
	if (!ts_tcp_flag(sk, recvmsg_inq))
		return;
	if (msg->msg_control != control.at && !ts_undo_inq(msg, control)) {
		if (sock_flag(sk, SOCK_RCVTSTAMP) || (READ_ONCE(sk->sk_tsflags) & TS_RX_STAMPS))
			return;
		ts_control_reset(msg, control);
	}
	put_cmsg(msg, SOL_TCP, TCP_CM_INQ, sizeof(inq), &inq);
}

void ts_bug(void)
{
	BUG();
}
