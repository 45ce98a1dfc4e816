// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tables that a spliced socket wears, and putting them on and off.
 *
 * Every callback here may run for a socket that is not, not yet or no longer ours (a thread loads sk->sk_prot, is preempted, and calls):
 * it looks the link up and falls to base when there is none. The tables and the text live as long as any socket that wears them, by the
 * module reference of the ULP slot or of an endpoint that is left, and as long as any thread is in here (ts_exit() in main.c); those of
 * struct socket for ever.
 *
 * Base may keep a call asleep for ever, which must not keep the module: where nothing of ours is left to do, base is called in a jump
 * (Makefile checks that the compiler made it one), and whoever sleeps there has no frame of ours under it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kmemleak.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/slab.h>
#include <linux/sockios.h>
#include <asm/ioctls.h>
#include <net/inet_common.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/transp_v6.h>

#include "delay.h"
#include "glue.h"
#include "endpoint.h"

static struct proto ts_prots[2] __ro_after_init;		/* IPv4, IPv6 */
/*
 * Of struct socket, IPv4's and IPv6's. close() and accept() fetch the table, sleep, and use it, even put it on another socket; there is no waiting for
 * them (__sock_release(), do_accept()). So these two are never freed: when the module goes they become copies of base's (ts_proto_exit()).
 */
static struct proto_ops *ts_ops __ro_after_init;
struct ts_callbacks ts_default __ro_after_init;

#if IS_ENABLED(CONFIG_IPV6)
#define TS_OPS6		(&inet6_stream_ops)
#else
#define TS_OPS6		(&inet_stream_ops)
#endif

/* Somebody has put his own callback on a spliced socket without asking (iscsi_tcp does): he will read it behind our back. */
__ts_spliced bool ts_is_taken(const struct sock *sk)
{
	return READ_ONCE(sk->sk_data_ready) != ts_default.data_ready;
}

/* ---- struct proto: data ---- */

/* TS_BASE: base is to do it. */
static noinline __ts_offered int ts_try_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)
{
	unsigned int flags = msg->msg_flags, need = TS_NEED_NOTHING;
	struct ts_endpoint *ep;
	struct ts_call call;
	unsigned long link;
	int sent = TS_BASE;

	call.section = ts_calls_enter();
	ep = ts_endpoint(sk);
	link = ep ? smp_load_acquire(&ep->link) : 0;
	if (unlikely(!link)) {
		if (ep && ts_is_overdue(ep))
			ts_give_up(sk, ep);
		goto out;
	}
	/* What only segments can carry: urgent data, control messages, fast open's errors, zero-copy completions. */
	if (unlikely(flags & MSG_OOB))
		need = TS_NEED_TCP_FOR_GOOD;
	else if (unlikely(msg->msg_controllen || (flags & MSG_FASTOPEN) ||
			  ((flags & MSG_ZEROCOPY) && !msg->msg_ubuf && sock_flag(sk, SOCK_ZEROCOPY))))
		need = TS_NEED_TCP;
	call.disconnects = ep->disconnects;
	sent = tcp_splice_sendmsg(link, sk, msg, size, flags, need, &call);
out:
	ts_calls_leave(call.section);
	return sent;
}

static __ts_jumps __ts_offered int ts_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)
{
	int sent = ts_try_sendmsg(sk, msg, size);

	return likely(sent != TS_BASE) ? sent : tcp_prot.sendmsg(sk, msg, size);
}

/* Another thread disconnects the socket at this moment, under its lock: then it has no link, or a new one. */
void ts_await_disconnect(struct sock *sk)
{
	lock_sock(sk);
	release_sock(sk);
}

static noinline int ts_recv_busy(unsigned long link, struct sock *sk, struct msghdr *msg, size_t len, int flags, struct ts_call *call)
{
	ts_napi_mark(sk);
	return tcp_splice_recvmsg(link, sk, msg, len, flags, call);
}

