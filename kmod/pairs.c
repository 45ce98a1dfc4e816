// SPDX-License-Identifier: GPL-2.0-only
/*
 * All pairs: their memory, their locks, and /proc/net/tcp_splice, which lists them.
 *
 * The list is in buckets, each with its lock, so that many connections can be made at once and a reader holds up few of them. A pair is
 * taken out before it or its rings are freed, so the bucket's lock keeps those in it alive, and RCU their sockets (see Link in
 * src/pair.rs).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cgroup.h>
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <net/inet_sock.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

#define TS_BUCKETS_LOG2	10
#define TS_BUCKETS	(1U << TS_BUCKETS_LOG2)

/* A pair's number: its bucket above, how many were put there before it below. So a reader can go on where it stopped. */
#define TS_SERIAL_BITS	40
#define TS_SERIAL_MASK	((1ULL << TS_SERIAL_BITS) - 1)

struct ts_bucket {
	spinlock_t lock;	/* bottom halves too; innermost */
	u64 last;		/* serial of the pair that came last */
	struct list_head pairs;	/* by serial */
};

static struct ts_bucket ts_buckets[TS_BUCKETS];
static struct kmem_cache *ts_pairs __ro_after_init;

/* ---- memory and locks ---- */

static struct ts_pair *ts_pair_of(const struct ts_pair_body *body)
{
	return container_of((u8 (*)[TS_PAIR_BYTES])body, struct ts_pair, body);
}

static struct ts_bucket *ts_bucket_of(const struct ts_pair *pair)
{
	return &ts_buckets[hash_ptr(pair, TS_BUCKETS_LOG2)];
}

struct ts_pair_body *ts_pair_alloc(void)
{
	static struct lock_class_key send_key, receive_key;
	struct ts_pair *pair = kmem_cache_zalloc(ts_pairs, GFP_ATOMIC | __GFP_NOWARN);
	int i;

	if (!pair)
		return NULL;
	for (i = 0; i < ARRAY_SIZE(pair->lane); i++) {
		if (i < 2)
			mutex_init_with_key(&pair->lane[i].lock, &send_key);
		else
			mutex_init_with_key(&pair->lane[i].lock, &receive_key);
	}
	return (struct ts_pair_body *)pair->body;
}

/* Any context. Not listed (any more). */
void ts_pair_free(struct ts_pair_body *body)
{
	kmem_cache_free(ts_pairs, ts_pair_of(body));
}

void ts_lane_lock(struct ts_pair_body *pair, unsigned int which)
{
	mutex_lock(&ts_pair_of(pair)->lane[which & 3].lock);
}

void ts_lane_unlock(struct ts_pair_body *pair, unsigned int which)
{
	mutex_unlock(&ts_pair_of(pair)->lane[which & 3].lock);
}

bool ts_lane_is_locked(struct ts_pair_body *pair, unsigned int which)
{
	return mutex_is_locked(&ts_pair_of(pair)->lane[which & 3].lock);
}

/* ---- the list ---- */

/* The pair's endpoints are alive. Any context. */
void ts_pair_list(struct ts_pair_body *body)
{
	struct ts_pair *pair = ts_pair_of(body);
	struct ts_bucket *bucket = ts_bucket_of(pair);

	spin_lock_bh(&bucket->lock);
	pair->serial = ++bucket->last;
	list_add_tail(&pair->node, &bucket->pairs);
	spin_unlock_bh(&bucket->lock);
}

/* Before anything of it is freed. It was listed, and its endpoints are gone. Any context. */
void ts_pair_unlist(struct ts_pair_body *body)
{
	struct ts_pair *pair = ts_pair_of(body);
	struct ts_bucket *bucket = ts_bucket_of(pair);

	spin_lock_bh(&bucket->lock);
	list_del(&pair->node);
	spin_unlock_bh(&bucket->lock);
}

struct ts_walk {
	struct ts_bucket *held;
};

static loff_t ts_walk_pos(const struct ts_bucket *bucket, u64 serial)
{
	return (loff_t)(bucket - ts_buckets) << TS_SERIAL_BITS | (serial & TS_SERIAL_MASK);
}

/* The pair at @pos or the next one, with its bucket locked. Those that come or go meanwhile move no other. */
static void *ts_walk_start(struct seq_file *seq, loff_t *pos)
{
	struct ts_bucket *bucket = &ts_buckets[*pos >> TS_SERIAL_BITS];
	struct ts_walk *walk = seq->private;
	u64 serial = *pos & TS_SERIAL_MASK;
	struct ts_pair *pair;

	for (; bucket < ts_buckets + TS_BUCKETS; bucket++, serial = 0) {
		if (list_empty(&bucket->pairs))
			continue;
		spin_lock_bh(&bucket->lock);
		list_for_each_entry(pair, &bucket->pairs, node) {
			if (pair->serial < serial)
				continue;
			*pos = ts_walk_pos(bucket, pair->serial);
			walk->held = bucket;
			return pair;
		}
		spin_unlock_bh(&bucket->lock);
	}
	return NULL;
}

