/* SPDX-License-Identifier: GPL-2.0-only */
/* See index.c. */
#ifndef _TCP_SPLICE_INDEX_H
#define _TCP_SPLICE_INDEX_H

#include <linux/list.h>
#include <linux/spinlock_types.h>
#include <linux/types.h>

#define TS_BUCKETS_LOG2	10
#define TS_BUCKETS	(1U << TS_BUCKETS_LOG2)

struct ts_bucket {
	spinlock_t lock;	/* never in a hard interrupt */
	u64 last;		/* serial of the node that came last: they count down */
	struct hlist_head nodes;	/* by serial: the one that came last is the first */
};

struct ts_index {
	struct ts_bucket buckets[TS_BUCKETS];
};

struct ts_node {
	struct hlist_node entry;
	struct ts_bucket *bucket;
	u64 serial;
};

/* After so many nodes a walker pauses. */
#define TS_WALK_STEPS	64

/* Begins as zeroes. */
struct ts_walk {
	u64 place;
	struct ts_bucket *held;
};

/* Its lock is held, and walkers find @node complete. */
static inline void ts_bucket_add(struct ts_bucket *bucket, struct ts_node *node)
{
	node->bucket = bucket;
	node->serial = --bucket->last;
	hlist_add_head(&node->entry, &bucket->nodes);
}

void ts_index_init(struct ts_index *index, struct lock_class_key *key);
void ts_index_add(struct ts_index *index, struct ts_node *node);
void ts_index_remove(struct ts_node *node);
u64 ts_index_place(struct ts_index *index, const struct ts_node *node);
struct ts_node *ts_index_walk(struct ts_index *index, struct ts_walk *walk);
struct ts_node *ts_index_next(struct ts_index *index, struct ts_walk *walk, struct ts_node *node);
void ts_index_pause(struct ts_walk *walk);

#endif