/* As ts_try_sendmsg(); or -ESTALE: ts_recv_anew(). Whoever needs its arguments once more has them. */
static noinline __ts_offered int ts_try_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	int copied = TS_BASE;
	struct ts_endpoint *ep;
	struct ts_call call;
	unsigned long link;

	call.section = ts_calls_enter();
	ep = ts_endpoint(sk);
	link = ep ? smp_load_acquire(&ep->link) : 0;
	if (unlikely(!link)) {
		if (ep && ts_is_overdue(ep))
			ts_give_up(sk, ep);
		goto out;
	}
	call.disconnects = ep->disconnects;
	if (unlikely(ep->busy_polls))
		copied = ts_recv_busy(link, sk, msg, len, flags, &call);
	else
		copied = tcp_splice_recvmsg(link, sk, msg, len, flags, &call);
out:
	ts_calls_leave(call.section);
	return copied;
}

/* Between two rounds it is in no section: it does not sleep there, so that ts_exit()'s second synchronize_rcu_tasks() waits for it. */
static noinline int ts_recv_anew(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	int copied;

	do {
		struct srcu_ctr __percpu *calls = ts_calls_enter();

		ts_await_disconnect(sk);
		ts_calls_leave(calls);
		copied = ts_try_recvmsg(sk, msg, len, flags);
	} while (copied == -ESTALE);
	return copied;
}

static __always_inline int ts_recv(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	int copied = ts_try_recvmsg(sk, msg, len, flags);

	return likely(copied != -ESTALE) ? copied : ts_recv_anew(sk, msg, len, flags);
}

#if TS_HAVE_RECVMSG_PLAIN
static __ts_jumps __ts_offered int ts_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	int copied = ts_recv(sk, msg, len, flags);

	return likely(copied != TS_BASE) ? copied : tcp_prot.recvmsg(sk, msg, len, flags);
}
#else
static __ts_jumps __ts_offered int ts_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len)
{
	int copied = ts_recv(sk, msg, len, flags);

	return likely(copied != TS_BASE) ? copied : tcp_prot.recvmsg(sk, msg, len, flags, addr_len);
}
#endif

static __ts_spliced bool ts_sock_is_readable(struct sock *sk)
{
	unsigned long link;
	bool readable;

	rcu_read_lock();
	link = ts_link(sk);
	readable = link && tcp_splice_readable(link, sk);
	rcu_read_unlock();
	return readable;
}

static __ts_offered bool ts_stream_memory_free(const struct sock *sk, int wake)
{
	unsigned long link;
	bool free;

	/* With 0 it is base sendmsg that asks, for TCP's own buffer; with 1 a poller, or somebody about to wake one. */
	if (!wake)
		return tcp_stream_memory_free(sk, 0);
	rcu_read_lock();
	link = ts_link(sk);
	free = link ? tcp_splice_writeable(link, sk, wake) : tcp_stream_memory_free(sk, wake);
	rcu_read_unlock();
	return free;
}

static int ts_ioctl(struct sock *sk, int cmd, int *karg)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	int err = tcp_prot.ioctl(sk, cmd, karg);
	unsigned long link = ts_link(sk);

	if (!err && cmd == SIOCINQ && link)
		*karg = tcp_splice_inq(link, sk);
	if (!err && cmd == SIOCATMARK && link && tcp_splice_ring_readable(link, sk))
		*karg = 0;	/* ring bytes come before the mark */
	ts_calls_leave(calls);
	return err;
}

/* ---- struct proto: life ---- */

static void ts_shutdown(struct sock *sk, int how)
{
	unsigned long link = ts_link(sk);

	if (link && (how & SEND_SHUTDOWN))
		tcp_splice_shutdown(link);
	ts_delay_at(shutting_down);
	tcp_prot.shutdown(sk, how);
}

/*
 * TCP is over (reset, abort, last FIN): nothing may be published any more, in either direction; what was stays readable. The
 * socket's lock is held in some shape; any context.
 */
