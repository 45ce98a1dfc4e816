// SPDX-License-Identifier: GPL-2.0-only
/* The module: parameters, memory, the kfunc, /proc/net/tcp_splice_stat, init and exit. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/filter.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/percpu_counter.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <net/net_namespace.h>

#include "delay.h"
#include "glue.h"
#include "endpoint.h"

/* ---- parameters ---- */

static u32 ts_param_ring_kbytes __read_mostly = 64;

static int ts_param_set_ring_kbytes(const char *val, const struct kernel_param *kp)
{
	u32 request, kbytes;
	int err = kstrtou32(val, 0, &request);

	if (!err)
		err = tcp_splice_ring_kbytes(request, &kbytes);
	if (err)
		return err;
	WRITE_ONCE(ts_param_ring_kbytes, kbytes);
	return 0;
}

const struct kernel_param_ops ts_ring_kbytes_ops = {
	.set = ts_param_set_ring_kbytes,
	.get = param_get_uint,
};

module_param_cb(ring_kbytes, &ts_ring_kbytes_ops, &ts_param_ring_kbytes, 0644);
__MODULE_PARM_TYPE(ring_kbytes, "uint");
MODULE_PARM_DESC(ring_kbytes, "size of a ring in KiB, 4 to 16384, rounded up to a power of two; for later connections (default 64)");

__ts_spliced u32 ts_ring_kbytes(void)
{
	return READ_ONCE(ts_param_ring_kbytes);
}

/* ---- memory ---- */

struct ts_index ts_endpoints;
static struct kmem_cache *ts_endpoint_cache __ro_after_init;

#if TS_HAVE_SRCU_FAST_DECLARED
DEFINE_SRCU_FAST(ts_calls);
#else
DEFINE_SRCU(ts_calls);
#endif

/*
 * Endpoints that were taken off sockets which live on, and wait for calls. One call anywhere that is stuck, in a page fault say, keeps them all,
 * and their pairs: without a limit a program that connects one socket again and again would have the kernel's memory. So many of a
 * tenant's may wait, and more while others of its come through; then its connections stay TCP. Those of other tenants do not, unless so many
 * wait of several together that all have to: whoever has many users at hand can bring that about.
 */
#define TS_RETIRED_MAX	1024			/* when none of the tenant's has come through for a second */
#define TS_RETIRED_MOST	(4 * TS_RETIRED_MAX)
#define TS_RETIRED_ALL	(16 * TS_RETIRED_MAX)	/* of all tenants */
#define TS_TENANT_BITS	8

static struct {
	atomic_t waiting;
	unsigned long left_at;	/* when the last had waited long enough */
} ts_tenants[1 << TS_TENANT_BITS];
static atomic_t ts_retired;

/*
 * A tenant is a network namespace of the initial user namespace; or all those together inside a user namespace that root made, a container's say; or
 * inside all that another user made, who may make any number. Where two meet by chance they share what they may; a user's place is
 * never a namespace's.
 */
static u8 ts_tenant(const struct sock *sk)
{
	const struct net *net = sock_net(sk);
	const struct user_namespace *user = net->user_ns;

	if (user == &init_user_ns)
		return hash_ptr(net, TS_TENANT_BITS - 1);
	while (user->parent != &init_user_ns)
		user = user->parent;
	if (uid_eq(user->owner, GLOBAL_ROOT_UID))
		return hash_ptr(user, TS_TENANT_BITS - 1);
	return 1 << (TS_TENANT_BITS - 1) | hash_32(__kuid_val(user->owner), TS_TENANT_BITS - 1);
}

static noinline bool ts_tenant_is_held_up(const struct sock *sk)
{
	unsigned int tenant = ts_tenant(sk);
	int waiting = atomic_read(&ts_tenants[tenant].waiting);

	if (atomic_read(&ts_retired) >= TS_RETIRED_ALL || waiting >= TS_RETIRED_MOST)
		return true;
	return waiting >= TS_RETIRED_MAX && time_after(jiffies, READ_ONCE(ts_tenants[tenant].left_at) + HZ);
}

/* Any context. */
__ts_offered bool ts_is_held_up(const struct sock *sk)
{
	return unlikely(atomic_read(&ts_retired) >= TS_RETIRED_MAX) && ts_tenant_is_held_up(sk);
}

