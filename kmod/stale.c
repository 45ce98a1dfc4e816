// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sockets whose other end was not offered. Each has an endpoint that nobody will join; its own next call takes that off (ts_give_up()), but an idle
 * socket may make none for long. So a worker looks for them, while there are such ends. One that was paired before and was handed back without
 * being taken off is left to its next call: others may sleep on it.
 *
 * Unlike a drain it has no reference to a socket's file: the last one is put by closing the socket, which a program can make last for ever (SO_LINGER; an
 * epoll instance that has it, and is busy). All is done under the socket's spin lock, without sleeping. What stands on the socket then cannot be
 * freed: its destroy takes this lock, and so does whoever else takes it off. Before it is seen to stand there it is not looked into.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/workqueue.h>
#include <net/sock.h>

#include "delay.h"
#include "glue.h"
#include "endpoint.h"

/* How often they are looked for. */
#define TS_STALE_PERIOD	(4 * HZ)
/* When so many wait to be freed that others have to be left for later. */
#define TS_STALE_PAUSE	(HZ / 10)
/* So many are taken together, since a walk that goes on begins with its bucket's newest. */
#define TS_STALE_BATCH	16

struct ts_stale {
	struct sock *sk;	/* with a reference */
	struct ts_endpoint *ep;	/* which stood on it */
};

static struct workqueue_struct *ts_stale_queue __ro_after_init;
static void ts_stale_work(struct work_struct *work);
static DECLARE_DELAYED_WORK(ts_stale, ts_stale_work);

/* Where the worker stopped; nobody else's. */
static u64 ts_stale_place;

static bool ts_is_stale(const struct ts_endpoint *ep)
{
	return !READ_ONCE(ep->link) && ts_is_overdue(ep);
}

/* False: somebody owns the socket, and perhaps not the next time. */
static bool ts_stale_let_go(struct sock *sk, struct ts_endpoint *listed)
{
	if (!ts_lock_unowned(sk, false, false))
		return false;
	/* Or another one in its place, of a later connection: which is not stale. */
	if (ts_carries(sk, listed) && ts_is_stale(listed) && tcp_splice_withdraw((struct ts_endpoint_body *)listed->body))
		ts_take_off(sk, listed, true);
	ts_unlock_unowned(sk);
	return true;
}

/* The next few that are stale; how many. @left: some are not yet, and may become so. @more: there are others behind. */
static unsigned int ts_stale_gather(struct ts_walk *walk, struct ts_stale *found, bool *left, bool *more)
{
	struct ts_node *node = ts_index_walk(&ts_endpoints, walk);
	unsigned int steps, count = 0;

	for (steps = 0; node && steps < TS_WALK_STEPS && count < TS_STALE_BATCH; steps++) {
		struct ts_endpoint *ep = container_of(node, struct ts_endpoint, node);

		if (!READ_ONCE(ep->link) && !ts_is_overdue(ep))
			*left = true;
		else if (ts_is_stale(ep) && refcount_inc_not_zero(&ep->sk->sk_refcnt))
			found[count++] = (struct ts_stale) { .sk = ep->sk, .ep = ep };
		node = ts_index_next(&ts_endpoints, walk, node);
	}
	ts_index_pause(walk);
	*more = node;
	return count;
}

/*
 * Process context. What it takes off waits for calls, and counts as what a disconnect takes off: it leaves half of the places to that. Should a call be
 * stuck that keeps them all taken, stale ones stay until it goes on, everybody's.
 */
static void ts_stale_work(struct work_struct *work)
{
	struct ts_walk walk = { .place = ts_stale_place };
	/* What is before the place where it stopped was not looked at again. */
	bool more = true, left = walk.place;

	while (more && !ts_retired_are_many()) {
		struct ts_stale found[TS_STALE_BATCH];
		unsigned int i, count = ts_stale_gather(&walk, found, &left, &more);

		ts_delay_at(stale_found);
		for (i = 0; i < count; i++) {
			if (!ts_stale_let_go(found[i].sk, found[i].ep))
				left = true;
			sock_put(found[i].sk);
		}
		cond_resched();
	}
	ts_stale_place = more ? walk.place : 0;
	if (more || left)
		mod_delayed_work(ts_stale_queue, &ts_stale, more ? TS_STALE_PAUSE : TS_STALE_PERIOD);
}

/*
 * An endpoint without a link is in the index by now. Any context, the socket's lock held. The full barrier is as in ts_idle_watch(): a worker that
 * was still pending here finds the endpoint.
 */
__ts_offered void ts_stale_watch(void)
{
	smp_mb();
	if (unlikely(!delayed_work_pending(&ts_stale)))
		queue_delayed_work(ts_stale_queue, &ts_stale, TS_STALE_PERIOD);
}

int __init ts_stale_init(void)
{
	ts_stale_queue = alloc_workqueue("tcp_splice", WQ_UNBOUND, 1);
	return ts_stale_queue ? 0 : -ENOMEM;
}

/* Nobody is offered any more, and no endpoint is left. */
void ts_stale_exit(void)
{
	cancel_delayed_work_sync(&ts_stale);
	destroy_workqueue(ts_stale_queue);
}