static __ts_offered void ts_unhash(struct sock *sk)
{
	unsigned long link = ts_link(sk);

	if (link)
		tcp_splice_unhash(link);
	ts_delay_at(unhashing);
	tcp_prot.unhash(sk);
}

static noinline __ts_offered void ts_close_ring(struct sock *sk)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	struct ts_endpoint *ep = ts_endpoint(sk);

	if (ep) {
		ep->closed = true;
		tcp_splice_close(sk, (struct ts_endpoint_body *)ep->body);
	}
	ts_calls_leave(calls);
}

static __ts_jumps __ts_offered void ts_close(struct sock *sk, long timeout)
{
	ts_close_ring(sk);
	ts_delay_at(closing);
	tcp_close(sk, sock_flag(sk, SOCK_LINGER) && !sk->sk_lingertime ? 0 : timeout);
}

static noinline void ts_disconnect_ring(struct sock *sk)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	struct ts_endpoint *ep = ts_endpoint(sk);

	if (ep)
		tcp_splice_disconnect(sk, (struct ts_endpoint_body *)ep->body);
	/* A close() that is a reset: no call of this socket is left, and its destroy, which comes next, waits for none. */
	if (ep && !ep->closed)
		ts_take_off(sk, ep, true);
	else
		ts_uninstall_protocol(sk);
	ts_calls_leave(calls);
}

/* The socket's lock is held; the socket may be used again afterwards, for anything. */
static __ts_jumps int ts_disconnect(struct sock *sk, int flags)
{
	ts_disconnect_ring(sk);
	return tcp_prot.disconnect(sk, flags);
}

static const struct proto_ops *ts_base_ops(const struct sock *sk)
{
	return sk->sk_family == AF_INET6 ? TS_OPS6 : &inet_stream_ops;
}

/* Base's table, or what one of ours became when an earlier module went (ts_proto_exit()). */
static bool ts_is_base_ops(const struct proto_ops *ops, const struct proto_ops *base)
{
	return ops == base || (ops && ops->poll == base->poll && ops->splice_read == base->splice_read && ops->accept == base->accept);
}

/* False: there is no struct socket yet, or none with ops. */
static bool ts_graft(struct sock *sk)
{
	struct socket *sock = sk->sk_socket;

	if (sock && ts_is_base_ops(READ_ONCE(sock->ops), ts_base_ops(sk)))
		WRITE_ONCE(sock->ops, &ts_ops[sk->sk_family == AF_INET6]);
	return sock && sock->ops;
}

/* As tcp_release_cb_cond(), and tcp_release_cb() itself. Older kernels keep the mask to themselves. */
static bool ts_base_release_is_due(const struct sock *sk)
{
#if TS_HAVE_TCP_DEFERRED_ALL
	return smp_load_acquire(&sk->sk_tsq_flags) & TCP_DEFERRED_ALL;
#else
	return true;
#endif
}

static noinline __ts_spliced void ts_release_ours(struct sock *sk, struct ts_endpoint *ep)
{
	unsigned long link = smp_load_acquire(&ep->link);

	/* Whom base serves because somebody else has sk_user_data (ts_endpoint()) is not to be sent back here again and again. */
	if (link && likely(ep == ts_user_data(sk)))
		tcp_splice_release_cb(link, sk);
	/* An accepted socket gets its struct socket in accept(), under this lock and before its descriptor exists. */
	if (unlikely(!ep->grafted))
		ep->grafted = ts_graft(sk);
	if (unlikely(ts_base_release_is_due(sk)))
		tcp_prot.release_cb(sk);
}

