// SPDX-License-Identifier: GPL-2.0-only
/*
 * An index of objects that one can walk while they come and go.
 *
 * It is in buckets, each with its lock, so that many can be added at once and a walker holds up few of them. Each object has a place, its
 * bucket above, how many were put there before it below, so that a walker can go on where it stopped. An object is taken out before it is
 * freed, so the bucket's lock keeps those in it alive.
 */
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/spinlock.h>

#include "index.h"

#define TS_SERIAL_BITS	40
#define TS_SERIAL_MASK	((1ULL << TS_SERIAL_BITS) - 1)

static struct ts_bucket *ts_bucket_of(struct ts_index *index, const struct ts_node *node)
{
	return &index->buckets[hash_ptr(node, TS_BUCKETS_LOG2)];
}

static u64 ts_place(const struct ts_index *index, const struct ts_bucket *bucket, u64 serial)
{
	return (u64)(bucket - index->buckets) << TS_SERIAL_BITS | (serial & TS_SERIAL_MASK);
}

void ts_index_init(struct ts_index *index)
{
	unsigned int i;

	for (i = 0; i < TS_BUCKETS; i++) {
		spin_lock_init(&index->buckets[i].lock);
		INIT_LIST_HEAD(&index->buckets[i].nodes);
	}
}

/* Any context, also with interrupts off. */
void ts_index_add(struct ts_index *index, struct ts_node *node)
{
	struct ts_bucket *bucket = ts_bucket_of(index, node);
	unsigned long flags;

	spin_lock_irqsave(&bucket->lock, flags);
	node->serial = ++bucket->last;
	list_add_tail(&node->entry, &bucket->nodes);
	spin_unlock_irqrestore(&bucket->lock, flags);
}

/* As ts_index_add(). */
void ts_index_remove(struct ts_index *index, struct ts_node *node)
{
	struct ts_bucket *bucket = ts_bucket_of(index, node);
	unsigned long flags;

	spin_lock_irqsave(&bucket->lock, flags);
	list_del(&node->entry);
	spin_unlock_irqrestore(&bucket->lock, flags);
}

u64 ts_index_place(struct ts_index *index, const struct ts_node *node)
{
	return ts_place(index, ts_bucket_of(index, node), node->serial);
}

/* The node at @walk's place or the next one, and there until ts_index_pause(). None: nothing is locked. Process context. */
struct ts_node *ts_index_walk(struct ts_index *index, struct ts_walk *walk)
{
	struct ts_bucket *bucket = &index->buckets[walk->place >> TS_SERIAL_BITS];
	u64 serial = walk->place & TS_SERIAL_MASK;
	struct ts_node *node;

	for (; bucket < index->buckets + TS_BUCKETS; bucket++, serial = 0) {
		if (list_empty(&bucket->nodes))
			continue;
		spin_lock_bh(&bucket->lock);
		list_for_each_entry(node, &bucket->nodes, entry) {
			if (node->serial < serial)
				continue;
			walk->place = ts_place(index, bucket, node->serial);
			walk->held = bucket;
			return node;
		}
		spin_unlock_bh(&bucket->lock);
	}
	walk->place = ts_place(index, bucket, 0);
	return NULL;
}

/* Those that come or go meanwhile move no other. */
void ts_index_pause(struct ts_walk *walk)
{
	if (walk->held)
		spin_unlock_bh(&walk->held->lock);
	walk->held = NULL;
}

/* The node after @node, at which @walk is. */
struct ts_node *ts_index_next(struct ts_index *index, struct ts_walk *walk, struct ts_node *node)
{
	struct ts_bucket *bucket = walk->held;

	if (!list_is_last(&node->entry, &bucket->nodes)) {
		node = list_next_entry(node, entry);
		walk->place = ts_place(index, bucket, node->serial);
		return node;
	}
	ts_index_pause(walk);
	walk->place = ts_place(index, bucket + 1, 0);
	return ts_index_walk(index, walk);
}
