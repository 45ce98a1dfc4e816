/* SPDX-License-Identifier: GPL-2.0-only */
/* What the C files share about sockets; Rust sees none of it. */
#ifndef _TCP_SPLICE_ENDPOINT_H
#define _TCP_SPLICE_ENDPOINT_H

#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/srcu.h>
#include <net/inet_connection_sock.h>
#include <net/tcp.h>
#include <net/transp_v6.h>

#include "api.h"
#include "glue.h"
#include "index.h"

/*
 * Our object for one connection of a socket. It lives from the kfunc until the socket was destroyed (ts_ulp_release) or lost it before
 * (ts_take_off); then, unless it was never paired, for a grace period, and until the calls that may have found it are through.
 */
struct ts_endpoint {
	unsigned long link;		/* 0 while not paired; see glue.h */
	struct sock *sk;
	u32 disconnects;		/* sk_disconnects when it was installed: the link is of that connection */
	bool grafted;			/* its struct socket has our ops, or had somebody else's; behind the socket's lock */
	bool closed;			/* by the last descriptor: its destroy comes next */
	bool counted;			/* among those whose number is limited: ts_is_held_up() */
	bool drained;			/* handed back by a drain: it is to be noted as such when it is taken off */
	u8 tenant;			/* whose, if it is counted */
	bool busy_polls;		/* the policy wants its receiver to spin before it sleeps */
	u64 made;			/* jiffies */
	struct ts_node node;		/* in ts_endpoints (main.c), until nobody can find it any more */
	struct rcu_head rcu;
	u8 body[TS_ENDPOINT_BYTES] __aligned(8);
};

static inline struct ts_endpoint *ts_endpoint_of(const struct ts_endpoint_body *body)
{
	return container_of((u8 (*)[TS_ENDPOINT_BYTES])body, struct ts_endpoint, body);
}

struct ts_pair {
	struct {
		struct mutex lock;
	} ____cacheline_aligned_in_smp lane[4];
	struct ts_node node;	/* pairs.c */
	u8 body[TS_PAIR_BYTES] __aligned(64);
};

/* The module for kernels with checkers (Kbuild) looks for what is read of new memory before it is written, which no checker does here. */
#ifdef TS_CHECKED
#define ts_is_checked true
#else
#define ts_is_checked false
#endif

static inline void ts_spoil(void *memory, size_t bytes)
{
	if (ts_is_checked)
		memset(memory, 0x5a, bytes);
}

extern const struct tcp_ulp_ops ts_ulp;

/*
 * Ends in a jump to base, with no frame of ours left (proto.c). KCSAN has functions say when they end, after their last call: not these, which
 * leave the work to others.
 */
#define __ts_jumps	__no_kcsan

/* proto.c */

/* What a socket that nobody took over calls. None of it needs the socket's lock. */
struct ts_callbacks {
	void (*data_ready)(struct sock *sk);
	void (*write_space)(struct sock *sk);
	void (*state_change)(struct sock *sk);
	void (*error_report)(struct sock *sk);
};

extern struct ts_callbacks ts_default;

static inline bool ts_callbacks_are_default(const struct sock *sk)
{
	return sk->sk_data_ready == ts_default.data_ready && sk->sk_write_space == ts_default.write_space &&
	       sk->sk_state_change == ts_default.state_change && sk->sk_error_report == ts_default.error_report;
}

#if IS_ENABLED(CONFIG_IPV6)
#define TS_PROT6	(&tcpv6_prot)
#else
#define TS_PROT6	(&tcp_prot)
#endif

static inline bool ts_proto_is_base(const struct sock *sk)
{
	const struct proto *prot = READ_ONCE(sk->sk_prot);

	return prot == &tcp_prot || prot == TS_PROT6;
}

/* Nobody holds the ULP slot or sk_user_data. Socket lock held. */
static inline bool ts_slots_are_free(const struct sock *sk)
{
	return !inet_csk(sk)->icsk_ulp_ops && !rcu_access_pointer(sk->sk_user_data);
}

bool ts_is_taken(const struct sock *sk);
void ts_uninstall_protocol(struct sock *sk);
void ts_take_off(struct sock *sk, struct ts_endpoint *ep, bool counted);
void ts_await_disconnect(struct sock *sk);

/* main.c */

/*
 * Ring memory is the sender's: charged to its memory cgroup, and without it the connection simply stays TCP. __GFP_NORETRY has a cgroup at
 * its memory.max refuse, where it would kill (try_charge_memcg()).
 */
#define TS_GFP_RING (GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_NORETRY)

bool ts_rings_have_memory(void);
extern struct ts_index ts_endpoints;

/* Of a set of the registry, whose lock is the bucket's. */
static inline struct ts_bucket *ts_bucket_of_set(unsigned int set)
{
	return &ts_endpoints.buckets[set % TS_BUCKETS];
}

