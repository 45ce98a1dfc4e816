// SPDX-License-Identifier: GPL-2.0-only
/*
 * All pairs: their memory, their locks, and /proc/net/tcp_splice, which lists them.
 *
 * A pair is taken out of the list before it or its rings are freed, so whoever walks the list (index.c) finds it alive, and RCU keeps its
 * sockets (see Link in src/pair.rs).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cgroup.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

static struct ts_index ts_listed;
static struct kmem_cache *ts_pairs __ro_after_init;

/* ---- memory and locks ---- */

static struct ts_pair *ts_pair_of(const struct ts_pair_body *body)
{
	return container_of((u8 (*)[TS_PAIR_BYTES])body, struct ts_pair, body);
}

/* Once for each place in a slab: a pair is freed with its locks unlocked. What has a constructor is not cleared either (main.c). */
static void ts_pair_construct(void *object)
{
	static struct lock_class_key send_key, receive_key;
	struct ts_pair *pair = object;
	int i;

	memset(pair, 0, sizeof(*pair));
	for (i = 0; i < ARRAY_SIZE(pair->lane); i++) {
		if (i < 2)
			mutex_init_with_key(&pair->lane[i].lock, &send_key);
		else
			mutex_init_with_key(&pair->lane[i].lock, &receive_key);
	}
}

/* Rust writes all of the body, ts_pair_list() the node; nobody is charged for it yet (ts_pair_charge()). */
__ts_spliced struct ts_pair_body *ts_pair_alloc(void)
{
	struct ts_pair *pair = kmem_cache_alloc(ts_pairs, GFP_ATOMIC | __GFP_NOWARN);

	if (!pair)
		return NULL;
	__module_get(THIS_MODULE);	/* for calls that sleep, with nothing of ours but the pair (ts_sleep()) */
	ts_spoil((u8 *)pair + offsetof(struct ts_pair, node), sizeof(*pair) - offsetof(struct ts_pair, node));
	return (struct ts_pair_body *)pair->body;
}

/* Any context. Not listed (any more). The next pair has its locks as they are. */
__ts_spliced void ts_pair_free(struct ts_pair_body *body)
{
	struct ts_pair *pair = ts_pair_of(body);
	unsigned int i;

	for (i = 0; ts_is_checked && i < ARRAY_SIZE(pair->lane); i++)
		WARN_ON_ONCE(mutex_is_locked(&pair->lane[i].lock));
	kmem_cache_free(ts_pairs, pair);
	module_put(THIS_MODULE);
}

/*
 * The caller's cgroup pays for the pair, which was made where there is nobody to charge: in a softirq, as sockets are that accept() charges
 * (mem_cgroup_sk_alloc()). False: it refuses. One thread at a time, and none once it is paid: kmem_cache_charge() looks first, so that of two
 * the charge of one would never be given back. Process context.
 */
__ts_spliced bool ts_pair_charge(struct ts_pair_body *body)
{
	return kmem_cache_charge(ts_pair_of(body), TS_GFP_RING);
}

__ts_spliced void ts_lane_lock(struct ts_pair_body *pair, unsigned int which)
{
	mutex_lock(&ts_pair_of(pair)->lane[which & 3].lock);
}

/* How often, at intervals of 20 to 50 µs, a lock is tried that a busy call takes again and again. */
#define TS_LANE_TRIES 40

bool ts_lane_trylock(struct ts_pair_body *pair, unsigned int which, bool patient)
{
	unsigned int tries;

	for (tries = patient ? TS_LANE_TRIES : 1; tries; tries--) {
		if (mutex_trylock(&ts_pair_of(pair)->lane[which & 3].lock))
			return true;
		if (patient)
			usleep_range(20, 50);
	}
	return false;
}

__ts_spliced void ts_lane_unlock(struct ts_pair_body *pair, unsigned int which)
{
	mutex_unlock(&ts_pair_of(pair)->lane[which & 3].lock);
}

