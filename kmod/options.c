// SPDX-License-Identifier: GPL-2.0-only
/*
 * Socket options of a spliced socket: those that need TCP alone, and those that know of the ring.
 *
 * Whoever reads TCP's receive queue without us (kTLS), dumps it (TCP_REPAIR) or changes what the socket is (IPV6_ADDRFORM, TCP-MD5)
 * gets a socket that is handed back first: its unread ring bytes are put where TCP would have queued them (queue.c), and its pair is
 * left for good.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/uaccess.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

/* ---- the ULP slot, given away ---- */

/* Runs once, after the last reference to a socket that gave its ULP slot away. Any context. */
void ts_destruct(struct sock *sk)
{
	struct ts_endpoint *ep = ts_user_data(sk);

	/* Somebody took sk_user_data without asking (sunrpc and iscsi_tcp do): then the endpoint is lost, not the kernel. */
	if (WARN_ON_ONCE(!ep || ep->sk != sk)) {
		ts_default_destruct(sk);
		return;
	}
	rcu_assign_sk_user_data(sk, NULL);
	ep->destruct(sk);
	ts_endpoint_discard_all(ep, true);	/* last: it lets go of the module */
}

/*
 * Under the socket's lock; the endpoint is not paired and never will be. A child of a listener, which is copied without its lock, has
 * no data, or has the table with which it is born without any (ts_ulp_clone()).
 */
void ts_vacate_slot(struct sock *sk)
{
	struct inet_connection_sock *icsk = inet_csk(sk);

	ts_uninstall_protocol(sk);
	rcu_assign_pointer(icsk->icsk_ulp_data, NULL);
	smp_wmb();
	WRITE_ONCE(icsk->icsk_ulp_ops, NULL);
}

/*
 * Under the socket's lock, which was let go of since the tables were taken off. Another thread may have disconnected the socket: it might
 * even listen by now, and its children would be born with tables that no reference keeps. Such a socket may be paired anew.
 */
static void ts_wear_again(struct sock *sk, struct ts_endpoint *ep)
{
	if (sk->sk_disconnects != ep->disconnects)
		ep->left = true;
	else if (ts_proto_is_base(sk))
		ep->grafted = ts_wear_protocol(sk);
}

/*
 * Under the socket's lock, after a ULP had its chance. Filled: the endpoint stays until the socket dies, for calls that are on their
 * way into our text (such a socket cannot listen, so nobody inherits the hook); the socket must not be kept alive by it, then.
 * Empty: taken back. Another thread may have been here.
 */
static void ts_settle_slot(struct sock *sk, struct ts_endpoint *ep)
{
	struct inet_connection_sock *icsk = inet_csk(sk);

	if (icsk->icsk_ulp_ops == &ts_ulp)
		return;
	if (!icsk->icsk_ulp_ops) {
		rcu_assign_pointer(icsk->icsk_ulp_data, ep);
		smp_store_release(&icsk->icsk_ulp_ops, &ts_ulp);
		ts_wear_again(sk, ep);
	} else if (sk->sk_destruct != ts_destruct) {
		ep->destruct = sk->sk_destruct;
		sk->sk_destruct = ts_destruct;
		ts_endpoint_let_go_all(ep);
		module_put(THIS_MODULE);	/* the slot's reference; the endpoint has its own */
	}
}

/* ---- handing back ---- */

/* No lock held. 0: this socket is not paired, and with this endpoint never will be. */
static int ts_hand_back(struct sock *sk)
{
	for (;;) {
		struct ts_endpoint *ep = ts_endpoint(sk);
		int err = ep ? tcp_splice_hand_back(sk, (struct ts_endpoint_body *)ep->body, ep->disconnects, TS_BACK_FOR_GOOD) : 0;

		if (likely(err != -ESTALE))
			return err;
		ts_await_disconnect(sk);
	}
}

