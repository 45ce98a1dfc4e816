/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The seam between C and Rust, all of it. src/ffi.rs is the same list in Rust; change both together.
 *
 * C does what Rust cannot without knowing kernel structures: macros, inline functions, tables, BTF sets. One forwarding line
 * each where possible, named after what it forwards to. Decisions are taken in Rust.
 *
 * A *link* is how a socket knows its pair: the pair's address with the socket's side (0 connected, 1 was accepted) in the lowest
 * bit; 0 is none.
 */
#ifndef _TCP_SPLICE_GLUE_H
#define _TCP_SPLICE_GLUE_H

#include <linux/limits.h>
#include <linux/types.h>

#include "sections.h"

struct sock;
struct msghdr;
struct seq_file;
struct sk_buff;
struct pipe_inode_info;
struct bpf_sock_ops_kern;
struct proto;
struct ts_call;
struct ts_endpoint_body;	/* Rust's part of an endpoint */
struct ts_pair_body;		/* Rust's part of a pair */

/* ---- what the kfunc sees of a socket (core::pairing::Facts) ---- */

#define TS_OBSTACLE_CALLBACK	(1U << 0)
#define TS_OBSTACLE_HANDSHAKE	(1U << 1)
#define TS_OBSTACLE_NOT_PLAIN	(1U << 2)
#define TS_OBSTACLE_TAKEN	(1U << 3)
#define TS_OBSTACLE_MULTIPATH	(1U << 4)
#define TS_OBSTACLE_POLICY	(1U << 5)
#define TS_OBSTACLE_URGENT	(1U << 6)
#define TS_OBSTACLE_REMOTE	(1U << 7)
#define TS_OBSTACLE_HELD_UP	(1U << 8)

struct ts_facts {
	struct sock *sk;
	u64 netns;
	u32 obstacles;
	u32 write_seq;
	u32 rcv_nxt;
	u32 txhash;
	u32 peer_hash;
	u8 has_peer_hash;
	u8 passive;
	u8 init_user_ns;
	u8 reserved;
};

void ts_facts(const struct bpf_sock_ops_kern *ctx, struct ts_facts *facts);

/* ---- what send and receive see of their own socket ---- */

#define TS_TX_ERR		(1U << 0)	/* sk_err */
#define TS_TX_SHUT		(1U << 1)	/* SEND_SHUTDOWN */
#define TS_TX_STATE		(1U << 2)	/* neither ESTABLISHED nor CLOSE_WAIT */
#define TS_TX_TCP_ONLY		(1U << 3)	/* transmit timestamps, repair mode, a reader that passes us by: needs segments */
#define TS_TX_PENDING		(1U << 4)	/* a sender sleeps inside base sendmsg */
#define TS_TX_UNACKED		(1U << 5)	/* TCP bytes are on their way, or held back (Nagle, MSG_MORE) */

/* Flags in the upper half, write_seq in the lower one. */
u64 ts_tx_view(const struct sock *sk, struct sock *const *peer);
bool ts_tx_is_quiet(const struct sock *sk, struct sock *const *peer, u32 border);

#define TS_RX_ERR		(1U << 0)	/* sk_err */
#define TS_RX_DONE		(1U << 1)	/* a FIN was received */
#define TS_RX_SHUT		(1U << 2)	/* RCV_SHUTDOWN */
#define TS_RX_CLOSE		(1U << 3)	/* TCP_CLOSE */
#define TS_RX_URGENT		(1U << 4)	/* the next byte is urgent; not an end */

struct ts_rx_view {
	u32 flags;		/* read first */
	u32 received;		/* rcv_nxt */
	u32 copied;		/* copied_seq */
	u32 disconnects;	/* sk_disconnects */
};

void ts_rx_view(const struct sock *sk, struct ts_rx_view *view);
int ts_tcp_inq(struct sock *sk);
int ts_rx_end(struct sock *sk);
u32 ts_disconnects(const struct sock *sk);
u32 ts_acknowledged(const struct sock *sk);
bool ts_is_patient(const struct sock *sk);

/* ---- memory ---- */

