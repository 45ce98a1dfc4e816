// SPDX-License-Identifier: GPL-2.0-only
/*
 * Letting go of sockets that live on: /proc/net/tcp_splice_drain.
 *
 * A socket is handed back first (tcp_splice_hand_back()), then loses our tables, the ULP slot and sk_user_data, and is an ordinary TCP
 * socket. Its endpoint is freed when the calls that may have found it are through (ts_calls) and a grace period later.
 *
 * | socket | who may be in a call on it | kept as it is by |
 * |---|---|---|
 * | with a descriptor | anybody | a reference to its file: __sock_release() uses a table that it fetched before it slept |
 * | not accepted yet | nobody | its spinlock: inet_csk_listen_stop() wants nobody to own it |
 * | closed, TCP not through | nobody | the same, for __tcp_close() |
 *
 * Nobody waits for a lock that a call may hold for long (it may be stuck in a page fault): such a socket is left for the next try.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

/* Which sockets. */
struct ts_drain {
	u64 before;		/* those that were offered until then (ktime_get_coarse_ns()) */
	bool all_ports;
	DECLARE_BITMAP(ports, 1 << 16);	/* or with one of these, as the socket sees them */
};

static bool ts_drain_wants(const struct ts_drain *drain, const struct ts_endpoint *ep)
{
	const struct sock *sk = ep->sk;

	if (ep->made > drain->before)
		return false;
	return drain->all_ports || test_bit(READ_ONCE(sk->sk_num), drain->ports) ||
	       test_bit(ntohs(READ_ONCE(sk->sk_dport)), drain->ports);
}

/* The file of a socket, with a reference, or NULL. @alone: there is no struct socket (any more, or yet). */
static struct file *ts_file_of(struct sock *sk, bool *alone)
{
	struct file *file = NULL;
	struct socket *sock;

	/* sock_orphan() takes this lock before the file can go. */
	read_lock_bh(&sk->sk_callback_lock);
	sock = sk->sk_socket;
	*alone = !sock;
	if (sock && sock->file)
		file = get_file_active(&sock->file);
	read_unlock_bh(&sk->sk_callback_lock);
	return file;
}

/* The endpoint that this socket carries, if it can be taken off now. Socket locked. */
static struct ts_endpoint *ts_carried(struct sock *sk)
{
	struct ts_endpoint *ep = NULL, *each;

	if (inet_csk(sk)->icsk_ulp_ops == &ts_ulp)
		ep = (struct ts_endpoint *)rcu_access_pointer(inet_csk(sk)->icsk_ulp_data);
	else if (sk->sk_destruct == ts_destruct)
		ep = ts_user_data(sk);
	if (!ep || ep->sk != sk)
		return NULL;
	for (each = ep; each; each = each->older)
		if (smp_load_acquire(&each->letting_go))
			return NULL;
	return ep;
}

/* Takes everything of ours off the socket, which is locked and not paired. */
static void ts_take_off(struct sock *sk, struct ts_endpoint *ep)
{
	if (inet_csk(sk)->icsk_ulp_ops == &ts_ulp) {
		ts_vacate_slot(sk);
		module_put(THIS_MODULE);	/* the slot's; each endpoint has its own until it is freed */
	} else {
		sk->sk_destruct = ep->destruct;
	}
	ts_clear_user_data(sk, ep);
	ts_endpoint_retire_all(ep);
}

/* With a descriptor, whose file is held. */
static int ts_drain_open(struct sock *sk)
{
	struct ts_endpoint *ep;
	int err = -EAGAIN;
	u32 disconnects;

	/* Inside ts_calls: the endpoint stays between the two locks. */
	lock_sock(sk);
	ep = ts_carried(sk);
	disconnects = ep ? ep->disconnects : 0;
	release_sock(sk);
	if (!ep)
		return -EAGAIN;
	if (tcp_splice_hand_back(sk, (struct ts_endpoint_body *)ep->body, disconnects, TS_BACK_DRAINED))
		return -EAGAIN;
	lock_sock(sk);
	/* Another thread may have been here, or have had the socket paired anew. */
	if (ts_carried(sk) == ep && !ep->link) {
		ts_take_off(sk, ep);
		err = 0;
	}
	release_sock(sk);
	/* Those asleep in our calls leave them now. */
	ts_wake_ours(sk);
	return err;
}