/* The endpoint under the socket's lock, if it was not paired anew in the meantime (by a connect() of another thread). */
static int ts_endpoint_unpaired(struct sock *sk, struct ts_endpoint **ep)
{
	*ep = ts_endpoint(sk);
	if (*ep)
		tcp_splice_withdraw((struct ts_endpoint_body *)(*ep)->body);
	return *ep && ts_link(sk) ? -EBUSY : 0;
}

/*
 * TCP_ULP: whoever wants the slot (kTLS) may have it, with base's tables, which it copies. Should base not fill it after all, it is
 * ours again, so that a disconnected socket that listens goes through ts_ulp_clone().
 */
static int ts_set_ulp(struct sock *sk, sockptr_t optval, unsigned int optlen)
{
	struct ts_endpoint *ep;
	int err;

	lock_sock(sk);
	err = ts_endpoint_unpaired(sk, &ep);
	if (!err && ep)
		ts_vacate_slot(sk);
	else if (!err)
		ts_uninstall_protocol(sk);
	release_sock(sk);
	if (err)
		return err;
	err = tcp_prot.setsockopt(sk, SOL_TCP, TCP_ULP, optval, optlen);
	lock_sock(sk);
	if (ep)
		ts_settle_slot(sk, ep);
	release_sock(sk);
	return err;
}

/* IPV6_ADDRFORM: base asks for its own table, and gives the socket that of IPv4. Ours go on top again. */
static int ts_set_addrform(struct sock *sk, sockptr_t optval, unsigned int optlen)
{
	struct ts_endpoint *ep;
	int err;

	lock_sock(sk);
	err = ts_endpoint_unpaired(sk, &ep);
	if (!err)
		ts_uninstall_protocol(sk);
	release_sock(sk);
	if (err)
		return err;
	err = tcp_prot.setsockopt(sk, SOL_IPV6, IPV6_ADDRFORM, optval, optlen);
	lock_sock(sk);
	if (ep && ts_endpoint(sk) == ep)
		ts_wear_again(sk, ep);
	release_sock(sk);
	return err;
}

static bool ts_option_needs_tcp(const struct sock *sk, int level, int optname)
{
	if (level == SOL_IPV6)
		return optname == IPV6_ADDRFORM;
	if (level != SOL_TCP)
		return false;
	switch (optname) {
	case TCP_ULP:
	case TCP_MD5SIG:
	case TCP_MD5SIG_EXT:
	case TCP_AO_ADD_KEY:
		return true;
	case TCP_REPAIR:
		return sk_net_capable(sk, CAP_NET_ADMIN);
	default:
		return false;
	}
}

static int ts_set_option(struct sock *sk, int level, int optname, sockptr_t optval, unsigned int optlen)
{
	int err = ts_hand_back(sk);

	if (err)
		return err;
	if (level == SOL_IPV6)
		return ts_set_addrform(sk, optval, optlen);
	if (optname == TCP_ULP)
		return ts_set_ulp(sk, optval, optlen);
	err = tcp_prot.setsockopt(sk, level, optname, optval, optlen);
	/*
	 * Another thread may have connected the socket anew in between, and it may have been paired: not any more, with this option. The option
	 * is set, whatever comes of it: should the bytes not get into TCP's queue, the lanes are closed all the same.
	 */
	if (!err)
		ts_hand_back(sk);
	return err;
}

int ts_setsockopt(struct sock *sk, int level, int optname, sockptr_t optval, unsigned int optlen)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	int err;

	if (ts_option_needs_tcp(sk, level, optname))
		err = ts_set_option(sk, level, optname, optval, optlen);
	else
		err = tcp_prot.setsockopt(sk, level, optname, optval, optlen);
	ts_calls_leave(calls);
	return err;
}

/* ---- getsockopt ---- */

/* TCP_VALID_ZC_MSG_FLAGS of tcp.c. */
#define TS_ZC_MSG_FLAGS 2

/*
 * TCP_ZEROCOPY_RECEIVE of a paired socket: as tcp_zerocopy_receive() does for a few bytes, it tells the caller to use recv(). Ring bytes
 * have no pages to map, and base would give TCP's without asking whether unread ring bytes come before them.
 */