struct ts_endpoint_body *ts_endpoint_alloc(void);
void ts_endpoint_unmake(struct ts_endpoint_body *ep);
struct ts_pair_body *ts_pair_alloc(void);
void ts_pair_free(struct ts_pair_body *pair);
bool ts_pair_charge(struct ts_pair_body *pair);
void ts_pair_list(struct ts_pair_body *pair);
void ts_pair_unlist(struct ts_pair_body *pair);
void *ts_ring_alloc(size_t bytes);
void ts_ring_free(void *ring);
void *ts_chunk_alloc(size_t bytes);
void ts_chunk_free(void *chunk, size_t bytes);
void *ts_head_alloc(size_t bytes);
void ts_head_free(void *head, size_t bytes);

/* ---- endpoint and socket ---- */

bool ts_claim(struct sock *sk, struct ts_endpoint_body *ep);
void ts_install(struct sock *sk, struct ts_endpoint_body *ep, bool busy_polls);
void ts_endpoint_enlist(struct ts_endpoint_body *ep, unsigned int set);
void ts_stale_watch(void);
struct sock *ts_endpoint_sock(struct ts_endpoint_body *ep);
unsigned long ts_endpoint_link(const struct ts_endpoint_body *ep);
void ts_endpoint_set_link(struct ts_endpoint_body *ep, unsigned long link);
void ts_sock_hold(struct sock *sk);
void ts_sock_put(struct sock *sk);
void ts_lock_sock(struct sock *sk);
void ts_release_sock(struct sock *sk);
void ts_linger_reset(struct sock *sk);

#define TS_PLAIN_DRAINED	255	/* beside the numbers of refusals */

/* What an end has sent through its ring, and how often that woke the other end, or found the ring full. */
struct ts_carried {
	u64 ring_bytes;
	u32 wakes;
	u32 stalls;
};

void ts_plain_note(struct sock *sk, bool accepted, u8 why, const struct ts_carried *carried);

/* ---- the registry's locks and hash ---- */

unsigned long ts_registry_lock(unsigned int set);
void ts_registry_unlock(unsigned int set, unsigned long flags);
u32 ts_registry_hash(u32 active_seq, u32 passive_seq);
void ts_registry_init(void);
void ts_copy_init(void);

/* ---- lane locks: 0 and 1 send, 2 and 3 receive ---- */

void ts_lane_lock(struct ts_pair_body *pair, unsigned int which);
bool ts_lane_trylock(struct ts_pair_body *pair, unsigned int which, bool patient);
void ts_lane_unlock(struct ts_pair_body *pair, unsigned int which);
bool ts_lane_is_locked(struct ts_pair_body *pair, unsigned int which);

/* ---- bytes ---- */

size_t ts_copy_from_iter(void *to, size_t bytes, struct msghdr *msg);
size_t ts_copy_to_iter(const void *from, size_t bytes, struct msghdr *msg);
void ts_iov_iter_revert(struct msghdr *msg, size_t bytes);
int ts_base_sendmsg(struct sock *sk, struct msghdr *msg, size_t size);
int ts_base_sendmsg_rest(struct sock *sk, struct msghdr *msg, size_t size, u32 disconnects, bool force, bool *starved);
int ts_base_recvmsg_nowait(struct sock *sk, struct msghdr *msg, size_t len, int flags);
int ts_base_peek_nowait(struct sock *sk, struct msghdr *msg, size_t len, int flags, int offset);

struct ts_control {
	void *at;
	size_t len;
};

struct ts_control ts_control_of(const struct msghdr *msg);
void ts_control_reset(struct msghdr *msg, struct ts_control control);
void ts_put_inq(struct sock *sk, struct msghdr *msg, int inq, struct ts_control control);
bool ts_base_stream_memory_free(const struct sock *sk, int wake);
int ts_peek_off(const struct sock *sk);
void ts_peek_off_move(struct sock *sk, int bytes, bool peek);

#define TS_EXTRA_INQ		(1U << 0)	/* the reader wants to know what is left (TCP_INQ, msg_get_inq) */
#define TS_EXTRA_PEEK_OFF	(1U << 1)	/* SO_PEEK_OFF is on */

