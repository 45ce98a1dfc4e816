// SPDX-License-Identifier: GPL-2.0-only
/*
 * Letting go of sockets that live on: /proc/net/tcp_splice_drain.
 *
 * A socket is handed back first (tcp_splice_hand_back()), then loses what we have put on it (ts_take_off()), and is an ordinary TCP socket.
 *
 * | socket | who may be in a call on it | kept as it is by |
 * |---|---|---|
 * | with a descriptor | anybody | a reference to its file: nobody closes it meanwhile |
 * | not accepted yet | nobody; it may be accepted and closed meanwhile | ts_calls, which ts_endpoint_discard() minds |
 * | closed, TCP not through | nobody; it may die meanwhile | the same |
 *
 * The socket is locked by its spinlock, when nobody owns it: the owner may be stuck in a page fault, and inet_csk_listen_stop() and
 * __tcp_close() want nobody to own theirs. Lane locks are tried for. What cannot be had soon is left for the next pass. One thing is waited for:
 * should a program close a socket with SO_LINGER at the moment at which its file is held here, it is this call that lingers.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "delay.h"
#include "glue.h"
#include "endpoint.h"

/* Which sockets. */
struct ts_drain {
	u64 before;		/* those that were offered until then, or a little later; jiffies */
	bool all_ports;
	DECLARE_BITMAP(ports, 1 << 16);	/* or with one of these, as the socket sees them */
};

static bool ts_drain_wants(const struct ts_drain *drain, const struct ts_endpoint *ep)
{
	const struct sock *sk = ep->sk;

	if (ep->made > drain->before)
		return false;
	/* sk_num is 0 once TCP is through with it. */
	return drain->all_ports || test_bit(ntohs(READ_ONCE(inet_sk(sk)->inet_sport)), drain->ports) ||
	       test_bit(ntohs(READ_ONCE(sk->sk_dport)), drain->ports);
}

/* How often a socket is looked at that somebody owns, each time that its owner lets go of it. */
#define TS_OWNED_TRIES 40

/*
 * Locks a socket that nobody owns; @alone: which has no struct socket. @patient: may sleep, not for long; nobody sleeps while it is
 * locked. Waits as __lock_sock() does, but beside those who do (release_sock() wakes all that are not exclusive), and only for an owner who lets go
 * of it within a jiffy or two: others may be stuck, as in the fault of a page.
 */
bool ts_lock_unowned(struct sock *sk, bool alone, bool patient)
{
	unsigned int tries = patient ? TS_OWNED_TRIES : 1;
	bool unfit, unowned;
	DEFINE_WAIT(wait);

	for (;;) {
		local_bh_disable();
		bh_lock_sock(sk);
		unfit = alone && sk->sk_socket;
		unowned = !unfit && !sock_owned_by_user(sk);
		if (unowned || unfit || !--tries)
			break;
		prepare_to_wait(&sk->sk_lock.wq, &wait, TASK_UNINTERRUPTIBLE);
		ts_unlock_unowned(sk);
		schedule_timeout(1);
		/* Who wakes us takes us off the queue. */
		if (!list_empty_careful(&wait.entry))
			tries = 1;
	}
	finish_wait(&sk->sk_lock.wq, &wait);
	if (!unowned)
		ts_unlock_unowned(sk);
	return unowned;
}

