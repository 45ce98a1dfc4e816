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

/* Takes what is ours off a socket that was handed back. False: another thread has had it paired anew in the meantime. Inside ts_calls. */
static bool ts_let_go_of(struct sock *sk)
{
	struct ts_endpoint *ep;
	bool paired = false;

	lock_sock(sk);
	ep = ts_endpoint(sk);
	if (ep) {
		tcp_splice_withdraw((struct ts_endpoint_body *)ep->body);
		paired = ts_link(sk);
		if (!paired)
			ts_take_off(sk, ep, true);
	} else {
		ts_uninstall_protocol(sk);
	}
	release_sock(sk);
	/* Those asleep in our calls, who may have looked before it was so, leave them now: a sleeper keeps the module. */
	ts_wake_ours(sk);
	return !paired;
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

/* Base gets an ordinary socket: kTLS takes the ULP slot and copies TCP's tables, IPV6_ADDRFORM asks for them by name. */
static int ts_set_option(struct sock *sk, int level, int optname, sockptr_t optval, unsigned int optlen)
{
	int err;

	do {
		err = ts_hand_back(sk);
		if (err)
			return err;
	} while (!ts_let_go_of(sk));
	err = tcp_prot.setsockopt(sk, level, optname, optval, optlen);
	/*
	 * Another thread may have connected the socket anew in between, and it may have been paired: not any more, with this option. The option
	 * is set, whatever comes of it: should the bytes not get into TCP's queue, the lanes are closed all the same.
	 */
	if (!err && !ts_hand_back(sk))
		ts_wake_ours(sk);
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

/* As for a socket without a ULP, if there is only ours. Base looks at the slot twice, without the lock under which ours comes and goes. */
static int ts_get_ulp(struct sock *sk, char __user *optval, int __user *optlen)
{
	int len, err;

	lock_sock(sk);
	if (inet_csk(sk)->icsk_ulp_ops == &ts_ulp)
		err = get_user(len, optlen) ? -EFAULT : len < 0 ? -EINVAL : put_user(0, optlen);
	else
		err = tcp_prot.getsockopt(sk, SOL_TCP, TCP_ULP, optval, optlen);
	release_sock(sk);
	return err;
}

static int ts_get_option(struct sock *sk, int level, int optname, char __user *optval, int __user *optlen)
{
	unsigned long link = level == SOL_TCP ? ts_link(sk) : 0;

	if (level == SOL_TCP && optname == TCP_ULP)
		return ts_get_ulp(sk, optval, optlen);
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
