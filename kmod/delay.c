// SPDX-License-Identifier: GPL-2.0-only
/* Stops at the places of delay.h, so that what may come in between does: see there. */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sysfs.h>

#include "delay.h"

static unsigned int ts_delay_per_mille __read_mostly;
module_param_named(delay_per_mille, ts_delay_per_mille, uint, 0644);
MODULE_PARM_DESC(delay_per_mille, "how often of a thousand times a step waits where others may come in between (default 0)");

/* Longer than the other processor needs to come by; short enough for thousands. */
#define TS_DELAY_SPIN_US	100
#define TS_DELAY_SLEEP_US	1000

static atomic_long_t ts_delayed[TS_DELAYS_COUNT];

static const char *const ts_delay_names[] = {
#define X(name) #name,
	TS_DELAY_POINTS(X)
#undef X
};

static int ts_param_get_delayed(char *buffer, const struct kernel_param *kp)
{
	int i, len = 0;

	for (i = 0; i < TS_DELAYS_COUNT; i++)
		len += sysfs_emit_at(buffer, len, "%s %ld\n", ts_delay_names[i], atomic_long_read(&ts_delayed[i]));
	return len;
}

static const struct kernel_param_ops ts_delayed_ops = {
	.get = ts_param_get_delayed,
};

module_param_cb(delayed, &ts_delayed_ops, NULL, 0444);
MODULE_PARM_DESC(delayed, "how often it has waited, place by place");

/* Half of the waits that may let others run do so: to spin keeps one processor busy, to sleep may be what another one waits for. */
static bool ts_delay_may_sleep(void)
{
	return preemptible() && !rcu_preempt_depth() && get_current_state() == TASK_RUNNING && get_random_u32_below(2);
}

/* Any context. */
void ts_delay(unsigned int point)
{
	unsigned int per_mille = READ_ONCE(ts_delay_per_mille);

	if (likely(!per_mille) || point >= TS_DELAYS_COUNT || get_random_u32_below(1000) >= per_mille)
		return;
	atomic_long_inc(&ts_delayed[point]);
	if (ts_delay_may_sleep())
		usleep_range(1, TS_DELAY_SLEEP_US);
	else
		udelay(get_random_u32_inclusive(1, TS_DELAY_SPIN_US));
}