static void ts_walk_stop(struct seq_file *seq, void *unused)
{
	struct ts_walk *walk = seq->private;

	if (walk->held)
		spin_unlock_bh(&walk->held->lock);
	walk->held = NULL;
}

static void *ts_walk_next(struct seq_file *seq, void *current_pair, loff_t *pos)
{
	struct ts_bucket *bucket = ((struct ts_walk *)seq->private)->held;
	struct ts_pair *pair = current_pair;

	if (!list_is_last(&pair->node, &bucket->pairs)) {
		pair = list_next_entry(pair, node);
		*pos = ts_walk_pos(bucket, pair->serial);
		return pair;
	}
	ts_walk_stop(seq, NULL);
	*pos = ts_walk_pos(bucket + 1, 0);
	return ts_walk_start(seq, pos);
}

/* ---- what it shows ---- */

static void ts_show_addresses(struct seq_file *seq, const char *end, const struct sock *sk)
{
	u16 sport = ntohs(inet_sk(sk)->inet_sport), dport = ntohs(sk->sk_dport);

#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		seq_printf(seq, " %s.local=[%pI6c]:%u %s.remote=[%pI6c]:%u", end, &sk->sk_v6_rcv_saddr, sport, end,
			   &sk->sk_v6_daddr, dport);
		return;
	}
#endif
	seq_printf(seq, " %s.local=%pI4:%u %s.remote=%pI4:%u", end, &sk->sk_rcv_saddr, sport, end, &sk->sk_daddr, dport);
}

static u64 ts_cgroup_of(const struct sock *sk)
{
#ifdef CONFIG_SOCK_CGROUP_DATA
	return cgroup_id(sock_cgroup_ptr((struct sock_cgroup_data *)&sk->sk_cgrp_data));
#else
	return 0;
#endif
}

/* Inside an RCU read-side section in which @sk was read from its slot; nothing of it is locked. */
static void ts_show_sock(struct seq_file *seq, const char *end, struct sock *sk)
{
	const struct tcp_sock *tp = tcp_sk(sk);

	ts_show_addresses(seq, end, sk);
	seq_printf(seq, " %s.netns=%u %s.inode=%llu %s.cgroup=%llu %s.tcp_state=%d %s.tcp_bytes=%llu", end,
		   sock_net(sk)->ns.inum, end, (u64)sock_i_ino(sk), end, ts_cgroup_of(sk), end, inet_sk_state_load(sk), end,
		   (u64)(READ_ONCE(tp->bytes_sent) - READ_ONCE(tp->bytes_retrans)));
}

/* The bucket's lock is held. */
static int ts_walk_show(struct seq_file *seq, void *shown)
{
	static const char *const ends[] = { "client", "server" };
	const struct ts_pair *pair = shown;
	const struct ts_pair_body *body = (const struct ts_pair_body *)pair->body;
	unsigned int side;

	seq_printf(seq, "id=%llu", (u64)ts_walk_pos(ts_bucket_of(pair), pair->serial));
	for (side = 0; side < ARRAY_SIZE(ends); side++) {
		struct sock *sk;

		rcu_read_lock();
		sk = READ_ONCE(*tcp_splice_slot(body, side));
		if (sk)
			ts_show_sock(seq, ends[side], sk);
		rcu_read_unlock();
		tcp_splice_show_lane(seq, ends[side], strlen(ends[side]), body, side);
	}
	seq_putc(seq, '\n');
	return 0;
}

static const struct seq_operations ts_walk_ops = {
	.start = ts_walk_start,
	.next = ts_walk_next,
	.stop = ts_walk_stop,
	.show = ts_walk_show,
};

int __init ts_pairs_init(void)
{
	unsigned int i;

	for (i = 0; i < TS_BUCKETS; i++) {
		spin_lock_init(&ts_buckets[i].lock);
		INIT_LIST_HEAD(&ts_buckets[i].pairs);
	}
	ts_pairs = kmem_cache_create("tcp_splice_pair", sizeof(struct ts_pair), __alignof__(struct ts_pair),
				     SLAB_HWCACHE_ALIGN, NULL);
	if (!ts_pairs)
		return -ENOMEM;
	/* Whom connections are between is nobody else's business. */
	if (!proc_create_seq_private("tcp_splice", 0400, init_net.proc_net, &ts_walk_ops, sizeof(struct ts_walk), NULL)) {
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