extern atomic_t ts_drains;
extern atomic_long_t ts_drained;
void ts_endpoint_discard(struct ts_endpoint *ep, bool known);
void ts_endpoint_retire(struct ts_endpoint *ep, bool counted);
bool ts_is_held_up(const struct sock *sk);
bool ts_retired_are_many(void);

/* drain.c */
bool ts_lock_unowned(struct sock *sk, bool alone, bool patient);
void ts_give_up(struct sock *sk, struct ts_endpoint *ep);
void ts_unlock_unowned(struct sock *sk);
int ts_drain_init(void);
void ts_drain_exit(void);

/* plain.c */
int ts_plain_init(void);
void ts_plain_exit(void);

/* pairs.c */
void ts_show_sock(struct seq_file *seq, unsigned int side, struct sock *sk);

/* options.c */
int ts_setsockopt(struct sock *sk, int level, int optname, sockptr_t optval, unsigned int optlen);
int ts_getsockopt(struct sock *sk, int level, int optname, char __user *optval, int __user *optlen);

/* napi.c */
int ts_napi_init(void);
void ts_napi_exit(void);
void ts_napi_mark(struct sock *sk);

/* pipe.c */
ssize_t ts_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t len, unsigned int flags);

/*
 * Calls that may sleep. Whoever takes an endpoint off a socket whose descriptor is open (ts_take_off()) has it wait for those that found it there.
 * A callback that may sleep is inside from its first look at the endpoint to the end, or ends in a jump to base: a thread that sleeps with
 * one of our frames under it, outside, would return into a module that has gone. Waiting for bytes or room, which may take for ever, is done
 * outside (ts_sleep()): whoever does so has a reference to the pair, which has one to the module.
 */
extern struct srcu_struct ts_calls;

/* A call inside, as Rust gets it. */
struct ts_call {
	struct srcu_ctr __percpu *section;
	u32 disconnects;	/* sk_disconnects of the link's connection */
};

static __always_inline struct srcu_ctr __percpu *ts_calls_enter(void)
{
	return srcu_read_lock_fast(&ts_calls);
}

static __always_inline void ts_calls_leave(struct srcu_ctr __percpu *calls)
{
	srcu_read_unlock_fast(&ts_calls, calls);
}

static __always_inline struct ts_endpoint *ts_user_data(const struct sock *sk)
{
	return (struct ts_endpoint *)((uintptr_t)READ_ONCE(sk->sk_user_data) & SK_USER_DATA_PTRMASK);
}

/*
 * The endpoint of a socket, or NULL. The caller has the socket's file and is inside ts_calls; or holds the socket's lock; or came to the
 * socket through a pair, in an RCU read-side section. That long it may use what it finds.
 *
 * Three loads without a lock, while the slot may be given to another ULP (ts_setsockopt) whose data must not be taken for ours:
 * the pointer in sk_user_data is an endpoint of this socket or something that somebody put there without asking, and only an
 * endpoint of this socket can stand in icsk_ulp_data as well. Pairs with the release in ts_install().
 */
static __always_inline struct ts_endpoint *ts_endpoint(const struct sock *sk)
{
	const struct inet_connection_sock *icsk = inet_csk(sk);

	struct ts_endpoint *ep;

	if (unlikely(smp_load_acquire(&icsk->icsk_ulp_ops) != &ts_ulp))
		return NULL;
	ep = (struct ts_endpoint *)rcu_access_pointer(icsk->icsk_ulp_data);
	return likely(ep == ts_user_data(sk)) ? ep : NULL;
}

static __always_inline unsigned long ts_link(const struct sock *sk)
{
	const struct ts_endpoint *ep = ts_endpoint(sk);

	return ep ? smp_load_acquire(&ep->link) : 0;
}

/* An offer lives for 5 s (LIFETIME of core/src/life.rs): one that has no link after this time will have none. */
static __always_inline bool ts_is_overdue(const struct ts_endpoint *ep)
{
	return get_jiffies_64() - ep->made > 6 * HZ;
}

/* Is @listed on this socket? It was once; it is not looked into before it is seen to be there. Socket locked. */
static inline bool ts_carries(const struct sock *sk, const struct ts_endpoint *listed)
{
	return inet_csk(sk)->icsk_ulp_ops == &ts_ulp && rcu_access_pointer(inet_csk(sk)->icsk_ulp_data) == listed;
}

static inline int ts_call_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
#if TS_HAVE_RECVMSG_PLAIN
	return tcp_prot.recvmsg(sk, msg, len, flags);
#else
	int addr_len;

	return tcp_prot.recvmsg(sk, msg, len, flags, &addr_len);
#endif
}

#endif