/* Each release_sock() comes here, and mostly has nothing to do: no frame, and under the socket's lock the slot alone says whose it is. */
static __ts_offered void ts_release_cb(struct sock *sk)
{
	const struct inet_connection_sock *icsk = inet_csk(sk);

	if (likely(icsk->icsk_ulp_ops == &ts_ulp)) {
		struct ts_endpoint *ep = (struct ts_endpoint *)rcu_access_pointer(icsk->icsk_ulp_data);

		if (READ_ONCE(ep->link) || unlikely(!ep->grafted)) {
			ts_release_ours(sk, ep);
			return;
		}
	}
	if (unlikely(ts_base_release_is_due(sk)))
		tcp_prot.release_cb(sk);
}

/* ---- the tables and the slot ---- */

/*
 * KCSAN does not look: sk_stream_memory_free(), in which the other end may be, reads sk_prot plainly, twice, and that is base's to mark. Both
 * tables have the callback that it looks for.
 */
static __always_inline void ts_set_protocol(struct sock *sk, struct proto *prot)
{
	kcsan_disable_current();
	WRITE_ONCE(sk->sk_prot, prot);
	kcsan_enable_current();
}

/* As ts_graft(). */
static bool ts_wear_protocol(struct sock *sk)
{
	ts_set_protocol(sk, &ts_prots[sk->sk_prot != &tcp_prot]);
	return ts_graft(sk);
}

/* Under the socket's lock. Calls that are on their way into our tables fall to base by themselves. */
__ts_offered void ts_uninstall_protocol(struct sock *sk)
{
	struct socket *sock = sk->sk_socket;

	if (sk->sk_prot == &ts_prots[0])
		ts_set_protocol(sk, &tcp_prot);
	else if (sk->sk_prot == &ts_prots[1])
		ts_set_protocol(sk, TS_PROT6);
	if (sock && (sock->ops == &ts_ops[0] || sock->ops == &ts_ops[1]))
		WRITE_ONCE(sock->ops, ts_base_ops(sk));
}

/* ---- struct proto_ops ---- */

#define TS_POLL_OUT (EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND)

/*
 * tcp_poll() for a socket on which TCP is quiet: nothing queued either way, no end, error, urgent byte or low-water mark. The ring
 * alone decides then. False: not so, or @wanted asks for room and the ring has none; tcp_poll() knows what to do. What changes after a
 * look wakes the poller.
 */
static bool ts_poll_ring(const struct sock *sk, unsigned long link, __poll_t wanted, __poll_t *mask)
{
	const struct tcp_sock *tp = tcp_sk(sk);
	unsigned int ready;
	u32 received;

	if (!link || inet_sk_state_load(sk) != TCP_ESTABLISHED || READ_ONCE(sk->sk_shutdown) || READ_ONCE(sk->sk_wmem_queued) ||
	    READ_ONCE(sk->sk_rcvlowat) > 1 || READ_ONCE(tp->urg_data))
		return false;
	/* TCP before the ring: see core::handoff::Seen. */
	received = READ_ONCE(tp->rcv_nxt);
	if (received != READ_ONCE(tp->copied_seq))
		return false;
	/* As in tcp_poll(): whoever sees tcp_done_with_error()'s state or shutdown sees its error. */
	smp_rmb();
	if (READ_ONCE(sk->sk_err) || !skb_queue_empty_lockless(&sk->sk_error_queue))
		return false;
	ready = tcp_splice_poll(link, received);
	if (!(ready & TS_POLL_WRITEABLE) && wanted & TS_POLL_OUT)
		return false;
	*mask = (ready & TS_POLL_WRITEABLE ? EPOLLOUT | EPOLLWRNORM : 0) |
		(ready & TS_POLL_READABLE ? EPOLLIN | EPOLLRDNORM : 0);
	return true;
}