/* Whoever lets go of many at once (stale.c) leaves it at that for now. Any context. */
bool ts_retired_are_many(void)
{
	return atomic_read(&ts_retired) >= TS_RETIRED_MAX / 2;
}

/* Objects that have a constructor are not cleared at each allocation, whatever init_on_alloc says: all that is read of one is written before. */
static void ts_endpoint_construct(void *object)
{
	memset(object, 0, sizeof(struct ts_endpoint));
}

/* ts_install() and Rust write the rest. */
__ts_offered struct ts_endpoint_body *ts_endpoint_alloc(void)
{
	struct ts_endpoint *ep = kmem_cache_alloc(ts_endpoint_cache, GFP_ATOMIC | __GFP_NOWARN);

	if (!ep)
		return NULL;
	ts_spoil(ep, sizeof(*ep));
	ep->link = 0;
	ep->sk = NULL;
	ep->closed = false;
	ep->counted = false;
	ep->drained = false;
	return (struct ts_endpoint_body *)ep->body;
}

/* Of an endpoint that nobody knows of, or the last step of freeing one. */
__ts_offered void ts_endpoint_unmake(struct ts_endpoint_body *body)
{
	kmem_cache_free(ts_endpoint_cache, ts_endpoint_of(body));
}

static __ts_offered void ts_endpoint_free(struct ts_endpoint *ep)
{
	tcp_splice_endpoint_let_go((struct ts_endpoint_body *)ep->body);
	tcp_splice_endpoint_free((struct ts_endpoint_body *)ep->body);
	ts_endpoint_unmake((struct ts_endpoint_body *)ep->body);
}

/* An RCU callback. */
static __ts_spliced void ts_endpoint_unknown(struct rcu_head *rcu)
{
	ts_endpoint_free(container_of(rcu, struct ts_endpoint, rcu));
	module_put(THIS_MODULE);	/* exit waits for the callbacks with barriers */
}

/* Drains under way, and sockets that were drained so far. */
atomic_t ts_drains;
atomic_long_t ts_drained;

/*
 * A socket's endpoint, when nobody can find it any more and no call is under way. Any context, the socket's lock held or its last
 * reference gone: a drain that found it was announced before it locked the socket to look.
 *
 * @known: to the other end of a connection, which may be looking at it under RCU. One that is not, of a socket that had no connection before, is
 * freed at once: the index was the last way to it, and those who walk there look at what they find with its bucket locked.
 *
 * tcp_cleanup_ulp() puts the slot's reference to the module when this has returned; an endpoint that stays longer has one of its own.
 */
__ts_offered void ts_endpoint_discard(struct ts_endpoint *ep, bool known)
{
	bool drains = unlikely(atomic_read(&ts_drains));

	if (!drains && !known && !ep->disconnects) {
		ts_index_remove(&ep->node);
		ts_endpoint_free(ep);
		return;
	}
	__module_get(THIS_MODULE);
	if (drains) {
		ts_endpoint_retire(ep, false);
	} else {
		ts_index_remove(&ep->node);
		call_rcu(&ep->rcu, ts_endpoint_unknown);
	}
}

/* An SRCU callback: no call is under way that found it. */
static void ts_endpoint_left(struct rcu_head *rcu)
{
	struct ts_endpoint *ep = container_of(rcu, struct ts_endpoint, rcu);

	if (ep->counted) {
		WRITE_ONCE(ts_tenants[ep->tenant].left_at, jiffies);
		atomic_dec(&ts_tenants[ep->tenant].waiting);
		atomic_dec(&ts_retired);
	}
	ts_delay_at(retired);
	tcp_splice_endpoint_free((struct ts_endpoint_body *)ep->body);
	ts_endpoint_unmake((struct ts_endpoint_body *)ep->body);
	module_put(THIS_MODULE);	/* as in ts_endpoint_unknown() */
}

/* An RCU callback: the other end is not looking at it. Its socket need not wait for calls, which may be stuck, and of other sockets. */
static void ts_endpoint_parted(struct rcu_head *rcu)
{
	struct ts_endpoint *ep = container_of(rcu, struct ts_endpoint, rcu);

	tcp_splice_endpoint_let_go((struct ts_endpoint_body *)ep->body);
	call_srcu(&ts_calls, rcu, ts_endpoint_left);
}

