// SPDX-License-Identifier: GPL-2.0-only
/* Forwards from Rust to the kernel: one line each where possible, no decisions. Contracts are in src/ffi.rs. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/filter.h>
#include <linux/inetdevice.h>
#include <linux/if_bridge.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/siphash.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/user_namespace.h>
#include <linux/wait.h>
#include <net/busy_poll.h>
#include <net/psp.h>
#include <net/rtnetlink.h>
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
static_assert(sizeof(struct wait_queue_entry) <= sizeof(struct ts_wait));

/* ---- what the kfunc sees of a socket ---- */

/* Only loopback, veth and a bridge lead from one socket of this host to another; everything else is at best a detour. */
static bool ts_device_is_local(const struct sock *sk, const struct sk_buff *skb)
{
	struct net_device *dev = dev_get_by_index_rcu(sock_net(sk), skb->skb_iif);

	if (!dev)
		return false;
	return (dev->flags & IFF_LOOPBACK) || netif_is_bridge_master(dev) ||
	       (dev->rtnl_link_ops && !strcmp(dev->rtnl_link_ops->kind, "veth"));
}

static u32 ts_handshake_obstacles(const struct bpf_sock_ops_kern *ctx)
{
	const struct tcp_sock *tp = tcp_sk(ctx->sk);
	bool passive = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
	u32 obstacles = 0;

	if (!ctx->skb || tp->repair || tp->syn_fastopen || tp->syn_data || tp->fastopen_req ||
	    rcu_access_pointer(tp->fastopen_rsk))
		obstacles |= TS_OBSTACLE_HANDSHAKE;
	if (ctx->sk->sk_state != (passive ? TCP_SYN_RECV : TCP_ESTABLISHED))
		obstacles |= TS_OBSTACLE_HANDSHAKE;
	/* Crossed SYNs: a descriptor exists already, and somebody may sleep on it. */
	if (passive && ctx->sk->sk_socket)
		obstacles |= TS_OBSTACLE_HANDSHAKE;
	if (tp->urg_data)
		obstacles |= TS_OBSTACLE_URGENT;
	if (ctx->skb && !ts_device_is_local(ctx->sk, ctx->skb))
		obstacles |= TS_OBSTACLE_REMOTE;
	return obstacles;
}

static u32 ts_policy_obstacles(const struct sock *sk)
{
	bool found = rcu_access_pointer(sk->sk_filter);

#ifdef CONFIG_TCP_MD5SIG
	found |= !!rcu_access_pointer(tcp_sk(sk)->md5sig_info);
#endif
#ifdef CONFIG_TCP_AO
	found |= !!rcu_access_pointer(tcp_sk(sk)->ao_info);
#endif
#ifdef CONFIG_XFRM
	found |= rcu_access_pointer(sk->sk_policy[0]) || rcu_access_pointer(sk->sk_policy[1]);
	found |= __sk_dst_get(sk) && dst_xfrm(__sk_dst_get(sk));
#endif
#if IS_ENABLED(CONFIG_INET_PSP)
	found |= !!rcu_access_pointer(sk->psp_assoc);
#endif
	return found ? TS_OBSTACLE_POLICY : 0;
}

static u32 ts_multipath_obstacles(const struct sock *sk)
{
	bool found = sk_is_mptcp(sk);

#if IS_ENABLED(CONFIG_SMC)
	found |= tcp_sk(sk)->syn_smc;
#endif
	return found ? TS_OBSTACLE_MULTIPATH : 0;
}

void ts_facts(const struct bpf_sock_ops_kern *ctx, struct ts_facts *facts)
{
	const struct sock *sk = ctx->sk;

	*facts = (struct ts_facts) { .sk = ctx->sk };
	if ((ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) ||
	    !ctx->is_fullsock || !ctx->is_locked_tcp_sock) {
		facts->obstacles = TS_OBSTACLE_CALLBACK;
		return;
	}
	if (sk->sk_type != SOCK_STREAM || sk->sk_protocol != IPPROTO_TCP || sk->sk_kern_sock ||
	    !ts_proto_is_base(sk)) {
		facts->obstacles = TS_OBSTACLE_NOT_PLAIN;
		return;
	}
	facts->obstacles = ts_handshake_obstacles(ctx) | ts_policy_obstacles(sk) | ts_multipath_obstacles(sk);
	if (!ts_slots_are_free(sk) || !ts_callbacks_are_default(sk))
		facts->obstacles |= TS_OBSTACLE_TAKEN;
	facts->netns = (unsigned long)sock_net(sk);
	facts->init_user_ns = sock_net(sk)->user_ns == &init_user_ns;
	facts->passive = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
	facts->write_seq = tcp_sk(sk)->write_seq;
	facts->rcv_nxt = tcp_sk(sk)->rcv_nxt;
	facts->txhash = sk->sk_txhash;
	if (ctx->skb && ctx->skb->l4_hash && !ctx->skb->sw_hash) {
		facts->peer_hash = ctx->skb->hash;
		facts->has_peer_hash = 1;
	}
}