static __ts_spliced __poll_t ts_poll(struct file *file, struct socket *sock, struct poll_table_struct *wait)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	__poll_t wanted = poll_requested_events(wait);
	bool edges = wanted & EPOLLET;
	struct ts_endpoint *ep;
	unsigned long link;
	__poll_t mask;

	sock_poll_wait(file, sock, wait);
	ts_delay_at(registered);
	/* Afterwards: whoever takes the link away wakes those who have registered. */
	ep = ts_endpoint(sock->sk);
	link = ep ? smp_load_acquire(&ep->link) : 0;
	if (!ts_poll_ring(sock->sk, link, wanted, &mask))
		mask = tcp_poll(file, sock, NULL);	/* registered already */
	/* Tells who may be woken ahead: level-triggered pollers only. */
	if (wait && link && (edges || !(mask & wanted)) && !(wanted & POLL_BUSY_LOOP))
		tcp_splice_polled(link, edges);
	if (link && unlikely(ep->busy_polls)) {
		ts_napi_mark(sock->sk);
		/* Asked for by poll() and select(), which then look again for as long as net.core.busy_poll says. See sock_poll(). */
		if (wait)
			mask |= wanted & POLL_BUSY_LOOP;
	}
	ts_calls_leave(calls);
	return mask;
}

static int ts_set_rcvlowat(struct sock *sk, int val)
{
	int err = inet_stream_ops.set_rcvlowat(sk, val);

	/* A lower mark may make ring bytes readable that were not enough before. */
	if (!err && ts_sock_is_readable(sk))
		READ_ONCE(sk->sk_data_ready)(sk);
	return err;
}

/*
 * accept() fetches the listener's table before it waits for the listener's lock, and @newsock has it by now: this was a spliced socket then, and then
 * one that listens. A table of ours stands on no socket without an endpoint: kTLS copies what it finds (tls_build_proto()). (kernel_accept() would put it
 * back; but who calls that has a listener that is the kernel's, or that was handed to it as it was, with base's table on it: nfsd's.)
 */
static __ts_jumps int ts_accept(struct socket *sock, struct socket *newsock, struct proto_accept_arg *arg)
{
	newsock->ops = ts_base_ops(sock->sk);
	return inet_accept(sock, newsock, arg);
}

/* What differs from base's. */
#define TS_OPS(X)				\
	X(accept, ts_accept)			\
	X(splice_read, ts_splice_read)		\
	X(read_sock, NULL)			\
	X(read_skb, NULL)			\
	X(sendmsg_locked, NULL)			\
	X(poll, ts_poll)			\
	X(set_rcvlowat, ts_set_rcvlowat)

static void __init ts_init_ops(struct proto_ops *ops, const struct proto_ops *base)
{
	*ops = *base;	/* .owner too: accept() and close() count on it */
#define X(field, ours) ops->field = (ours);
	TS_OPS(X)
#undef X
}

static void ts_leave_ops(struct proto_ops *ops, const struct proto_ops *base)
{
#define X(field, ours) WRITE_ONCE(ops->field, base->field);
	TS_OPS(X)
#undef X
}

static void __init ts_init_prot(struct proto *prot, const struct proto *base)
{
	*prot = *base;
	prot->sendmsg = ts_sendmsg;
	prot->recvmsg = ts_recvmsg;
	prot->sock_is_readable = ts_sock_is_readable;
	prot->stream_memory_free = ts_stream_memory_free;
	prot->ioctl = ts_ioctl;
	prot->shutdown = ts_shutdown;
	prot->unhash = ts_unhash;
	prot->close = ts_close;
	prot->disconnect = ts_disconnect;
	prot->release_cb = ts_release_cb;
	prot->setsockopt = ts_setsockopt;
	prot->getsockopt = ts_getsockopt;
#ifdef CONFIG_BPF_SYSCALL
	prot->psock_update_sk_prot = NULL;	/* sockmap: -EOPNOTSUPP */
#endif
}

/* ---- putting on and off ---- */

/*
 * Takes sk_user_data, or says that somebody else has it: a sockmap, KCM or a SO_REUSEPORT map may come with less than the socket's lock
 * (sock_map_update_elem(), bpf_fd_reuseport_array_update_elem()), but all look and store under this one. Any context.
 */