/*
 * The same while calls may be under way that found it. @counted: among those of which there may not be any number. The endpoint gets the caller's
 * reference to the module.
 */
void ts_endpoint_retire(struct ts_endpoint *ep, bool counted)
{
	ep->counted = counted;
	if (counted) {
		ep->tenant = ts_tenant(ep->sk);
		atomic_inc(&ts_retired);
		if (atomic_inc_return(&ts_tenants[ep->tenant].waiting) == 1)
			WRITE_ONCE(ts_tenants[ep->tenant].left_at, jiffies);
	}
	ts_index_remove(&ep->node);
	/* Not lazily: they are counted, and a lazy callback may take ten seconds. */
	call_rcu_hurry(&ep->rcu, ts_endpoint_parted);
}

/* Drains find it from here on. It is installed; the lock of its set is held. */
__ts_offered void ts_endpoint_enlist(struct ts_endpoint_body *body, unsigned int set)
{
	ts_bucket_add(ts_bucket_of_set(set), &ts_endpoint_of(body)->node);
}

__ts_spliced struct sock *ts_endpoint_sock(struct ts_endpoint_body *body)
{
	return ts_endpoint_of(body)->sk;
}

__ts_offered unsigned long ts_endpoint_link(const struct ts_endpoint_body *body)
{
	return smp_load_acquire(&ts_endpoint_of(body)->link);
}

__ts_spliced void ts_endpoint_set_link(struct ts_endpoint_body *body, unsigned long link)
{
	smp_store_release(&ts_endpoint_of(body)->link, link);
}

/* A table of chunks: a few pointers, but many for a ring of many MiB. */
__ts_spliced void *ts_ring_alloc(size_t bytes)
{
	return bytes <= PAGE_SIZE ? kzalloc(bytes, TS_GFP_RING) : kvzalloc(bytes, TS_GFP_RING);
}

__ts_spliced void ts_ring_free(void *ring)
{
	kvfree(ring);
}

/*
 * Pages that rings have or are about to get. Each processor counts up to so many by itself, so that connections which come and go on several do
 * not meet here; near the limit it is added up exactly.
 */
static struct percpu_counter ts_ring_pages;
#define TS_RING_PAGES_BATCH 64
static long ts_ring_pages_default __ro_after_init;

static unsigned int ts_memory_mbytes __read_mostly;
module_param_named(memory_mbytes, ts_memory_mbytes, uint, 0644);
MODULE_PARM_DESC(memory_mbytes, "most memory that all rings together may hold, in MiB; connections beyond that stay TCP (default 0: an eighth of all)");

/* By default as much as TCP's own buffers (tcp_init_mem()). */
static long ts_ring_pages_max(void)
{
	unsigned int mbytes = READ_ONCE(ts_memory_mbytes);

	return mbytes ? (long)mbytes << (20 - PAGE_SHIFT) : ts_ring_pages_default;
}

/* Any context. */
static __ts_spliced void ts_ring_pages_give(long pages)
{
	percpu_counter_add_batch(&ts_ring_pages, -pages, TS_RING_PAGES_BATCH);
}

/* False: all rings together have as much as they may. */
static __ts_spliced bool ts_ring_pages_take(long pages)
{
	percpu_counter_add_batch(&ts_ring_pages, pages, TS_RING_PAGES_BATCH);
	smp_mb();	/* before anything of it is given back: ts_rings_have_memory() */
	ts_idle_watch();
	if (likely(__percpu_counter_compare(&ts_ring_pages, ts_ring_pages_max(), TS_RING_PAGES_BATCH) <= 0))
		return true;
	ts_ring_pages_give(pages);
	return false;
}

static __ts_spliced void *ts_ring_pages_have(void *memory, long pages)
{
	if (unlikely(!memory))
		ts_ring_pages_give(pages);
	return memory;
}

__ts_spliced void *ts_chunk_alloc(size_t bytes)
{
	long pages = 1L << get_order(bytes);

	if (!ts_ring_pages_take(pages))
		return NULL;
	return ts_ring_pages_have((void *)__get_free_pages(TS_GFP_RING | __GFP_COMP, get_order(bytes)), pages);
}

