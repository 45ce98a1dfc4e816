// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bugs, one for each checker, so that `cargo xtask checkers` can see that it is on, that it looks at this module's code, and that a run fails by
 * what it says alone. Only in the module for a kernel with checkers (Kbuild): root writes a bug's name to the parameter "provoke".
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timer.h>

#include "glue.h"

/* What the compiler is not to see through. */
static noinline void *ts_freed(void)
{
	u64 *word = kmalloc(sizeof(*word), GFP_KERNEL);

	kfree(word);
	OPTIMIZER_HIDE_VAR(word);
	return word;
}

static void ts_provoke_use_after_free(void)
{
	u64 *word = ts_freed();

	if (word)
		WRITE_ONCE(*word, 1);
}

static void ts_provoke_use_after_free_in_rust(void)
{
	void *word = ts_freed();

	if (word)
		tcp_splice_provoke_write(word);
}

static void ts_provoke_shift(void)
{
	unsigned int by = 64;

	OPTIMIZER_HIDE_VAR(by);
	pr_info("%u\n", 1U << by);
}

static void ts_provoke_lock_order(void)
{
	static DEFINE_SPINLOCK(one);
	static DEFINE_SPINLOCK(other);

	spin_lock(&one);
	spin_lock(&other);
	spin_unlock(&other);
	spin_unlock(&one);
	spin_lock(&other);
	spin_lock(&one);
	spin_unlock(&one);
	spin_unlock(&other);
}

static void ts_provoke_sleep_in_atomic(void)
{
	static DEFINE_SPINLOCK(lock);

	spin_lock(&lock);
	might_sleep();
	spin_unlock(&lock);
}

static void ts_provoke_preemptible(void)
{
	pr_info("%d\n", smp_processor_id());
}

static void ts_provoke_unprotected(void)
{
	static u64 __rcu *pointer;

	if (rcu_dereference(pointer))
		pr_info("never\n");
}

static void ts_late(struct timer_list *timer)
{
}

static void ts_provoke_freed_timer(void)
{
	struct timer_list *timer = kmalloc(sizeof(*timer), GFP_KERNEL);

	if (!timer)
		return;
	timer_setup(timer, ts_late, 0);
	mod_timer(timer, jiffies + 3600 * HZ);
	kfree(timer);
}

static void ts_provoke_list(void)
{
	LIST_HEAD(list);
	LIST_HEAD(entry);

	list_add(&entry, &list);
	list_del(&entry);
	list_del(&entry);
}

static void ts_provoke_refcount(void)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

static void ts_provoke_warning(void)
{
	WARN(1, "on purpose\n");
}

/* Many: addresses stay where nobody uses them, on stacks and in the allocator's per-processor stock. */
static void ts_provoke_leak(void)
{
	unsigned int i, lost = 0;

	for (i = 0; i < 1000; i++)
		lost += !!kmalloc(100, GFP_KERNEL);
	pr_info("lost %u objects\n", lost);
}

/* The caller never ends. */
static void ts_provoke_hung_task(void)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	}
}

static void ts_provoke_soft_lockup(void)
{
	preempt_disable();
	for (;;)
		cpu_relax();
}

/* ---- two threads ---- */

static u64 ts_shared;

static int ts_write_in_c(void *unused)
{
	while (!kthread_should_stop()) {
		ts_shared++;
		barrier();
		cond_resched();
	}
	return 0;
}

static int ts_write_in_rust(void *unused)
{
	while (!kthread_should_stop()) {
		tcp_splice_provoke_write(&ts_shared);
		cond_resched();
	}
	return 0;
}

static void ts_race(int (*work)(void *unused))
{
	struct task_struct *other = kthread_run(work, NULL, "tcp_splice_race");
	unsigned long end = jiffies + 10 * HZ;

	if (IS_ERR(other))
		return;
	while (time_before(jiffies, end)) {
		if (work == ts_write_in_c)
			ts_shared++;
		else
			tcp_splice_provoke_write(&ts_shared);
		cond_resched();
	}
	kthread_stop(other);
}

static void ts_provoke_race(void)
{
	ts_race(ts_write_in_c);
}

static void ts_provoke_race_in_rust(void)
{
	ts_race(ts_write_in_rust);
}

/* ---- their names ---- */

static const struct {
	const char *name;
	void (*provoke)(void);
} ts_bugs[] = {
#define TS_BUG(name) { #name, ts_provoke_##name }
	TS_BUG(use_after_free), TS_BUG(use_after_free_in_rust), TS_BUG(shift), TS_BUG(lock_order), TS_BUG(sleep_in_atomic), TS_BUG(preemptible),
	TS_BUG(unprotected), TS_BUG(freed_timer), TS_BUG(list), TS_BUG(refcount), TS_BUG(warning), TS_BUG(leak), TS_BUG(hung_task), TS_BUG(soft_lockup),
	TS_BUG(race), TS_BUG(race_in_rust),
#undef TS_BUG
};

static int ts_param_set_provoke(const char *val, const struct kernel_param *kp)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ts_bugs); i++) {
		if (sysfs_streq(val, ts_bugs[i].name)) {
			ts_bugs[i].provoke();
			return 0;
		}
	}
	return -EINVAL;
}

static const struct kernel_param_ops ts_provoke_ops = {
	.set = ts_param_set_provoke,
};

module_param_cb(provoke, &ts_provoke_ops, NULL, 0200);
MODULE_PARM_DESC(provoke, "does something that a checker finds: for those who check the checkers");