__ts_spliced bool ts_lane_is_locked(struct ts_pair_body *pair, unsigned int which)
{
	return mutex_is_locked(&ts_pair_of(pair)->lane[which & 3].lock);
}

/* ---- the list ---- */

/* The pair's endpoints are alive. Any context. */
__ts_spliced void ts_pair_list(struct ts_pair_body *body)
{
	ts_index_add(&ts_listed, &ts_pair_of(body)->node);
}

/* Before anything of it is freed. It was listed, and its endpoints are gone. Any context. */
__ts_spliced void ts_pair_unlist(struct ts_pair_body *body)
{
	ts_index_remove(&ts_pair_of(body)->node);
}

/* The pair at @pos or the next one, with its bucket locked. */
static void *ts_list_start(struct seq_file *seq, loff_t *pos)
{
	struct ts_walk *walk = seq->private;
	struct ts_node *node;

	walk->place = *pos;
	node = ts_index_walk(&ts_listed, walk);
	*pos = walk->place;
	return node;
}

static void *ts_list_next(struct seq_file *seq, void *node, loff_t *pos)
{
	struct ts_walk *walk = seq->private;

	node = ts_index_next(&ts_listed, walk, node);
	*pos = walk->place;
	return node;
}

static void ts_list_stop(struct seq_file *seq, void *unused)
{
	ts_index_pause(seq->private);
}

/* ---- idle rings ---- */

/* A ring that was empty and not used for one to two of these gives its memory back. */
#define TS_IDLE_PERIOD HZ

static void ts_idle_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(ts_idle, ts_idle_work);

/* Process context: it sleeps between two pairs, not on them. */
static void ts_idle_work(struct work_struct *work)
{
	struct ts_walk walk = {};
	struct ts_node *node;

	while ((node = ts_index_walk(&ts_listed, &walk))) {
		struct ts_pair_body *idle = NULL;
		unsigned int steps;

		for (steps = 0; node && !idle && steps < TS_WALK_STEPS; steps++) {
			struct ts_pair *pair = container_of(node, struct ts_pair, node);

			if (tcp_splice_hold_if_idle((struct ts_pair_body *)pair->body)) {
				idle = (struct ts_pair_body *)pair->body;
				walk.place++;
			} else {
				node = ts_index_next(&ts_listed, &walk, node);
			}
		}
		ts_index_pause(&walk);
		if (idle)
			tcp_splice_rest(idle);
		cond_resched();
	}
	if (ts_rings_have_memory())
		ts_idle_watch();
}

/*
 * Some ring is about to get memory: counted, and then a full barrier, before this is called. Process context. A worker that was still pending here
 * has a full barrier, too, once it is not (set_work_pool_and_clear_pending()), and so sees in the end that there is memory.
 */
__ts_spliced void ts_idle_watch(void)
{
	if (!delayed_work_pending(&ts_idle))
		schedule_delayed_work(&ts_idle, TS_IDLE_PERIOD);
}

void ts_idle_exit(void)
{
	cancel_delayed_work_sync(&ts_idle);
}

/* ---- what it shows ---- */

#define TS_NAME(side, name) ((side) ? " server." name "=" : " client." name "=")

/*
 * Pieces are put one by one: a format string costs several times as much. What does not fit into seq's buffer sets its overflow, after which
 * nothing is added; seq_file then drops the line and shows it anew, in a larger buffer or at the next read.
 */
static void ts_show_ipv4(struct seq_file *seq, const char *name, __be32 address, u16 port)
{
	const u8 *byte = (const u8 *)&address;

	seq_put_decimal_ull(seq, name, byte[0]);
	seq_put_decimal_ull(seq, ".", byte[1]);
	seq_put_decimal_ull(seq, ".", byte[2]);
	seq_put_decimal_ull(seq, ".", byte[3]);
	seq_put_decimal_ull(seq, ":", port);
}