__ts_offered bool ts_claim(struct sock *sk, struct ts_endpoint_body *body)
{
	struct ts_endpoint *ep = ts_endpoint_of(body);
	unsigned long flags;
	bool free;

	write_lock_irqsave(&sk->sk_callback_lock, flags);
	free = !rcu_access_pointer(sk->sk_user_data);
	if (free)
		__rcu_assign_sk_user_data_with_flags(sk, ep, SK_USER_DATA_NOCOPY);
	write_unlock_irqrestore(&sk->sk_callback_lock, flags);
	return free;
}

/*
 * Called by the kfunc, with the socket's lock in either shape, not sleeping. The ULP slot was seen free under this lock, and sk_user_data
 * is claimed. From the release on, callbacks find the endpoint.
 */
__ts_offered void ts_install(struct sock *sk, struct ts_endpoint_body *body, bool busy_polls)
{
	struct ts_endpoint *ep = ts_endpoint_of(body);
	struct inet_connection_sock *icsk = inet_csk(sk);

	ep->sk = sk;
	ep->busy_polls = busy_polls;
	ep->made = get_jiffies_64();
	ep->disconnects = sk->sk_disconnects;
	__module_get(THIS_MODULE);	/* for the ULP slot, and the endpoint while it is there: tcp_cleanup_ulp() puts it, if ts_take_off() does not */
	rcu_assign_pointer(icsk->icsk_ulp_data, ep);
	smp_store_release(&icsk->icsk_ulp_ops, &ts_ulp);
	ep->grafted = ts_wear_protocol(sk);
}

/* What somebody has put there without asking (sunrpc and iscsi_tcp do) stays. */
static void ts_clear_user_data(struct sock *sk, struct ts_endpoint *ep)
{
	void *ours = (void *)((uintptr_t)ep | SK_USER_DATA_NOCOPY);

	cmpxchg(&sk->sk_user_data, ours, NULL);
}

/*
 * Takes everything of ours off a socket, which is locked and whose endpoint is not paired and never will be: it is an ordinary TCP socket
 * from here on. The endpoint is freed a grace period later, and when the calls that may have found it are through. The caller is inside ts_calls,
 * or does not sleep: the slot's reference to the module is the endpoint's from here on, and goes when that is freed.
 *
 * The slot first: whoever asks base about it, from which our tables keep all but those who are there since before the offer, finds it empty. A child
 * of a listener, which is copied without its lock, has no data, or has the table with which it is born without any (ts_ulp_clone()).
 * sk_user_data last, and under its lock: who finds it free there, with no more than the socket's spin lock, finds base's tables (sk_psock_init()).
 *
 * @counted: not for a drain, which is root's.
 */
__ts_offered void ts_take_off(struct sock *sk, struct ts_endpoint *ep, bool counted)
{
	struct inet_connection_sock *icsk = inet_csk(sk);
	unsigned long flags;

	rcu_assign_pointer(icsk->icsk_ulp_data, NULL);
	smp_wmb();
	WRITE_ONCE(icsk->icsk_ulp_ops, NULL);
	ts_uninstall_protocol(sk);
	write_lock_irqsave(&sk->sk_callback_lock, flags);
	ts_clear_user_data(sk, ep);
	write_unlock_irqrestore(&sk->sk_callback_lock, flags);
	ts_endpoint_retire(ep, counted);
}

/*
 * tcp_cleanup_ulp(), from the socket's destroy: no descriptor is left, so no call of this socket is under way; the other end, if there is
 * one, may be waking us under RCU, and then everything is freed a grace period later. The slot's reference to the module is put after this.
 */
static __ts_offered void ts_ulp_release(struct sock *sk)
{
	struct ts_endpoint *ep = (struct ts_endpoint *)rcu_access_pointer(inet_csk(sk)->icsk_ulp_data);

	rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, NULL);
	ts_clear_user_data(sk, ep);
	ts_delay_at(releasing);
	/* The final free still reads sk_prot, perhaps long after the endpoint let go of the module. */
	ts_uninstall_protocol(sk);
	ts_endpoint_discard(ep, tcp_splice_release((struct ts_endpoint_body *)ep->body));
}