/* ---- what send and receive see of their own socket ---- */

/* The other end's reader is somebody else now (ts_is_taken()), or wants to filter packets, or to know when they came. */
static bool ts_peer_wants_packets(struct sock *const *slot)
{
	const struct sock *sk;
	bool wants;

	rcu_read_lock();
	sk = READ_ONCE(*slot);
	wants = sk && (ts_is_taken(sk) || rcu_access_pointer(sk->sk_filter) || sock_flag(sk, SOCK_RCVTSTAMP) ||
		       (READ_ONCE(sk->sk_tsflags) & (SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE |
						     SOF_TIMESTAMPING_RAW_HARDWARE | SOF_TIMESTAMPING_RX_HARDWARE)));
	rcu_read_unlock();
	return wants;
}

u64 ts_tx_view(const struct sock *sk, struct sock *const *peer)
{
	u32 flags = 0;

	if (unlikely(READ_ONCE(sk->sk_err)))
		flags |= TS_TX_ERR;
	if (unlikely(READ_ONCE(sk->sk_shutdown) & SEND_SHUTDOWN))
		flags |= TS_TX_SHUT;
	if (unlikely((1 << inet_sk_state_load(sk)) & ~(TCPF_ESTABLISHED | TCPF_CLOSE_WAIT)))
		flags |= TS_TX_STATE;
	if (unlikely((READ_ONCE(sk->sk_tsflags) & SOF_TIMESTAMPING_TX_RECORD_MASK) || sk->sk_bpf_cb_flags ||
		     tcp_sk(sk)->repair || sk->sk_allocation != GFP_KERNEL || ts_peer_wants_packets(peer)))
		flags |= TS_TX_TCP_ONLY;
	if (unlikely(READ_ONCE(sk->sk_write_pending)))
		flags |= TS_TX_PENDING;
	if (unlikely(READ_ONCE(tcp_sk(sk)->snd_una) != READ_ONCE(tcp_sk(sk)->write_seq)))
		flags |= TS_TX_UNACKED;
	return (u64)flags << 32 | READ_ONCE(tcp_sk(sk)->write_seq);
}

void ts_rx_view(const struct sock *sk, struct ts_rx_view *view)
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

u32 ts_disconnects(const struct sock *sk)
{
	return READ_ONCE(sk->sk_disconnects);
}

int ts_tcp_inq(struct sock *sk)
{
	return tcp_inq(sk);
}

/* ---- endpoint and socket ---- */

void ts_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void ts_sock_put(struct sock *sk)
{
	sock_put(sk);
}

void ts_lock_sock(struct sock *sk)
{
	lock_sock(sk);
}

void ts_release_sock(struct sock *sk)
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

/* ---- the registry's lock and hash ---- */

static DEFINE_SPINLOCK(ts_registry);
static siphash_key_t ts_registry_key __read_mostly;

void ts_registry_lock(void)
{
	spin_lock_bh(&ts_registry);
}

void ts_registry_unlock(void)
{
	spin_unlock_bh(&ts_registry);
}

u64 ts_registry_hash(u64 key)
{
	net_get_random_once(&ts_registry_key, sizeof(ts_registry_key));
	return siphash_1u64(key, &ts_registry_key);
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

int ts_base_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	return ts_call_recvmsg(sk, msg, len, flags);
}

/*
 * Base recvmsg as a part of ours. It fills in TCP_INQ by its own knowledge; ours knows more and does it at the end, so what it
 * wrote is taken back. Receive timestamps share the control buffer: with them on, its own answer stays.
 */