/* Without one: not accepted yet, or closed. */
static int ts_drain_alone(struct sock *sk)
{
	struct ts_endpoint *ep = NULL;
	bool child = false;
	int err = -EAGAIN;
	u32 disconnects;

	if (!ts_lock_alone(sk))
		return -EAGAIN;
	ep = ts_carried(sk);
	child = ep && !sock_flag(sk, SOCK_DEAD);
	disconnects = ep ? ep->disconnects : 0;
	ts_unlock_alone(sk);
	if (!ep)
		return -EAGAIN;
	if (child && tcp_splice_hand_back(sk, (struct ts_endpoint_body *)ep->body, disconnects, TS_BACK_CHILD))
		return -EAGAIN;
	if (!ts_lock_alone(sk))
		return -EAGAIN;
	if (ts_carried(sk) == ep && !(child && ep->link)) {
		/* A closed one leaves its pair as it would when it is destroyed. */
		tcp_splice_release((struct ts_endpoint_body *)ep->body);
		ts_take_off(sk, ep);
		err = 0;
	}
	ts_unlock_alone(sk);
	return err;
}

/* 0: the module has let go of it. The caller has a reference to the socket. */
static int ts_drain_sock(struct sock *sk)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	bool alone;
	struct file *file = ts_file_of(sk, &alone);
	int err = -EAGAIN;

	if (file)
		err = ts_drain_open(sk);
	else if (alone)
		err = ts_drain_alone(sk);
	ts_calls_leave(calls);
	if (file)
		fput(file);
	return err;
}

/* One look at each socket: -EAGAIN if some have to be tried again. */
static int ts_drain_pass(const struct ts_drain *drain)
{
	struct ts_walk walk = {};
	struct ts_node *node;
	int err = 0;

	while ((node = ts_index_walk(&ts_endpoints, &walk))) {
		struct ts_endpoint *ep = container_of(node, struct ts_endpoint, node);
		struct sock *sk = ep->sk;
		/* Of a socket's endpoints only the newest is on it; the others go with it. */
		bool wanted = ts_drain_wants(drain, ep) && ts_user_data(sk) == ep && refcount_inc_not_zero(&sk->sk_refcnt);

		walk.place++;
		ts_index_pause(&walk);
		if (wanted) {
			if (ts_drain_sock(sk))
				err = -EAGAIN;
			sock_put(sk);
		}
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return err;
}

/* "before=NANOSECONDS ports=LIST"; each may be missing. */
static int ts_drain_parse(struct ts_drain *drain, char *text)
{
	char *word, *ports, *port;
	u16 number;
	int err = 0;

	while (!err && (word = strsep(&text, " \n"))) {
		if (!*word) {
			continue;
		} else if (str_has_prefix(word, "before=")) {
			err = kstrtou64(word + strlen("before="), 10, &drain->before);
		} else if (str_has_prefix(word, "ports=")) {
			drain->all_ports = false;
			ports = word + strlen("ports=");
			while (!err && (port = strsep(&ports, ","))) {
				err = kstrtou16(port, 10, &number);
				if (!err && !number)
					err = -EINVAL;
				if (!err)
					__set_bit(number, drain->ports);
			}
		} else {
			err = -EINVAL;
		}
	}
	return err;
}

/* The longest line: 64 ports and a time. */
#define TS_DRAIN_TEXT 512

static ssize_t ts_drain_write(struct file *file, const char __user *buf, size_t len, loff_t *ppos)
{
	struct ts_drain *drain;
	char *text;
	int err;

	if (len >= TS_DRAIN_TEXT)
		return -EINVAL;
	text = memdup_user_nul(buf, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	drain = kvzalloc(sizeof(*drain), GFP_KERNEL);
	if (drain) {
		drain->before = U64_MAX;
		drain->all_ports = true;
		err = ts_drain_parse(drain, text);
		if (!err)
			err = ts_drain_pass(drain);
		kvfree(drain);
	} else {
		err = -ENOMEM;
	}
	kfree(text);
	return err ?: len;
}

static const struct proc_ops ts_drain_ops = {
	.proc_write = ts_drain_write,
	.proc_lseek = noop_llseek,
};

int __init ts_drain_init(void)
{
	return proc_create("tcp_splice_drain", 0200, init_net.proc_net, &ts_drain_ops) ? 0 : -ENOMEM;
}

void ts_drain_exit(void)
{
	remove_proc_entry("tcp_splice_drain", init_net.proc_net);
}