u32 ts_recv_extras(const struct sock *sk, const struct msghdr *msg);

/* ---- bytes that go back to TCP ---- */

struct ts_queue {
	struct sk_buff *first;
	struct sk_buff *last;
};

bool ts_queue_add(struct ts_queue *queue, const void *from, size_t len);
void ts_queue_free(struct ts_queue *queue);
int ts_queue_insert(struct sock *sk, struct ts_queue *queue, u32 disconnects, u32 bytes, u32 border, u64 sent, u64 received,
		    unsigned int how);

/* ---- pipes ---- */

long ts_pipe_add(struct pipe_inode_info *pipe, const void *from, size_t len, bool lend);
bool ts_pipe_lends(size_t len);
bool ts_chunk_is_lent(const void *chunk);
long ts_pipe_base_recv(struct sock *sk, struct pipe_inode_info *pipe, size_t len);

/* ---- waiting, waking, spinning ---- */

#define TS_WAIT_WORDS 8

struct ts_wait {
	u64 opaque[TS_WAIT_WORDS];
};

void ts_wait_begin(struct sock *sk, struct ts_wait *wait);
long ts_sleep(struct ts_call *call, long timeout);
void ts_wait_end(struct sock *sk, struct ts_wait *wait);
long ts_rcvtimeo(const struct sock *sk);
long ts_sndtimeo(const struct sock *sk);
int ts_rcvlowat(const struct sock *sk, bool waitall, int len);
bool ts_signal_pending(void);
int ts_intr_errno(long timeout);
void ts_set_nospace(struct sock *sk);
void ts_wake_at_acknowledgements(struct sock *sk);
int ts_stream_error(struct sock *sk, int flags, int err);
void ts_wake_writers(struct sock *sk);
void ts_wake_ours(struct sock *sk);
bool ts_tcp_has_room(struct sock *sk);
bool ts_notify_readable(struct sock *const *slot);
void ts_notify_writeable(struct sock *const *slot);
u64 ts_tcp_would_hold(struct sock *const *from, struct sock *const *to);
long ts_stall_jiffies(void);
long ts_end_jiffies(void);
bool ts_wake_ahead(struct sock *const *slot, bool pollers);
bool ts_is_in_a_batch(void);
bool ts_base_reader_asleep(struct sock *const *slot);
void ts_kick_base_reader(struct sock *sk);
u32 ts_busy_poll_us(const struct sock *sk);
u64 ts_clock_us(void);
u64 ts_coarse_clock_us(void);
bool ts_must_stop_spinning(void);
bool ts_is_alone_here(void);
u32 ts_spin_us(void);
u32 ts_cpu(void);

/* ---- statistics and parameters ---- */

void ts_stat_add(unsigned int counter, u64 value);
u64 ts_stat_sum(unsigned int counter);
void ts_seq_line(struct seq_file *seq, const char *name, size_t name_len, u64 value);
void ts_seq_word(struct seq_file *seq, const char *word, size_t len);
void ts_seq_number(struct seq_file *seq, const char *name, u64 value);
u32 ts_ring_kbytes(void);
void ts_bug(void) __noreturn;

/* ---- Rust, called from C ---- */

/* Not a result: nothing was done, and base is to do it, with no lock held and none of our frames. */
#define TS_BASE			INT_MIN

/* Why and how a socket goes back to TCP (tcp_splice_hand_back()). */
#define TS_BACK_FOR_GOOD	0	/* somebody needs TCP alone, and waits */
#define TS_BACK_DRAINED		1	/* the module lets go of it: -EAGAIN instead of waiting for a lock */
#define TS_BACK_CHILD		2	/* the same of one that nobody has accepted yet */

/* What a message needs (tcp_splice_sendmsg()). */
#define TS_NEED_NOTHING		0	/* the ring will do */
#define TS_NEED_TCP		1	/* packets: this message goes over TCP */
#define TS_NEED_TCP_FOR_GOOD	2	/* urgent data: so do all that follow */

/* What tcp_splice_poll() found. */
#define TS_POLL_READABLE	(1U << 0)
#define TS_POLL_WRITEABLE	(1U << 1)

