// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/net/tcp_splice_plain: sockets that are plain TCP although a policy wanted them, since they were refused or drained.
 *
 * Nothing of ours is on them, and nothing is held. What is noted of each is where it stands in TCP's own table, its cookie, which no other
 * socket gets, and which of its connections it was: who is found there is shown as it is now, who is not has gone. The newest note takes the
 * place of the oldest.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/proc_fs.h>
#include <linux/rculist_nulls.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/sock_diag.h>
#include <linux/spinlock.h>
#include <net/inet_hashtables.h>
#include <net/net_namespace.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

struct ts_note {
	u64 netns;		/* cookie of its network namespace */
	u32 cookie[2];		/* of the socket */
	u32 hash;		/* its place in the namespace's table */
	u32 disconnects;	/* sk_disconnects of the connection */
	struct ts_carried carried;	/* by the ring that it had */
	u8 why;			/* see ts_plain_note() */
	bool accepted;		/* or it connected */
};

#define TS_NOTES 1024

static DEFINE_SPINLOCK(ts_notes_lock);
static struct ts_note ts_notes[TS_NOTES];
static u64 ts_noted;	/* so far, those that lost their place included */

/* @why: the number of a refusal, or TS_PLAIN_DRAINED. The socket is locked, in either shape, and connected. Any context. */
void ts_plain_note(struct sock *sk, bool accepted, u8 why, const struct ts_carried *carried)
{
	struct ts_note note = {
		.netns = sock_net(sk)->net_cookie,
		.hash = sk->sk_hash,
		.disconnects = sk->sk_disconnects,
		.carried = *carried,
		.why = why,
		.accepted = accepted,
	};
	unsigned long flags;

	sock_diag_save_cookie(sk, note.cookie);
	spin_lock_irqsave(&ts_notes_lock, flags);
	ts_notes[ts_noted++ % TS_NOTES] = note;
	spin_unlock_irqrestore(&ts_notes_lock, flags);
}

/* A reader of the file: no note is shown that was made after the first was looked for, or it might never come to an end. */
struct ts_reader {
	struct ts_note note;
	u64 end;
};

/* The note that was the @pos-th ever, or the oldest one if that has gone; false: it is not to be shown. Process context. */
static bool ts_note_at(struct ts_reader *reader, loff_t *pos)
{
	u64 oldest;
	bool there;

	spin_lock_irq(&ts_notes_lock);
	if (!*pos)
		reader->end = ts_noted;
	oldest = ts_noted > TS_NOTES ? ts_noted - TS_NOTES : 0;
	if (*pos < oldest)
		*pos = oldest;
	there = *pos < reader->end;
	if (there)
		reader->note = ts_notes[*pos % TS_NOTES];
	spin_unlock_irq(&ts_notes_lock);
	return there;
}

static void *ts_plain_start(struct seq_file *seq, loff_t *pos)
{
	return ts_note_at(seq->private, pos) ? seq->private : NULL;
}

static void *ts_plain_next(struct seq_file *seq, void *reader, loff_t *pos)
{
	++*pos;
	return ts_plain_start(seq, pos);
}

static void ts_plain_stop(struct seq_file *seq, void *unused)
{
}

/* Also of a socket that may become another one at any moment. One that is spliced was connected anew. */
static bool ts_is_noted(struct sock *sk, const struct ts_note *note)
{
	u64 cookie = (u64)note->cookie[1] << 32 | note->cookie[0];

	return READ_ONCE(sk->sk_hash) == note->hash && sk_fullsock(sk) && (u64)atomic64_read(&sk->sk_cookie) == cookie &&
	       READ_ONCE(sk->sk_disconnects) == note->disconnects && READ_ONCE(inet_csk(sk)->icsk_ulp_ops) != &ts_ulp;
}

/*
 * As __inet_lookup_established(), with a reference: a socket's memory may become another one's at any time, and whoever was led into
 * another chain begins again. Inside an RCU read-side section in which @net was found: its table lasts as long.
 */
static struct sock *ts_find_noted(const struct net *net, const struct ts_note *note)
{
	const struct inet_hashinfo *info = net->ipv4.tcp_death_row.hashinfo;
	unsigned int slot = note->hash & info->ehash_mask;
	const struct hlist_nulls_node *node;
	struct sock *sk;

again:
	sk_nulls_for_each_rcu(sk, node, &info->ehash[slot].chain) {
		if (!ts_is_noted(sk, note))
			continue;
		if (!refcount_inc_not_zero(&sk->sk_refcnt))
			return NULL;
		if (ts_is_noted(sk, note))
			return sk;
		sock_put(sk);
		goto again;
	}
	if (get_nulls_value(node) != slot)
		goto again;
	return NULL;
}

/* Process context. Nothing but RCU is held, which keeps the namespace; it is looked for among all. */
static int ts_plain_show(struct seq_file *seq, void *v)
{
	const struct ts_note *note = &((const struct ts_reader *)v)->note;
	struct sock *sk = NULL;
	struct net *net;

	rcu_read_lock();
	for_each_net_rcu(net) {
		if (net->net_cookie != note->netns)
			continue;
		sk = ts_find_noted(net, note);
		break;
	}
	if (sk) {
		tcp_splice_show_why(seq, note->why);
		ts_show_sock(seq, note->accepted, sk);
		tcp_splice_show_carried(seq, note->accepted, &note->carried);
		seq_putc(seq, '\n');
	}
	rcu_read_unlock();
	if (sk)
		sock_put(sk);
	cond_resched();
	return 0;
}

static const struct seq_operations ts_plain_ops = {
	.start = ts_plain_start,
	.next = ts_plain_next,
	.stop = ts_plain_stop,
	.show = ts_plain_show,
};

int __init ts_plain_init(void)
{
	/* As the list of pairs. */
	if (!proc_create_seq_private("tcp_splice_plain", 0400, init_net.proc_net, &ts_plain_ops, sizeof(struct ts_reader), NULL))
		return -ENOMEM;
	return 0;
}

void ts_plain_exit(void)
{
	remove_proc_entry("tcp_splice_plain", init_net.proc_net);
}
