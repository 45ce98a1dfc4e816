// SPDX-License-Identifier: GPL-2.0-only
/*
 * Busy polling in epoll_wait() and in io_uring: it polls the NAPI that the sockets of the set came by (sk_napi_id), so spliced sockets get one
 * that has nothing to poll. The kernel's own loop then looks for events between two such polls (__napi_busy_loop()), finds those that the other
 * end's send() has put there, and keeps to all that was set: net.core.busy_poll, EPIOCSPARAMS, need_resched().
 *
 * One for each processor, so that two threads that poll seldom write to one line: a socket gets that of the processor on which it was
 * first looked at. poll() and select() need none (ts_poll() in proto.c).
 *
 * An epoll set has room for one NAPI, that of the last event, and does not mind whose it is. In a set of a device's sockets and ours with
 * interrupts suspended (irq-suspend-timeout) an event of ours therefore leaves that device to its timer, as an event of a second device does.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/netdevice.h>
#include <linux/percpu.h>
#include <net/busy_poll.h>
#include <net/sock.h>

#include "glue.h"
#include "endpoint.h"

#ifdef CONFIG_NET_RX_BUSY_POLL

static struct net_device *ts_napi_device __ro_after_init;
static struct napi_struct __percpu *ts_napis __ro_after_init;

/* Inside the busy loop the first call does nothing; after it this is what makes the NAPI free again (busy_poll_stop()). */
static int ts_napi_poll(struct napi_struct *napi, int budget)
{
	napi_complete_done(napi, 0);
	return 0;
}

int __init ts_napi_init(void)
{
	int cpu;

	ts_napis = alloc_percpu(struct napi_struct);
	ts_napi_device = alloc_netdev_dummy(0);
	if (!ts_napis || !ts_napi_device) {
		free_percpu(ts_napis);
		if (ts_napi_device)
			free_netdev(ts_napi_device);
		return -ENOMEM;
	}
	for_each_possible_cpu(cpu) {
		struct napi_struct *napi = per_cpu_ptr(ts_napis, cpu);

		netif_napi_add(ts_napi_device, napi, ts_napi_poll);
		napi_enable(napi);
	}
	return 0;
}

/*
 * Process context. Sockets and epoll sets may have the numbers still, which then lead nowhere. napi_disable() waits for the thread that polls,
 * the grace period for those that look at its state meanwhile.
 */
void ts_napi_exit(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct napi_struct *napi = per_cpu_ptr(ts_napis, cpu);

		napi_disable(napi);
		__netif_napi_del(napi);
	}
	synchronize_net();
	free_netdev(ts_napi_device);
	free_percpu(ts_napis);
}

/*
 * A process looks for bytes on its socket, and will wait for more. Segments put their own number there, those of one host an invalid one; a
 * device's stays. Softirqs write without a lock.
 */
void ts_napi_mark(struct sock *sk)
{
	unsigned int id = READ_ONCE(sk->sk_napi_id);

	if (unlikely(!napi_id_valid(id)))
		cmpxchg(&sk->sk_napi_id, id, raw_cpu_ptr(ts_napis)->napi_id);
}

#else

int __init ts_napi_init(void)
{
	return 0;
}

void ts_napi_exit(void)
{
}

void ts_napi_mark(struct sock *sk)
{
}

#endif