/* A socket whose slot is ours does not listen; should one, its children are born without. */
static void ts_ulp_clone(const struct request_sock *req, struct sock *newsk, const gfp_t priority)
{
	inet_csk(newsk)->icsk_ulp_ops = NULL;
	rcu_assign_pointer(inet_csk(newsk)->icsk_ulp_data, NULL);
}

/* Not registered by name: only the kfunc hands it out. */
const struct tcp_ulp_ops ts_ulp = {
	.name = "tcp_splice",
	.owner = THIS_MODULE,
	.release = ts_ulp_release,
	.clone = ts_ulp_clone,
};

/* ---- init ---- */

/* The defaults are static in the kernel: read them off a socket nobody uses. */
static int __init ts_learn_defaults(int family)
{
	struct socket *sock;
	int err = sock_create_kern(&init_net, family, SOCK_STREAM, IPPROTO_TCP, &sock);

	if (err)
		return err;
	ts_default.data_ready = sock->sk->sk_data_ready;
	ts_default.write_space = sock->sk->sk_write_space;
	ts_default.state_change = sock->sk->sk_state_change;
	ts_default.error_report = sock->sk->sk_error_report;
	sock_release(sock);
	return 0;
}

/* Our callbacks forward to tcp_prot's for both families: true of every kernel so far, and checked. */
static bool __init ts_families_agree(void)
{
	const struct proto *v6 = TS_PROT6;

	return v6->sendmsg == tcp_prot.sendmsg && v6->recvmsg == tcp_prot.recvmsg && v6->ioctl == tcp_prot.ioctl &&
	       v6->shutdown == tcp_prot.shutdown && v6->unhash == tcp_prot.unhash && v6->close == tcp_prot.close &&
	       v6->disconnect == tcp_prot.disconnect && v6->release_cb == tcp_prot.release_cb &&
	       v6->setsockopt == tcp_prot.setsockopt && v6->getsockopt == tcp_prot.getsockopt &&
	       v6->stream_memory_free == tcp_prot.stream_memory_free && tcp_prot.close == tcp_close && inet_stream_ops.poll == tcp_poll &&
	       !v6->sock_is_readable && !tcp_prot.sock_is_readable && inet_stream_ops.accept == inet_accept &&
	       TS_OPS6->accept == inet_accept;
}

int __init ts_proto_init(void)
{
	int err = ts_learn_defaults(AF_INET);

	if (err)
		return err;
	/* IPv6 may be switched off at boot. */
	if (ts_learn_defaults(AF_INET6))
		pr_info("no IPv6 sockets: IPv4 only\n");
	if (!ts_families_agree()) {
		pr_err("this kernel's IPv4 and IPv6 TCP differ where they never did: not loading\n");
		return -EOPNOTSUPP;
	}
	ts_ops = kmalloc_array(2, sizeof(*ts_ops), GFP_KERNEL);
	if (!ts_ops)
		return -ENOMEM;
	kmemleak_not_leak(ts_ops);
	ts_init_prot(&ts_prots[0], &tcp_prot);
	ts_init_prot(&ts_prots[1], TS_PROT6);
	ts_init_ops(&ts_ops[0], &inet_stream_ops);
	ts_init_ops(&ts_ops[1], TS_OPS6);
	return 0;
}

/* Of a module that did not come up: no socket ever had them. */
void __init ts_proto_abandon(void)
{
	kfree(ts_ops);
}

/* No endpoint is left. Whoever has fetched one of our callbacks before is waited for after this. */
void ts_proto_exit(void)
{
	ts_leave_ops(&ts_ops[0], &inet_stream_ops);
	ts_leave_ops(&ts_ops[1], TS_OPS6);
}
