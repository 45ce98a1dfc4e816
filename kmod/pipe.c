// SPDX-License-Identifier: GPL-2.0-only
/*
 * splice(2) from a spliced socket, and what it needs of pipes.
 *
 * Ring bytes are lent: the pipe gets a reference to the page they stand in. Sender and receiver go on using the rest of the chunk. When
 * the sender wants a chunk's memory for later bytes and somebody still has a reference, the chunk leaves the ring instead of being
 * written again (ring.rs). Pipes may not take such a page away from us (nosteal_pipe_buf_ops).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bvec.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/net.h>
#include <linux/pipe_fs_i.h>
#include <linux/splice.h>
#include <linux/uio.h>
#include <net/inet_common.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

static bool ts_lend_pages __read_mostly = true;
module_param_named(splice_pages, ts_lend_pages, bool, 0644);
MODULE_PARM_DESC(splice_pages, "splice(2) hands pages of the ring to the pipe instead of copying them (default Y)");

/* Fewer bytes are copied: a pipe that holds on to them should not hold on to a whole chunk. */
#define TS_LEND_MIN (PAGE_SIZE / 2)

/* Most pages of TCP's bytes copied at a time. */
#define TS_PIPE_PAGES 16

/* Puts a page that the caller has a reference to into the pipe; the reference goes with it in any case. */
static long ts_pipe_push(struct pipe_inode_info *pipe, struct page *page, unsigned int offset, unsigned int len)
{
	struct pipe_buffer buf = {
		.page = page,
		.offset = offset,
		.len = len,
		.ops = &nosteal_pipe_buf_ops,
	};

	return add_to_pipe(pipe, &buf);
}

static unsigned int ts_pipe_room(const struct pipe_inode_info *pipe)
{
	return pipe->max_usage - min(pipe_buf_usage(pipe), pipe->max_usage);
}

/*
 * Bytes of a ring's chunk into the pipe, whose lock is held: all @len of them, lent, or as many as a page holds, copied. -EAGAIN: it is
 * full; -EPIPE, and SIGPIPE: it has no reader. recv() would need no page, so this one's is not refused.
 */
long ts_pipe_add(struct pipe_inode_info *pipe, const void *from, size_t len, bool lend)
{
	struct page *page;

	if (lend) {
		page = virt_to_page(from);
		get_page(page);
		return ts_pipe_push(pipe, page, offset_in_page(from), len);
	}
	page = alloc_page(GFP_USER | __GFP_NOFAIL);
	len = min(len, PAGE_SIZE);
	memcpy(page_address(page), from, len);
	return ts_pipe_push(pipe, page, 0, len);
}

bool ts_pipe_lends(size_t len)
{
	return len >= TS_LEND_MIN && READ_ONCE(ts_lend_pages);
}

/*
 * Does anybody but the ring have a reference to this chunk, all of which the receiver has given back? Nobody new can get one then,
 * but from those who have one.
 */
__ts_spliced bool ts_chunk_is_lent(const void *chunk)
{
	bool lent = page_ref_count(virt_to_page(chunk)) > 1;

	/* Whoever put the last other reference had finished reading before; the caller writes after. Pairs with put_page(). */
	smp_mb();
	return lent;
}

/*
 * Base recvmsg that leaves SO_PEEK_OFF as it is, as tcp_splice_read() does: what sk_peek_offset_bwd() took off is put back, unless somebody
 * has set it meanwhile. Callers hold the lane's receive lock.
 */
static long ts_base_recv_for_pipe(struct sock *sk, struct msghdr *msg, size_t len)
{
	int peek_off = READ_ONCE(sk->sk_peek_off);
	long copied = ts_call_recvmsg(sk, msg, len, MSG_DONTWAIT);

	if (unlikely(peek_off > 0 && copied > 0))
		cmpxchg(&sk->sk_peek_off, (int)max(peek_off - copied, 0L), peek_off);
	return copied;
}

/*
 * At most @len of TCP's bytes into the pipe, by base recvmsg without waiting. As base, and -ENOBUFS: the pipe is full. What base gives
 * fits, since room and pages are there before, and a pipe that had a reader when it was locked still has one.
 */
long ts_pipe_base_recv(struct sock *sk, struct pipe_inode_info *pipe, size_t len)
{
	unsigned int pages = min_t(unsigned int, ts_pipe_room(pipe), TS_PIPE_PAGES), i, have;
	struct bio_vec bvec[TS_PIPE_PAGES];
	struct msghdr msg = {};
	long copied, left;

	if (!pages)
		return -ENOBUFS;
	len = min_t(size_t, len, (size_t)pages << PAGE_SHIFT);
	for (have = 0; (size_t)have << PAGE_SHIFT < len; have++) {
		/* TCP's own pages would go to the pipe, and there is no other way here: the first page is not refused. */
		struct page *page = alloc_page(have ? GFP_USER | __GFP_NORETRY | __GFP_NOWARN : GFP_USER | __GFP_NOFAIL);

		if (!page)
			break;
		bvec_set_page(&bvec[have], page, min_t(size_t, len - ((size_t)have << PAGE_SHIFT), PAGE_SIZE), 0);
	}
	len = min_t(size_t, len, (size_t)have << PAGE_SHIFT);
	iov_iter_bvec(&msg.msg_iter, ITER_DEST, bvec, have, len);
	copied = ts_base_recv_for_pipe(sk, &msg, len);
	for (i = 0, left = copied; i < have; i++) {
		struct page *page = bvec[i].bv_page;

		if (left > 0)
			ts_pipe_push(pipe, page, 0, min_t(long, left, PAGE_SIZE));
		else
			put_page(page);
		left -= PAGE_SIZE;
	}
	return copied;
}

/* As tcp_splice_read(): the file's O_NONBLOCK counts, SO_RCVLOWAT does not. TS_BASE: base is to do it. */
static noinline int ts_try_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t len)
{
	int nonblock = sock->file->f_flags & O_NONBLOCK ? MSG_DONTWAIT : 0;
	struct ts_call call = { .section = ts_calls_enter() };
	struct sock *sk = sock->sk;
	int spliced = TS_BASE;

	for (;;) {
		struct ts_endpoint *ep = ts_endpoint(sk);
		unsigned long link = ep ? smp_load_acquire(&ep->link) : 0;

		if (unlikely(!link))
			break;
		if (unlikely(*ppos)) {
			spliced = -ESPIPE;
			break;
		}
		call.disconnects = ep->disconnects;
		spliced = tcp_splice_pipe(link, sk, pipe, min_t(size_t, len, INT_MAX), nonblock, &call);
		if (likely(spliced != -ESTALE))
			break;
		spliced = TS_BASE;
		ts_await_disconnect(sk);
	}
	ts_calls_leave(call.section);
	return spliced;
}

__ts_jumps ssize_t ts_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t len, unsigned int flags)
{
	int spliced = ts_try_splice_read(sock, ppos, pipe, len);

	return likely(spliced != TS_BASE) ? spliced : inet_stream_ops.splice_read(sock, ppos, pipe, len, flags);
}
