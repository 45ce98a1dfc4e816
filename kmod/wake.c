// SPDX-License-Identifier: GPL-2.0-only
/* Waiting, waking and spinning, for src/recv.rs, send.rs and pair.rs. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/wait.h>
#include <net/busy_poll.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "delay.h"
#include "glue.h"
#include "endpoint.h"

static_assert(sizeof(struct wait_queue_entry) <= sizeof(struct ts_wait));

/* Our own, to know our sleepers by. */
static __ts_spliced int ts_wake_function(struct wait_queue_entry *entry, unsigned int mode, int sync, void *key)
{
	return autoremove_wake_function(entry, mode, sync, key);
}

__ts_spliced void ts_wait_begin(struct sock *sk, struct ts_wait *wait)
{
	struct wait_queue_entry *entry = (struct wait_queue_entry *)wait;

	init_wait_func(entry, ts_wake_function);
	prepare_to_wait(sk_sleep(sk), entry, TASK_INTERRUPTIBLE);
}

/* Outside ts_calls: the caller has a reference to its pair. */
__ts_spliced long ts_sleep(struct ts_call *call, long timeout)
{
	ts_calls_leave(call->section);
	ts_delay_at(asleep);
	timeout = schedule_timeout(timeout);
	ts_delay_at(awake);
	call->section = ts_calls_enter();
	return timeout;
}

__ts_spliced void ts_wait_end(struct sock *sk, struct ts_wait *wait)
{
	finish_wait(sk_sleep(sk), (struct wait_queue_entry *)wait);
}

__ts_spliced long ts_rcvtimeo(const struct sock *sk)
{
	return sock_rcvtimeo(sk, false);
}

__ts_spliced long ts_sndtimeo(const struct sock *sk)
{
	return sock_sndtimeo(sk, false);
}

__ts_spliced int ts_rcvlowat(const struct sock *sk, bool waitall, int len)
{
	return sock_rcvlowat(sk, waitall, len);
}

__ts_spliced bool ts_signal_pending(void)
{
	return signal_pending(current);
}

int ts_intr_errno(long timeout)
{
	return sock_intr_errno(timeout);
}

/* The writer's half of the SOCK_NOSPACE protocol (tcp_poll(), sk_stream_wait_memory()). */
__ts_spliced void ts_set_nospace(struct sock *sk)
{
	struct socket *sock = READ_ONCE(sk->sk_socket);

	if (!sock)
		return;
	sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
	set_bit(SOCK_NOSPACE, &sock->flags);
	smp_mb__after_atomic();
}

/*
 * Ready to sleep: an acknowledgement wakes the socket, as long as there is room (tcp_check_space()). No SIGIO, which a call that waits does not
 * ask for.
 */
void ts_wake_at_acknowledgements(struct sock *sk)
{
	struct socket *sock = READ_ONCE(sk->sk_socket);

	if (!sock)
		return;
	set_bit(SOCK_NOSPACE, &sock->flags);
	smp_mb__after_atomic();
}

int ts_stream_error(struct sock *sk, int flags, int err)
{
	return sk_stream_error(sk, flags, err);
}