static int ts_zerocopy_receive(struct sock *sk, unsigned long link, char __user *optval, int __user *optlen)
{
	struct tcp_zerocopy_receive zc = {};
	int len, err, inq;

	if (get_user(len, optlen))
		return -EFAULT;
	if (len < 0 || len < offsetofend(struct tcp_zerocopy_receive, length))
		return -EINVAL;
	if (len > sizeof(zc)) {
		err = check_zeroed_user(optval + sizeof(zc), len - sizeof(zc));
		if (err < 1)
			return err ?: -EINVAL;
		len = sizeof(zc);
	}
	if (copy_from_user(&zc, optval, len))
		return -EFAULT;
	if (zc.reserved || zc.msg_flags & ~TS_ZC_MSG_FLAGS || zc.address & ~PAGE_MASK || zc.address != (unsigned long)zc.address)
		return -EINVAL;
	/* The end before the bytes: those that came before it are seen. */
	err = sock_flag(sk, SOCK_DONE) ? -EIO : 0;
	smp_rmb();
	inq = tcp_splice_inq(link, sk);
	if (err && !inq)
		return err;
	/* Not more than was asked for, but for less than a page. */
	zc.recv_skip_hint = inq < PAGE_SIZE ? inq : min_t(u32, inq, zc.length);
	zc.length = 0;
	zc.inq = inq;
	zc.copybuf_len = 0;
	zc.msg_flags = 0;
	if (len >= offsetofend(struct tcp_zerocopy_receive, err))
		zc.err = sock_error(sk);
	return put_user(len, optlen) || copy_to_user(optval, &zc, len) ? -EFAULT : 0;
}

/* Adds to one of struct tcp_info's byte counts in the caller's buffer, if that is long enough to have it. */
static int ts_info_add(char __user *optval, int len, size_t offset, u64 bytes)
{
	u64 __user *field = (u64 __user *)(optval + offset);
	u64 value;

	if (len < (int)(offset + sizeof(value)))
		return 0;
	return get_user(value, field) || put_user(value + bytes, field) ? -EFAULT : 0;
}

/* TCP_INFO as base has it, with the ring's bytes counted as sent, acknowledged and received. */
static int ts_get_info(struct sock *sk, unsigned long link, char __user *optval, int __user *optlen)
{
	int err = tcp_prot.getsockopt(sk, SOL_TCP, TCP_INFO, optval, optlen);
	u64 sent, received;
	int len;

	if (err)
		return err;
	if (get_user(len, optlen))
		return -EFAULT;
	tcp_splice_ring_bytes(link, &sent, &received);
	err = ts_info_add(optval, len, offsetof(struct tcp_info, tcpi_bytes_acked), sent);
	err = err ?: ts_info_add(optval, len, offsetof(struct tcp_info, tcpi_bytes_sent), sent);
	return err ?: ts_info_add(optval, len, offsetof(struct tcp_info, tcpi_bytes_received), received);
}

static int ts_get_option(struct sock *sk, int level, int optname, char __user *optval, int __user *optlen)
{
	unsigned long link = level == SOL_TCP ? ts_link(sk) : 0;

	/* As for a socket without a ULP. */
	if (level == SOL_TCP && optname == TCP_ULP && ts_endpoint(sk))
		return put_user(0, optlen) ? -EFAULT : 0;
	if (link && optname == TCP_INFO)
		return ts_get_info(sk, link, optval, optlen);
	if (link && optname == TCP_ZEROCOPY_RECEIVE)
		return ts_zerocopy_receive(sk, link, optval, optlen);
	return tcp_prot.getsockopt(sk, level, optname, optval, optlen);
}

int ts_getsockopt(struct sock *sk, int level, int optname, char __user *optval, int __user *optlen)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	int err = ts_get_option(sk, level, optname, optval, optlen);

	ts_calls_leave(calls);
	return err;
}