#define TS_COUNTERS		64	/* room for every counter of src/stats.rs, which checks it */
#define TS_ENDPOINT_BYTES	32	/* room for struct Endpoint of core/src/life.rs; src/life.rs checks it */
#define TS_PAIR_BYTES		832	/* room for struct Pair of src/pair.rs, which checks it */

int tcp_splice_init(void);
void tcp_splice_exit(void);
int tcp_splice_pair(const struct bpf_sock_ops_kern *ctx, u64 flags, u32 busy_poll_us, u32 ring_kbytes);
int tcp_splice_sendmsg(unsigned long link, struct sock *sk, struct msghdr *msg, size_t size, int flags, unsigned int need,
		       struct ts_call *call);
int tcp_splice_recvmsg(unsigned long link, struct sock *sk, struct msghdr *msg, size_t len, int flags, struct ts_call *call);
int tcp_splice_pipe(unsigned long link, struct sock *sk, struct pipe_inode_info *pipe, size_t len, int flags, struct ts_call *call);
unsigned int tcp_splice_poll(unsigned long link, u32 received);
void tcp_splice_polled(unsigned long link, bool edges);
bool tcp_splice_readable(unsigned long link, struct sock *sk);
bool tcp_splice_writeable(unsigned long link, const struct sock *sk, int wake);
int tcp_splice_inq(unsigned long link, struct sock *sk);
u32 tcp_splice_ring_readable(unsigned long link, struct sock *sk);
void tcp_splice_shutdown(unsigned long link);
void tcp_splice_unhash(unsigned long link);
void tcp_splice_close(struct sock *sk, struct ts_endpoint_body *ep);
void tcp_splice_disconnect(struct sock *sk, struct ts_endpoint_body *ep);
bool tcp_splice_withdraw(struct ts_endpoint_body *ep);
int tcp_splice_hand_back(struct sock *sk, struct ts_endpoint_body *ep, u32 disconnects, unsigned int how);
void tcp_splice_ring_bytes(unsigned long link, u64 *sent, u64 *received);
void tcp_splice_release_cb(unsigned long link, struct sock *sk);
bool tcp_splice_release(struct ts_endpoint_body *ep);
void tcp_splice_note_drained(struct sock *sk, struct ts_endpoint_body *ep);
void tcp_splice_endpoint_let_go(struct ts_endpoint_body *ep);
void tcp_splice_endpoint_free(struct ts_endpoint_body *ep);
int tcp_splice_ring_kbytes(u32 request, u32 *kbytes);
void tcp_splice_show(struct seq_file *seq);
bool tcp_splice_hold_if_idle(struct ts_pair_body *pair);
void tcp_splice_rest(struct ts_pair_body *pair);
struct sock *const *tcp_splice_slot(const struct ts_pair_body *pair, unsigned int side);
#ifdef TS_CHECKED
void tcp_splice_provoke_write(void *word);
#endif
void tcp_splice_show_why(struct seq_file *seq, u8 why);
void tcp_splice_show_carried(struct seq_file *seq, unsigned int side, const struct ts_carried *carried);
void tcp_splice_show_lane(struct seq_file *seq, const struct ts_pair_body *pair, unsigned int side);

/* ---- among the C files ---- */

extern const struct kernel_param_ops ts_ring_kbytes_ops;
int ts_proto_init(void);
void ts_proto_abandon(void);
void ts_proto_exit(void);
int ts_pairs_init(void);
void ts_pairs_exit(void);
void ts_idle_exit(void);
void ts_idle_watch(void);
int ts_stale_init(void);
void ts_stale_exit(void);
int ts_memory_init(void);
void ts_memory_exit(void);

/* MSG_ flags that Rust reads; glue.c checks them against the kernel's. */
#define TS_MSG_OOB		0x1
#define TS_MSG_PEEK		0x2
#define TS_MSG_TRUNC		0x20
#define TS_MSG_DONTWAIT		0x40
#define TS_MSG_WAITALL		0x100
#define TS_MSG_ERRQUEUE		0x2000

#endif
