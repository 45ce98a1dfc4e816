// SPDX-License-Identifier: GPL-2.0-only
/*
 * An index of objects that one can walk while they come and go.
 *
 * It is in buckets, each with its lock, so that many can be added at once and a walker holds up few of them. Each object has a place, its
 * bucket above, and below a number less than those of all that were put there before, so that a walker can go on where it stopped, and does not
 * meet whoever came meanwhile. An object is taken out before it is freed, so the bucket's lock keeps those in it alive.
 */
#include <linux/hash.h>
#include <linux/list.h>
#include <linux/spinlock.h>

#include "index.h"
#include "sections.h"

#define TS_SERIAL_BITS	40
#define TS_SERIAL_MASK	((1ULL << TS_SERIAL_BITS) - 1)

static u64 ts_place(const struct ts_index *index, const struct ts_bucket *bucket, u64 serial)
{
	return (u64)(bucket - index->buckets) << TS_SERIAL_BITS | (serial & TS_SERIAL_MASK);
}

/* @key: of its locks, for lockdep. */
void ts_index_init(struct ts_index *index, struct lock_class_key *key)
{
	unsigned int i;

	for (i = 0; i < TS_BUCKETS; i++) {
		spin_lock_init(&index->buckets[i].lock);
		lockdep_set_class(&index->buckets[i].lock, key);
		INIT_HLIST_HEAD(&index->buckets[i].nodes);
		index->buckets[i].last = TS_SERIAL_MASK;
	}
}

/* To whichever bucket. Any context, also with interrupts off. */
__ts_spliced void ts_index_add(struct ts_index *index, struct ts_node *node)
{
	struct ts_bucket *bucket = &index->buckets[hash_ptr(node, TS_BUCKETS_LOG2)];
	unsigned long flags;

	spin_lock_irqsave(&bucket->lock, flags);
	ts_bucket_add(bucket, node);
	spin_unlock_irqrestore(&bucket->lock, flags);
}

/* As ts_index_add(). */
__ts_offered void ts_index_remove(struct ts_node *node)
{
	struct ts_bucket *bucket = node->bucket;
	unsigned long flags;

	spin_lock_irqsave(&bucket->lock, flags);
	hlist_del(&node->entry);
	spin_unlock_irqrestore(&bucket->lock, flags);
}

u64 ts_index_place(struct ts_index *index, const struct ts_node *node)
{
	return ts_place(index, node->bucket, node->serial);
}

/* The node at @walk's place or the next one, and there until ts_index_pause(). None: nothing is locked. Process context. */
struct ts_node *ts_index_walk(struct ts_index *index, struct ts_walk *walk)
{
	struct ts_bucket *bucket = &index->buckets[walk->place >> TS_SERIAL_BITS];
	u64 serial = walk->place & TS_SERIAL_MASK;
	struct ts_node *node;

	for (; bucket < index->buckets + TS_BUCKETS; bucket++, serial = 0) {
		if (hlist_empty(&bucket->nodes))
			continue;
		spin_lock_bh(&bucket->lock);
		hlist_for_each_entry(node, &bucket->nodes, entry) {
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

	if (node->entry.next) {
		node = hlist_entry(node->entry.next, struct ts_node, entry);
		walk->place = ts_place(index, bucket, node->serial);
		return node;
	}
	ts_index_pause(walk);
	walk->place = ts_place(index, bucket + 1, 0);
	return ts_index_walk(index, walk);
}