int ts_base_recvmsg_nowait(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	bool mine = tcp_sk(sk)->recvmsg_inq && !sock_flag(sk, SOCK_RCVTSTAMP);
	size_t controllen = msg->msg_controllen;
	void *control = msg->msg_control;
	int copied = ts_call_recvmsg(sk, msg, len, flags | MSG_DONTWAIT);

	if (mine) {
		msg->msg_controllen = controllen;
		msg->msg_control = control;
	}
	return copied;
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

u32 ts_recv_extras(const struct sock *sk, const struct msghdr *msg)
{
	u32 extras = 0;

	if (unlikely(msg->msg_get_inq || (tcp_sk(sk)->recvmsg_inq && !sock_flag(sk, SOCK_RCVTSTAMP))))
		extras |= TS_EXTRA_INQ;
	if (unlikely(READ_ONCE(sk->sk_peek_off) >= 0))
		extras |= TS_EXTRA_PEEK_OFF;
	return extras;
}

void ts_put_inq(struct sock *sk, struct msghdr *msg, int inq)
{
	msg->msg_inq = inq;
	if (tcp_sk(sk)->recvmsg_inq && !sock_flag(sk, SOCK_RCVTSTAMP))
		put_cmsg(msg, SOL_TCP, TCP_CM_INQ, sizeof(inq), &inq);
}

/* ---- waiting, waking, spinning ---- */

void ts_wait_begin(struct sock *sk, struct ts_wait *wait)
{
	struct wait_queue_entry *entry = (struct wait_queue_entry *)wait;

	init_wait(entry);
	prepare_to_wait(sk_sleep(sk), entry, TASK_INTERRUPTIBLE);
}

long ts_schedule_timeout(long timeout)
{
	return schedule_timeout(timeout);
}

void ts_wait_end(struct sock *sk, struct ts_wait *wait)
{
	finish_wait(sk_sleep(sk), (struct wait_queue_entry *)wait);
}

long ts_rcvtimeo(const struct sock *sk)
{
	return sock_rcvtimeo(sk, false);
}

long ts_sndtimeo(const struct sock *sk)
{
	return sock_sndtimeo(sk, false);
}

int ts_rcvlowat(const struct sock *sk, bool waitall, int len)
{
	return sock_rcvlowat(sk, waitall, len);
}

bool ts_signal_pending(void)
{
	return signal_pending(current);
}

int ts_intr_errno(long timeout)
{
	return sock_intr_errno(timeout);
}

/* The writer's half of the SOCK_NOSPACE protocol (tcp_poll(), sk_stream_wait_memory()). */
void ts_set_nospace(struct sock *sk)
{
	struct socket *sock = READ_ONCE(sk->sk_socket);

	if (!sock)
		return;
	sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
	set_bit(SOCK_NOSPACE, &sock->flags);
	smp_mb__after_atomic();
}

int ts_stream_error(struct sock *sk, int flags, int err)
{
	return sk_stream_error(sk, flags, err);
}

void ts_wake_writers(struct sock *sk)
{
	wake_up_interruptible_poll(sk_sleep(sk), EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
}

/*
 * The other end's socket: @slot is cleared before its last reference is dropped a grace period later, and its wait queue is
 * freed by RCU, so both are good to use until rcu_read_unlock().
 *
 * The caller published with a read-modify-write that returned a value; that orders it before waitqueue_active() where
 * smp_mb__after_atomic() is a compiler barrier, and this is the full barrier elsewhere. Pairs with set_current_state() in
 * prepare_to_wait() and with the one in sock_poll_wait().
 */
void ts_notify_readable(struct sock *const *slot)
{
	struct socket_wq *wq;
	struct sock *sk;

	smp_mb__after_atomic();
	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (likely(sk)) {
		wq = rcu_dereference(sk->sk_wq);
		/* A foreign callback would want the socket's lock; its owner reads TCP only, and the next send() sees it. */
		if (wq && (waitqueue_active(&wq->wait) || wq->fasync_list) && !ts_is_taken(sk))
			READ_ONCE(sk->sk_data_ready)(sk);
	}
	rcu_read_unlock();
}

void ts_notify_writeable(struct sock *const *slot)
{
	struct sock *sk;

	struct socket_wq *wq;

	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (sk) {
		READ_ONCE(sk->sk_write_space)(sk);
		/* That one does nothing while TCP's own buffer is full, or a turn is taken; senders into the ring sleep here too. */
		wq = rcu_dereference(sk->sk_wq);
		if (unlikely(!__sk_stream_is_writeable(sk, 1)) && skwq_has_sleeper(wq))
			wake_up_interruptible_poll(&wq->wait, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
	}
	rcu_read_unlock();
}

/*
 * What TCP would take from @from before it stops, if @to does not read: both buffers. Until somebody fixes its size, the sender's
 * grows with what it sends (tcp_sndbuf_expand()), the receiver's only with what is read (tcp_rcv_space_adjust()).
 */
u64 ts_tcp_would_hold(struct sock *const *from, struct sock *const *to)
{
	const struct sock *sender, *receiver;
	u64 bytes = 0;

	rcu_read_lock();
	sender = READ_ONCE(*from);
	receiver = READ_ONCE(*to);
	if (sender && receiver)
		bytes = (u64)READ_ONCE(receiver->sk_rcvbuf) +
			(sender->sk_userlocks & SOCK_SNDBUF_LOCK ? READ_ONCE(sender->sk_sndbuf) :
			 READ_ONCE(sock_net(sender)->ipv4.sysctl_tcp_wmem[2]));
	rcu_read_unlock();
	return bytes;
}

/* About STALL_US of send.rs. */
long ts_stall_jiffies(void)
{
	return msecs_to_jiffies(10);
}

/*
 * Nothing has happened yet, but soon will. Pollers are woken without a key, so that they look for themselves before they believe it
 * (io_uring's poll takes a key's word); else with a key that none of them asks for. False: nobody was there.
 */
bool ts_wake_ahead(struct sock *const *slot, bool pollers)
{
	struct socket_wq *wq;
	bool found = false;
	struct sock *sk;

	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (sk) {
		wq = rcu_dereference(sk->sk_wq);
		found = wq && waitqueue_active(&wq->wait);
		if (found)
			__wake_up(&wq->wait, TASK_INTERRUPTIBLE, 1, pollers ? NULL : poll_to_key(EPOLLMSG));
	}
	rcu_read_unlock();
	return found;
}

static DEFINE_PER_CPU(unsigned long, ts_last_batch);

/*
 * Has this thread not slept since it asked last? It has other work at hand, then, and is not alone in this. Two threads that share a
 * processor, or one that changes it, get the other answer: a hint.
 */
bool ts_is_in_a_batch(void)
{
	unsigned long now = (unsigned long)current + current->nvcsw;

	return this_cpu_xchg(ts_last_batch, now) == now;
}

/* Does a thread sleep inside base recvmsg, splice_read or sendmsg of the other end? Only those use this wake function. */
bool ts_base_reader_asleep(struct sock *const *slot)
{
	struct wait_queue_entry *entry;
	struct socket_wq *wq = NULL;
	unsigned long flags;
	bool found = false;
	struct sock *sk;

	smp_mb();
	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (sk)
		wq = rcu_dereference(sk->sk_wq);
	if (wq) {
		spin_lock_irqsave(&wq->wait.lock, flags);
		list_for_each_entry(entry, &wq->wait.head, entry)
			found |= entry->func == woken_wake_function;
		spin_unlock_irqrestore(&wq->wait.lock, flags);
	}
	rcu_read_unlock();
	return found;
}

/*
 * Called by a lock owner that is about to let go of the socket. If it is a reader inside base code about to sleep, sleep would
 * never end for ring bytes: make it return to user space's edge and come back through us (-ERESTARTSYS without a signal).
 */
void ts_kick_base_reader(struct sock *sk)
{
	struct wait_queue_entry *entry;
	wait_queue_head_t *wait;
	struct socket_wq *wq;
	unsigned long flags;

	rcu_read_lock();
	wq = rcu_dereference(sk->sk_wq);
	wait = wq ? &wq->wait : NULL;
	/* Other sleepers use the same wake function: senders, connect(), a lingering close(). */
	if (wait && waitqueue_active(wait) && !sk->sk_write_pending && sk->sk_shutdown != SHUTDOWN_MASK &&
	    sk->sk_socket && sk->sk_socket->state != SS_CONNECTING) {
		spin_lock_irqsave(&wait->lock, flags);
		list_for_each_entry(entry, &wait->head, entry)
			if (entry->func == woken_wake_function && entry->private == current)
				set_tsk_thread_flag(current, TIF_NOTIFY_SIGNAL);
		spin_unlock_irqrestore(&wait->lock, flags);
	}
	rcu_read_unlock();
}

u32 ts_busy_poll_us(const struct sock *sk)
{
#ifdef CONFIG_NET_RX_BUSY_POLL
	return READ_ONCE(sk->sk_ll_usec);
#else
	return 0;
#endif
}

u64 ts_clock_us(void)
{
	return ktime_get_ns() >> 10;
}

bool ts_must_stop_spinning(void)
{
	return need_resched() || signal_pending(current);
}

void ts_bug(void)
{
	BUG();
}
