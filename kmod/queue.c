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
#include "endpoint.h"

/* Appends a copy of @len bytes; at most a ring's chunk. Process context; false without memory. */
bool ts_queue_add(struct ts_queue *queue, const void *from, size_t len)
{
	struct sk_buff *skb;
	int err;

	skb = alloc_skb_with_frags(0, len, PAGE_ALLOC_COSTLY_ORDER, &err, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
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

/* An empty segment that the socket is charged for, or NULL. */
static struct sk_buff *ts_empty_segment(struct sock *sk, unsigned int head, gfp_t gfp)
{
	struct sk_buff *skb = alloc_skb(head, gfp);

	if (!skb)
		return NULL;
	if (!sk_rmem_schedule(sk, skb, skb->truesize)) {
		kfree_skb(skb);
		return NULL;
	}
	skb_set_owner_r(skb, sk);
	return skb;
}

/*
 * A segment that lies on both sides of @border becomes two: TCP joins neighbours, also a FIN with the bytes before it. Returns the second
 * one, or an error. As tcp_fragment(), in a receive queue.
 */
static struct sk_buff *ts_split(struct sock *sk, struct sk_buff *skb, u32 border, gfp_t gfp)
{
	u32 len = border - TCP_SKB_CB(skb)->seq, moved = skb->len - len;
	struct sk_buff *behind;

	/* Frag lists come from devices that merge packets; such a segment is read first. */
	if (skb_has_frag_list(skb))
		return ERR_PTR(-EBUSY);
	/* Its size stays what is charged: pskb_expand_head() leaves that of an owned segment alone. */
	if (skb_unclone(skb, gfp))
		return ERR_PTR(-ENOMEM);
	behind = ts_empty_segment(sk, skb_headlen(skb), gfp);
	if (!behind)
		return ERR_PTR(-ENOMEM);
	/* What is new is charged; the bytes are already, whichever of the two has them. */
	skb->truesize -= moved;
	behind->truesize += moved;
	memcpy(behind->cb, skb->cb, sizeof(skb->cb));
	behind->ip_summed = CHECKSUM_UNNECESSARY;
	TCP_SKB_CB(behind)->seq = border;
	TCP_SKB_CB(skb)->end_seq = border;
	TCP_SKB_CB(skb)->tcp_flags &= ~(TCPHDR_FIN | TCPHDR_PSH);
	behind->tstamp = skb->tstamp;
	*skb_hwtstamps(behind) = *skb_hwtstamps(skb);
	/* Whose pages the fragments are (an XDP program on a veth makes them a pool's): they move as they are. */
	behind->pp_recycle = skb->pp_recycle;
	skb_copy_decrypted(behind, skb);
	if (moved)
		skb_split(skb, behind, len);
	__skb_queue_after(&sk->sk_receive_queue, skb, behind);
	/* All before the border was read: then this is no segment any more (tcp_eat_recv_skb()), and TCP would warn of one. */
	if (!before(tcp_sk(sk)->copied_seq, border))
		sk_eat_skb(sk, skb);
	return behind;
}

/* The first segment at or behind @border, or an error. */
static struct sk_buff *ts_first_behind(struct sock *sk, u32 border, gfp_t gfp)
{
	struct sk_buff *skb;

	skb_queue_walk(&sk->sk_receive_queue, skb) {
		if (!before(TCP_SKB_CB(skb)->seq, border))
			return skb;
		if (after(TCP_SKB_CB(skb)->end_seq, border))
			return ts_split(sk, skb, border, gfp);
	}
	return NULL;
}

/*
 * TCP joined the end of the stream with bytes from before @border, and a reader of those took it with them, though the ring's are unread.
 * Urgent bytes are the other ones that copied_seq skips; the FIN is TCP's last sequence number.
 */
static bool ts_end_was_read(struct sock *sk, u32 border)
{
	struct tcp_sock *tp = tcp_sk(sk);

	return sock_flag(sk, SOCK_DONE) && tp->copied_seq == border + 1 && tp->rcv_nxt == border + 1;
}

/* Puts the FIN that was read back into the queue, as a segment of its own, which is returned; or an error. As tcp_data_queue() queues one. */
static struct sk_buff *ts_unread_end(struct sock *sk, u32 border, gfp_t gfp)
{
	struct tcp_sock *tp = tcp_sk(sk);
	struct sk_buff *end = ts_empty_segment(sk, 0, gfp);

	if (!end)
		return ERR_PTR(-ENOMEM);
	memset(TCP_SKB_CB(end), 0, sizeof(*TCP_SKB_CB(end)));
	TCP_SKB_CB(end)->seq = border;
	TCP_SKB_CB(end)->end_seq = border + 1;
	TCP_SKB_CB(end)->tcp_flags = TCPHDR_FIN | TCPHDR_ACK;
	__skb_queue_tail(&sk->sk_receive_queue, end);
	tp->rcvq_space.seq--;
	WRITE_ONCE(tp->copied_seq, border);
	return end;
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
	int truesize = 0;

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
		truesize += skb->truesize;
		TCP_SKB_CB(skb)->end_seq = seq;
		if (behind)
			__skb_queue_before(list, behind, skb);
		else
			__skb_queue_tail(list, skb);
	}
	queue->last = NULL;
	/* TCP has announced its window already and counts on SO_RCVBUF to hold what comes: what is put there comes on top. */
	if (!(sk->sk_userlocks & SOCK_RCVBUF_LOCK))
		WRITE_ONCE(sk->sk_rcvbuf, min_t(s64, (s64)sk->sk_rcvbuf + truesize, INT_MAX));
	tp->rcvq_space.seq -= bytes;
	WRITE_ONCE(tp->copied_seq, tp->copied_seq - bytes);
}

/*
 * Gives @bytes bytes of @queue a place before @border, and TCP_INFO what went through the rings. Takes the socket's lock, in a drain
 * (@how) its spinlock. -ESTALE: the connection that @disconnects is of has ended; -EBUSY: urgent data counts, or a segment that cannot be
 * split lies on both sides of the border; -EAGAIN: somebody owns the socket, or it is no child any more; -ENOMEM. Nothing has changed then,
 * and the queue is empty.
 */
int ts_queue_insert(struct sock *sk, struct ts_queue *queue, u32 disconnects, u32 bytes, u32 border, u64 sent, u64 received,
		    unsigned int how)
{
	bool waits = how == TS_BACK_FOR_GOOD, child = how == TS_BACK_CHILD, ended;
	gfp_t gfp = waits ? GFP_KERNEL : GFP_ATOMIC;
	struct tcp_sock *tp = tcp_sk(sk);
	struct sk_buff *behind = NULL;
	int err = 0;

	if (waits) {
		lock_sock(sk);
	} else if (!ts_lock_unowned(sk, child, true)) {
		ts_queue_free(queue);
		return -EAGAIN;
	}
	if (child && sock_flag(sk, SOCK_DEAD)) {
		err = -EAGAIN;
	} else if (sk->sk_disconnects != disconnects) {
		err = -ESTALE;
	} else if (bytes) {
		ended = ts_end_was_read(sk, border);
		if (tp->urg_data || before(tp->rcv_nxt, border) || (after(tp->copied_seq, border) && !ended))
			err = -EBUSY;
		else if (!ts_queue_charge(sk, queue))
			err = -ENOMEM;
		else
			behind = ended ? ts_unread_end(sk, border, gfp) : ts_first_behind(sk, border, gfp);
		if (IS_ERR(behind))
			err = PTR_ERR(behind);
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
	if (waits)
		release_sock(sk);
	else
		ts_unlock_unowned(sk);
	return err;
}