void ts_unlock_unowned(struct sock *sk)
{
	bh_unlock_sock(sk);
	local_bh_enable();
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

/* @alone: not accepted yet, or closed. Inside ts_calls, so that @listed stays, if it is still there at the first look. */
static int ts_drain_locked(struct sock *sk, struct ts_endpoint *listed, bool alone, bool patient)
{
	unsigned int how = alone ? TS_BACK_CHILD : TS_BACK_DRAINED;
	bool closed, carries;
	u32 disconnects = 0;
	int err = -EAGAIN;

	if (!ts_lock_unowned(sk, alone, patient))
		return -EAGAIN;
	closed = alone && sock_flag(sk, SOCK_DEAD);
	carries = ts_carries(sk, listed);
	if (carries)
		disconnects = listed->disconnects;
	ts_unlock_unowned(sk);
	if (!carries)
		return -EAGAIN;
	ts_delay_at(drain_looked);
	if (!closed && tcp_splice_hand_back(sk, (struct ts_endpoint_body *)listed->body, disconnects, how))
		return -EAGAIN;
	if (patient)
		WRITE_ONCE(listed->drained, true);
	ts_delay_at(drain_handed_back);
	if (!ts_lock_unowned(sk, alone, patient))
		return -EAGAIN;
	/* Another thread may have been here, or have had the socket paired anew. */
	if (ts_carries(sk, listed) && (closed || !listed->link)) {
		/* A closed one leaves its pair as it would when it is destroyed. */
		if (closed)
			tcp_splice_release((struct ts_endpoint_body *)listed->body);
		if (READ_ONCE(listed->drained) && !closed)
			tcp_splice_note_drained(sk, (struct ts_endpoint_body *)listed->body);
		ts_take_off(sk, listed, !patient);
		err = 0;
	}
	ts_unlock_unowned(sk);
	ts_delay_at(drain_taken_off);
	/* Those asleep in our calls leave them now. */
	ts_wake_ours(sk);
	return err;
}

/*
 * A call on a socket, which keeps its file, found this endpoint there, and no link: an end whose other end was not offered, or one that
 * was handed back, long ago. Nothing will come of it, and what we have put on the socket goes. Of idle ones see stale.c.
 */
void ts_give_up(struct sock *sk, struct ts_endpoint *ep)
{
	ts_drain_locked(sk, ep, false, false);
}

/* 0: the module has let go of it. The caller has a reference to the socket, and has announced itself in ts_drains. */
static int ts_drain_sock(struct sock *sk, struct ts_endpoint *listed)
{
	struct srcu_ctr __percpu *calls = ts_calls_enter();
	bool alone;
	struct file *file = ts_file_of(sk, &alone);
	int err = -EAGAIN;

	if (file || alone)
		err = ts_drain_locked(sk, listed, alone, true);
	ts_calls_leave(calls);
	/* Should it be the last reference by now, the socket is closed here, and now. */
	if (file)
		__fput_sync(file);
	return err;
}

/* One look at each socket: -EAGAIN if some have to be tried again. */
static int ts_drain_pass(const struct ts_drain *drain)
{
	struct ts_walk walk = {};
	struct ts_node *node;
	int err = 0;

	while ((node = ts_index_walk(&ts_endpoints, &walk))) {
		struct ts_endpoint *wanted = NULL;
		struct sock *sk = NULL;
		unsigned int steps;

		for (steps = 0; node && !wanted && steps < TS_WALK_STEPS; steps++) {
			struct ts_endpoint *ep = container_of(node, struct ts_endpoint, node);

			if (ts_drain_wants(drain, ep) && refcount_inc_not_zero(&ep->sk->sk_refcnt)) {
				wanted = ep;
				sk = ep->sk;
				walk.place++;
			} else {
				node = ts_index_next(&ts_endpoints, &walk, node);
			}
		}
		ts_index_pause(&walk);
		if (wanted) {
			ts_delay_at(drain_found);
			if (ts_drain_sock(sk, wanted))
				err = -EAGAIN;
			else
				atomic_long_inc(&ts_drained);
			sock_put(sk);
		}
		if (signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return err;
}

/* Jiffies may be behind the clock by a few when a processor was held up (MAX_STALLED_JIFFIES). */
#define TS_JIFFIES_LAG 8

/* A time of CLOCK_MONOTONIC in jiffies, or a little later; if it is yet to come, the end of time. */
static u64 ts_jiffies_at(u64 ns)
{
	u64 now = ktime_get_ns();

	return ns < now ? get_jiffies_64() - nsecs_to_jiffies64(now - ns) + TS_JIFFIES_LAG : U64_MAX;
}

/* "before=NANOSECONDS ports=LIST"; each may be missing. */
static int ts_drain_parse(struct ts_drain *drain, char *text)
{
	char *word, *ports, *port;
	u64 before = U64_MAX;
	u16 number;
	int err = 0;

	while (!err && (word = strsep(&text, " \n"))) {
		if (!*word) {
			continue;
		} else if (str_has_prefix(word, "before=")) {
			err = kstrtou64(word + strlen("before="), 10, &before);
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
	drain->before = ts_jiffies_at(before);
	return err;
}

/* The longest line: 64 ports and a time. */
#define TS_DRAIN_TEXT 512

static ssize_t ts_drain_write(struct file *file, const char __user *buf, size_t len, loff_t *ppos)
{
	struct ts_drain *drain;
	char *text;
	int err;

	if (!file_ns_capable(file, &init_user_ns, CAP_NET_ADMIN))
		return -EPERM;
	if (len >= TS_DRAIN_TEXT)
		return -EINVAL;
	text = memdup_user_nul(buf, len);
	if (IS_ERR(text))
		return PTR_ERR(text);
	if (strlen(text) != len) {
		kfree(text);
		return -EINVAL;
	}
	drain = kvzalloc(sizeof(*drain), GFP_KERNEL);
	if (drain) {
		drain->all_ports = true;
		err = ts_drain_parse(drain, text);
		if (!err) {
			atomic_inc(&ts_drains);
			err = ts_drain_pass(drain);
			atomic_dec(&ts_drains);
		}
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