/* A page's worth, but no page: slab caches keep some at hand, and most connections need nothing else. It cannot be lent. */
__ts_spliced void *ts_head_alloc(size_t bytes)
{
	long pages = DIV_ROUND_UP(bytes, PAGE_SIZE);

	if (!ts_ring_pages_take(pages))
		return NULL;
	return ts_ring_pages_have(kmalloc(bytes, TS_GFP_RING), pages);
}

__ts_spliced void ts_head_free(void *head, size_t bytes)
{
	kfree(head);
	ts_ring_pages_give(DIV_ROUND_UP(bytes, PAGE_SIZE));
}

/*
 * For the worker that idle rings have. What is taken while it adds up may be seen when given back and not before, and the sum be too small; but then
 * ts_idle_watch() was called after the worker had begun, and it comes once more. What is given back alone makes it too large at worst.
 */
bool ts_rings_have_memory(void)
{
	return percpu_counter_sum(&ts_ring_pages) > 0;
}

/* Pipes may still have references to it (ts_pipe_add()): then it is free when they are done. */
__ts_spliced void ts_chunk_free(void *chunk, size_t bytes)
{
	free_pages((unsigned long)chunk, get_order(bytes));
	ts_ring_pages_give(1L << get_order(bytes));
}

int __init ts_memory_init(void)
{
	static struct lock_class_key key;
	int err = percpu_counter_init(&ts_ring_pages, 0, GFP_KERNEL);

	if (err)
		return err;
	ts_ring_pages_default = totalram_pages() / 8;
	ts_index_init(&ts_endpoints, &key);
	ts_endpoint_cache = kmem_cache_create("tcp_splice_endpoint", sizeof(struct ts_endpoint), 0, SLAB_HWCACHE_ALIGN | SLAB_NO_MERGE,
					      ts_endpoint_construct);
	if (!ts_endpoint_cache) {
		percpu_counter_destroy(&ts_ring_pages);
		return -ENOMEM;
	}
	return 0;
}

void ts_memory_exit(void)
{
	kmem_cache_destroy(ts_endpoint_cache);
	percpu_counter_destroy(&ts_ring_pages);
}

/* ---- statistics ---- */

struct ts_counters {
	u64 value[TS_COUNTERS];
};

static DEFINE_PER_CPU(struct ts_counters, ts_counters);

__ts_offered void ts_stat_add(unsigned int counter, u64 value)
{
	u64 __percpu *values = ts_counters.value;	/* as an array it would be checked twice */

	if (likely(counter < TS_COUNTERS))
		this_cpu_add(values[counter], value);
}

u64 ts_stat_sum(unsigned int counter)
{
	u64 sum = 0;
	int cpu;

	if (counter < TS_COUNTERS)
		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu(ts_counters, cpu).value[counter]);
	return sum;
}

void ts_seq_line(struct seq_file *seq, const char *name, size_t name_len, u64 value)
{
	seq_printf(seq, "%.*s %llu\n", (int)name_len, name, value);
}

void ts_seq_word(struct seq_file *seq, const char *word, size_t len)
{
	seq_write(seq, word, len);
}

void ts_seq_number(struct seq_file *seq, const char *name, u64 value)
{
	seq_put_decimal_ull(seq, name, value);
}

static int ts_stat_show(struct seq_file *seq, void *unused)
{
	tcp_splice_show(seq);
	seq_printf(seq, "drained %lu\n", (unsigned long)atomic_long_read(&ts_drained));
	return 0;
}

/* ---- the kfunc ---- */

__bpf_kfunc_start_defs();

/**
 * bpf_tcp_splice_pair() - offer this end of a connection to be joined with its other end
 * @ctx: the sock_ops context, at ACTIVE_ESTABLISHED or PASSIVE_ESTABLISHED
 * @flags: 0, or 1: only with an end in the same network namespace
 * @busy_poll_us: how long this end's receiver spins before it sleeps; 0: the socket's SO_BUSY_POLL
 * @ring_kbytes: size of the ring that this end sends into; 0: the module's ring_kbytes
 *
 * Return: 0 if the end was offered or joined, -EINVAL for bad arguments, another error if it stays plain TCP.
 */
__bpf_kfunc __ts_offered int bpf_tcp_splice_pair(struct bpf_sock_ops *ctx, u64 flags, u32 busy_poll_us, u32 ring_kbytes)
{
	return tcp_splice_pair((struct bpf_sock_ops_kern *)ctx, flags, busy_poll_us, ring_kbytes);
}

