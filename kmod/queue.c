// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ring bytes into TCP's receive queue, for a socket that goes back to TCP for good (tcp_splice_hand_back()).
 *
 * Sequence numbers rested while the ring was in use, so its bytes have none of their own. They get those before the border, and
 * everything older moves down by as much: [copied_seq, border) and the segments in it, copied_seq with them. All of that has been
 * acknowledged, and nothing in TCP looks at sequence numbers below rcv_nxt but those who read the queue, by copied_seq.
 * tcp_send_rcvq() (TCP_REPAIR) puts bytes into the queue in the same way.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/skbuff.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "glue.h"

/* Appends a copy of @len bytes; at most a ring's chunk. Process context; false without memory. */
bool ts_queue_add(struct ts_queue *queue, const void *from, size_t len)
{
	struct sk_buff *skb;
	int err;

	skb = alloc_skb_with_frags(0, len, PAGE_ALLOC_COSTLY_ORDER, &err, GFP_KERNEL);
	if (!skb)
		return false;
	skb->data_len = len;
	skb->len = len;
	if (WARN_ON_ONCE(skb_store_bits(skb, 0, from, len))) {
		kfree_skb(skb);
		return false;
	}
	memset(TCP_SKB_CB(skb), 0, sizeof(*TCP_SKB_CB(skb)));
	TCP_SKB_CB(skb)->tcp_flags = TCPHDR_ACK;
	skb->ip_summed = CHECKSUM_UNNECESSARY;
	if (queue->last)
		queue->last->next = skb;
	else
		queue->first = skb;
	queue->last = skb;
	return true;
}

void ts_queue_free(struct ts_queue *queue)
{
	kfree_skb_list(queue->first);
	*queue = (struct ts_queue) {};
}

/* The first segment at or behind @border; an error if one lies on both sides of it. */
static struct sk_buff *ts_first_behind(struct sock *sk, u32 border)
{
	struct sk_buff *skb;

	skb_queue_walk(&sk->sk_receive_queue, skb) {
		if (!before(TCP_SKB_CB(skb)->seq, border))
			return skb;
		if (after(TCP_SKB_CB(skb)->end_seq, border))
			return ERR_PTR(-EBUSY);
	}
	return NULL;
}

/* Charges the socket for what is to be queued. */
static bool ts_queue_charge(struct sock *sk, struct ts_queue *queue)
{
	struct sk_buff *skb;

	for (skb = queue->first; skb; skb = skb->next) {
		if (!sk_rmem_schedule(sk, skb, skb->truesize))
			return false;
		skb_set_owner_r(skb, sk);
	}
	return true;
}

static void ts_insert(struct sock *sk, struct ts_queue *queue, u32 bytes, u32 border, struct sk_buff *behind)
{
	struct sk_buff_head *list = &sk->sk_receive_queue;
	struct tcp_sock *tp = tcp_sk(sk);
	u32 seq = border - bytes;
	struct sk_buff *skb;

	skb_queue_walk(list, skb) {
		if (skb == behind)
			break;
		TCP_SKB_CB(skb)->seq -= bytes;
		TCP_SKB_CB(skb)->end_seq -= bytes;
	}
	while ((skb = queue->first)) {
		queue->first = skb->next;
		TCP_SKB_CB(skb)->seq = seq;
		seq += skb->len;
		TCP_SKB_CB(skb)->end_seq = seq;
		if (behind)
			__skb_queue_before(list, behind, skb);
		else
			__skb_queue_tail(list, skb);
	}
	queue->last = NULL;
	tp->rcvq_space.seq -= bytes;
	WRITE_ONCE(tp->copied_seq, tp->copied_seq - bytes);
}

/*
 * Gives @bytes bytes of @queue a place before @border, and TCP_INFO what went through the rings. Takes the socket's lock. -ESTALE: the
 * connection that @disconnects is of has ended; -EBUSY: a segment lies on both sides of the border (TCP joins neighbours), or urgent
 * data counts; -ENOMEM. Nothing has changed then, and the queue is empty.
 */
int ts_queue_insert(struct sock *sk, struct ts_queue *queue, u32 disconnects, u32 bytes, u32 border, u64 sent, u64 received)
{
	struct tcp_sock *tp = tcp_sk(sk);
	struct sk_buff *behind = NULL;
	int err = 0;

	lock_sock(sk);
	if (sk->sk_disconnects != disconnects) {
		err = -ESTALE;
	} else if (bytes) {
		behind = ts_first_behind(sk, border);
		if (IS_ERR(behind))
			err = PTR_ERR(behind);
		else if (tp->urg_data || before(tp->rcv_nxt, border) || after(tp->copied_seq, border))
			err = -EBUSY;
		else if (!ts_queue_charge(sk, queue))
			err = -ENOMEM;
	}
	if (!err) {
		if (bytes)
			ts_insert(sk, queue, bytes, border, behind);
		tp->bytes_sent += sent;
		tp->bytes_acked += sent;
		tp->bytes_received += received;
		/* Somebody may have waited for more than the ring had. */
		if (bytes)
			READ_ONCE(sk->sk_data_ready)(sk);
	}
	/* What was charged is given back under the lock. */
	ts_queue_free(queue);
	release_sock(sk);
	return err;
}