void ts_wake_writers(struct sock *sk)
{
	wake_up_interruptible_poll(sk_sleep(sk), EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
}

/* Those asleep in our calls on this socket look again; pollers need not know. The caller has a reference. */
void ts_wake_ours(struct sock *sk)
{
	struct wait_queue_entry *entry, *next;
	struct socket_wq *wq;
	unsigned long flags;

	rcu_read_lock();
	wq = rcu_dereference(sk->sk_wq);
	if (wq) {
		spin_lock_irqsave(&wq->wait.lock, flags);
		list_for_each_entry_safe(entry, next, &wq->wait.head, entry)
			if (entry->func == ts_wake_function)
				ts_wake_function(entry, TASK_INTERRUPTIBLE, 0, NULL);
		spin_unlock_irqrestore(&wq->wait.lock, flags);
	}
	rcu_read_unlock();
}

/*
 * The other end's socket: @slot is cleared before its last reference is dropped a grace period later, and its wait queue is
 * freed by RCU, so both are good to use until rcu_read_unlock().
 *
 * The caller published with a read-modify-write that returned a value; that orders it before waitqueue_active() where
 * smp_mb__after_atomic() is a compiler barrier, and this is the full barrier elsewhere. Pairs with set_current_state() in
 * prepare_to_wait() and with the one in sock_poll_wait().
 */
__ts_spliced bool ts_notify_readable(struct sock *const *slot)
{
	void (*data_ready)(struct sock *sk);
	struct socket_wq *wq;
	bool woke = false;
	struct sock *sk;

	smp_mb__after_atomic();
	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (likely(sk)) {
		wq = rcu_dereference(sk->sk_wq);
		/* A foreign callback would want the socket's lock; its owner reads TCP only, and the next send() sees it. */
		data_ready = READ_ONCE(sk->sk_data_ready);
		woke = wq && (waitqueue_active(&wq->wait) || READ_ONCE(wq->fasync_list)) && data_ready == ts_default.data_ready;
		if (woke)
			data_ready(sk);
	}
	rcu_read_unlock();
	return woke;
}

__ts_spliced void ts_notify_writeable(struct sock *const *slot)
{
	void (*write_space)(struct sock *sk);
	struct socket_wq *wq;
	struct sock *sk;
	bool called;

	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (sk) {
		/* As above. */
		write_space = READ_ONCE(sk->sk_write_space);
		called = write_space == ts_default.write_space;
		if (likely(called))
			write_space(sk);
		/*
		 * That one does nothing while TCP's own buffer is full, or a turn is taken; senders into the ring sleep here too. data_race(): it
		 * reads sk_prot plainly, as base does (ts_set_protocol()).
		 */
		wq = rcu_dereference(sk->sk_wq);
		if (unlikely(!called || !data_race(__sk_stream_is_writeable(sk, 1))) && skwq_has_sleeper(wq))
			wake_up_interruptible_poll(&wq->wait, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
	}
	rcu_read_unlock();
}

/*
 * What TCP would take from @from before it stops, if @to does not read: both buffers. Until somebody fixes its size, the sender's
 * grows with what it sends (tcp_sndbuf_expand()), the receiver's only with what is read (tcp_rcv_space_adjust()).
 */
u64 ts_tcp_would_hold(struct sock *const *from, struct sock *const *to)
{
	const struct sock *sender, *receiver;
	u64 bytes = 0;

	rcu_read_lock();
	sender = READ_ONCE(*from);
	receiver = READ_ONCE(*to);
	if (sender && receiver)
		bytes = (u64)READ_ONCE(receiver->sk_rcvbuf) +
			(READ_ONCE(sender->sk_userlocks) & SOCK_SNDBUF_LOCK ? READ_ONCE(sender->sk_sndbuf) :
			 READ_ONCE(sock_net(sender)->ipv4.sysctl_tcp_wmem[2]));
	rcu_read_unlock();
	return bytes;
}

/* About STALL_US of send.rs. */
long ts_stall_jiffies(void)
{
	return msecs_to_jiffies(10);
}

/* A receiver that is gone has TCP say so at once, unless its thread is held up; or the packet is lost, for which base has timers. */
long ts_end_jiffies(void)
{
	return HZ;
}

/*
 * Nothing has happened yet, but soon will. Pollers are woken without a key, so that they look for themselves before they believe it
 * (io_uring's poll takes a key's word); else with a key that none of them asks for. False: nobody was there.
 */
__ts_spliced bool ts_wake_ahead(struct sock *const *slot, bool pollers)
{
	struct socket_wq *wq;
	bool found = false;
	struct sock *sk;

	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (sk) {
		wq = rcu_dereference(sk->sk_wq);
		found = wq && waitqueue_active(&wq->wait);
		if (found)
			__wake_up(&wq->wait, TASK_INTERRUPTIBLE, 1, pollers ? NULL : poll_to_key(EPOLLMSG));
	}
	rcu_read_unlock();
	return found;
}

static DEFINE_PER_CPU(unsigned long, ts_last_batch);

/*
 * Has this thread not slept since it asked last? It has other work at hand, then, and is not alone in this. Two threads that share a
 * processor, or one that changes it, get the other answer: a hint.
 */
__ts_spliced bool ts_is_in_a_batch(void)
{
	unsigned long now = (unsigned long)current + current->nvcsw;

	return this_cpu_xchg(ts_last_batch, now) == now;
}

/* Does a thread sleep inside base recvmsg, splice_read or sendmsg of the other end? Only those use this wake function. */
__ts_spliced bool ts_base_reader_asleep(struct sock *const *slot)
{
	struct wait_queue_entry *entry;
	struct socket_wq *wq = NULL;
	unsigned long flags;
	bool found = false;
	struct sock *sk;

	smp_mb();
	rcu_read_lock();
	sk = READ_ONCE(*slot);
	if (sk)
		wq = rcu_dereference(sk->sk_wq);
	if (wq) {
		spin_lock_irqsave(&wq->wait.lock, flags);
		list_for_each_entry(entry, &wq->wait.head, entry)
			found |= entry->func == woken_wake_function;
		spin_unlock_irqrestore(&wq->wait.lock, flags);
	}
	rcu_read_unlock();
	return found;
}

/*
 * Called by a lock owner that is about to let go of the socket. If it is a reader inside base code about to sleep, sleep would
 * never end for ring bytes: make it return to user space's edge and come back through us (-ERESTARTSYS without a signal).
 */
__ts_spliced void ts_kick_base_reader(struct sock *sk)
{
	struct wait_queue_entry *entry;
	wait_queue_head_t *wait;
	struct socket_wq *wq;
	unsigned long flags;

	rcu_read_lock();
	wq = rcu_dereference(sk->sk_wq);
	wait = wq ? &wq->wait : NULL;
	/* Other sleepers use the same wake function: senders, connect(), a lingering close(). */
	if (wait && waitqueue_active(wait) && !sk->sk_write_pending && sk->sk_shutdown != SHUTDOWN_MASK &&
	    sk->sk_socket && sk->sk_socket->state != SS_CONNECTING) {
		spin_lock_irqsave(&wait->lock, flags);
		list_for_each_entry(entry, &wait->head, entry)
			if (entry->func == woken_wake_function && entry->private == current)
				set_tsk_thread_flag(current, TIF_NOTIFY_SIGNAL);
		spin_unlock_irqrestore(&wait->lock, flags);
	}
	rcu_read_unlock();
}

__ts_spliced u32 ts_busy_poll_us(const struct sock *sk)
{
#ifdef CONFIG_NET_RX_BUSY_POLL
	return READ_ONCE(sk->sk_ll_usec);
#else
	return 0;
#endif
}

__ts_spliced u64 ts_clock_us(void)
{
	return ktime_get_ns() >> 10;
}

/* Moves with the timer interrupt; cheap. */
__ts_offered u64 ts_coarse_clock_us(void)
{
	return get_jiffies_64() * (USEC_PER_SEC / HZ);
}

__ts_spliced bool ts_must_stop_spinning(void)
{
	return need_resched() || signal_pending(current);
}

/* Does nobody else want this processor? A hint. */
__ts_spliced bool ts_is_alone_here(void)
{
	return single_task_running();
}

/* A hint. */
__ts_spliced u32 ts_cpu(void)
{
	return raw_smp_processor_id();
}

/* Sleeping and waking take some microseconds, and some tens where a processor has gone into deep sleep. */
#define TS_SPIN_US_MAX 1000
static unsigned int ts_spin_us_max __read_mostly = 50;

static int ts_param_set_spin_us(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, TS_SPIN_US_MAX);
}

static const struct kernel_param_ops ts_spin_us_ops = {
	.set = ts_param_set_spin_us,
	.get = param_get_uint,
};

module_param_cb(spin_us, &ts_spin_us_ops, &ts_spin_us_max, 0644);
__MODULE_PARM_TYPE(spin_us, "uint");
MODULE_PARM_DESC(spin_us, "longest time in µs, up to 1000, that a receive without a budget spins where answers have lately come as fast; 0: never (default 50)");

__ts_spliced u32 ts_spin_us(void)
{
	return READ_ONCE(ts_spin_us_max);
}