__bpf_kfunc_end_defs();

BTF_KFUNCS_START(ts_kfuncs)
BTF_ID_FLAGS(func, bpf_tcp_splice_pair)
BTF_KFUNCS_END(ts_kfuncs)

/* The hook is shared with other cgroup program types, which have no socket in a known state. */
static int ts_kfunc_filter(const struct bpf_prog *prog, u32 kfunc_id)
{
	if (!btf_id_set8_contains(&ts_kfuncs, kfunc_id))
		return 0;
	return prog->type == BPF_PROG_TYPE_SOCK_OPS ? 0 : -EACCES;
}

static const struct btf_kfunc_id_set ts_kfunc_set = {
	.owner = THIS_MODULE,
	.set = &ts_kfuncs,
	.filter = ts_kfunc_filter,
};

/* ---- init and exit ---- */

static int __init ts_init(void)
{
	int err = ts_memory_init();

	if (err)
		return err;
	/* Before 6.19 it learns from its first reader how it is read, which has to be known before anybody waits. */
	ts_calls_leave(ts_calls_enter());
	err = ts_napi_init();
	if (err)
		goto free_memory;
	err = ts_pairs_init();
	if (err)
		goto exit_napi;
	err = ts_proto_init();
	if (err)
		goto exit_pairs;
	ts_registry_init();
	ts_copy_init();
	err = tcp_splice_init();
	if (err)
		goto abandon_proto;
	if (!proc_create_single("tcp_splice_stat", 0444, init_net.proc_net, ts_stat_show)) {
		err = -ENOMEM;
		goto exit_rust;
	}
	err = ts_drain_init();
	if (err)
		goto remove_proc;
	err = ts_plain_init();
	if (err)
		goto exit_drain;
	err = ts_stale_init();
	if (err)
		goto exit_plain;
	/* Last: from here on sockets can come. */
	err = register_btf_kfunc_id_set(BPF_PROG_TYPE_SOCK_OPS, &ts_kfunc_set);
	if (err)
		goto exit_stale;
	pr_info("loaded, ring_kbytes=%u; connections are paired where a policy says so (tcp-splice-ctl enable)\n",
		ts_ring_kbytes());
	return 0;

exit_stale:
	ts_stale_exit();
exit_plain:
	ts_plain_exit();
exit_drain:
	ts_drain_exit();
remove_proc:
	remove_proc_entry("tcp_splice_stat", init_net.proc_net);
exit_rust:
	tcp_splice_exit();
abandon_proto:
	ts_proto_abandon();
exit_pairs:
	ts_pairs_exit();
exit_napi:
	ts_napi_exit();
free_memory:
	ts_memory_exit();
	return err;
}

/*
 * No endpoint is left (for each there is a reference to the module) and no program (its kfunc call does too). What may still run:
 *
 * - the tails of ts_endpoint_unknown(), ts_endpoint_parted() and ts_endpoint_left(): the barriers wait for them;
 * - a task that fetched a table of struct socket from one that no longer has it: it finds base's callbacks there now (ts_proto_exit());
 * - a task that took a callback from a table which its socket no longer has. synchronize_rcu_tasks() waits until each task has slept or
 *   left the kernel; those that sleep are inside ts_calls, have no frame of ours (proto.c), or have a pair, and none is left; so
 *   synchronize_srcu() waits for the rest;
 * - a task on its last instructions in our text: the second synchronize_rcu_tasks().
 *
 * The kfunc set goes with the module's BTF.
 */
static void __exit ts_exit(void)
{
	ts_plain_exit();
	ts_drain_exit();
	ts_idle_exit();
	ts_stale_exit();
	remove_proc_entry("tcp_splice_stat", init_net.proc_net);
	ts_proto_exit();
	srcu_barrier(&ts_calls);
	rcu_barrier();
	synchronize_rcu_tasks();
	synchronize_srcu(&ts_calls);
	synchronize_rcu_tasks();
	tcp_splice_exit();
	ts_pairs_exit();
	ts_napi_exit();
	ts_memory_exit();
	pr_info("unloaded\n");
}

module_init(ts_init);
module_exit(ts_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("the tcp-splice authors");
MODULE_DESCRIPTION("Local TCP connections exchange their bytes through an in-kernel ring");
MODULE_VERSION("0.1.0");