/* A socket that is connected anew at this moment may be shown with an address of either connection. */
static void ts_show_addresses(struct seq_file *seq, unsigned int side, const struct sock *sk)
{
	u16 sport = ntohs(READ_ONCE(inet_sk(sk)->inet_sport)), dport = ntohs(READ_ONCE(sk->sk_dport));

#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		seq_printf(seq, "%s[%pI6c]:%u%s[%pI6c]:%u", TS_NAME(side, "local"), &sk->sk_v6_rcv_saddr, sport,
			   TS_NAME(side, "remote"), &sk->sk_v6_daddr, dport);
		return;
	}
#endif
	ts_show_ipv4(seq, TS_NAME(side, "local"), READ_ONCE(sk->sk_rcv_saddr), sport);
	ts_show_ipv4(seq, TS_NAME(side, "remote"), READ_ONCE(sk->sk_daddr), dport);
}

static u64 ts_cgroup_of(const struct sock *sk)
{
#ifdef CONFIG_SOCK_CGROUP_DATA
	return cgroup_id(sock_cgroup_ptr((struct sock_cgroup_data *)&sk->sk_cgrp_data));
#else
	return 0;
#endif
}

/* Somebody keeps @sk: a reference, or an RCU read-side section in which it was read from its slot. Nothing of it is locked. */
void ts_show_sock(struct seq_file *seq, unsigned int side, struct sock *sk)
{
	const struct tcp_sock *tp = tcp_sk(sk);

	ts_show_addresses(seq, side, sk);
	seq_put_decimal_ull(seq, TS_NAME(side, "netns"), sock_net(sk)->ns.inum);
	seq_put_decimal_ull(seq, TS_NAME(side, "inode"), sock_i_ino(sk));
	seq_put_decimal_ull(seq, TS_NAME(side, "cgroup"), ts_cgroup_of(sk));
	seq_put_decimal_ull(seq, TS_NAME(side, "tcp_state"), inet_sk_state_load(sk));
	seq_put_decimal_ull(seq, TS_NAME(side, "tcp_bytes"), READ_ONCE(tp->bytes_sent) - READ_ONCE(tp->bytes_retrans));
}

/* The bucket's lock is held. */
static int ts_list_show(struct seq_file *seq, void *node)
{
	const struct ts_pair *pair = container_of((struct ts_node *)node, struct ts_pair, node);
	const struct ts_pair_body *body = (const struct ts_pair_body *)pair->body;
	unsigned int side;

	seq_put_decimal_ull(seq, "id=", ts_index_place(&ts_listed, &pair->node));
	for (side = 0; side < 2; side++) {
		struct sock *sk;

		rcu_read_lock();
		sk = READ_ONCE(*tcp_splice_slot(body, side));
		if (sk)
			ts_show_sock(seq, side, sk);
		rcu_read_unlock();
		tcp_splice_show_lane(seq, body, side);
	}
	seq_putc(seq, '\n');
	return 0;
}

static const struct seq_operations ts_list_ops = {
	.start = ts_list_start,
	.next = ts_list_next,
	.stop = ts_list_stop,
	.show = ts_list_show,
};

int __init ts_pairs_init(void)
{
	static struct lock_class_key key;

	ts_index_init(&ts_listed, &key);
	ts_pairs = kmem_cache_create("tcp_splice_pair", sizeof(struct ts_pair), __alignof__(struct ts_pair),
				     SLAB_HWCACHE_ALIGN | SLAB_NO_MERGE, ts_pair_construct);
	if (!ts_pairs)
		return -ENOMEM;
	/* Whom connections are between is nobody else's business. */
	if (!proc_create_seq_private("tcp_splice", 0400, init_net.proc_net, &ts_list_ops, sizeof(struct ts_walk), NULL)) {
		kmem_cache_destroy(ts_pairs);
		return -ENOMEM;
	}
	return 0;
}

void ts_pairs_exit(void)
{
	remove_proc_entry("tcp_splice", init_net.proc_net);
	kmem_cache_destroy(ts_pairs);
}
