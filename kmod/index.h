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
	spinlock_t lock;	/* never in a hard interrupt; innermost */
	u64 last;		/* serial of the node that came last */
	struct list_head nodes;	/* by serial */
};

struct ts_index {
	struct ts_bucket buckets[TS_BUCKETS];
};

struct ts_node {
	struct list_head entry;
	u64 serial;
};

/* After so many nodes a walker pauses. */
#define TS_WALK_STEPS	64

/* Begins as zeroes. */
struct ts_walk {
	u64 place;
	struct ts_bucket *held;
};

void ts_index_init(struct ts_index *index);
void ts_index_add(struct ts_index *index, struct ts_node *node);
void ts_index_remove(struct ts_index *index, struct ts_node *node);
u64 ts_index_place(struct ts_index *index, const struct ts_node *node);
struct ts_node *ts_index_walk(struct ts_index *index, struct ts_walk *walk);
struct ts_node *ts_index_next(struct ts_index *index, struct ts_walk *walk, struct ts_node *node);
void ts_index_pause(struct ts_walk *walk);

#endif
