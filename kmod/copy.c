// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies between user memory and the ring.
 *
 * Bytes stand in the ring at any alignment, and there `rep movsb`, which the kernel's own copy uses on today's processors, can be
 * slow: on Zen 4 it falls to a thirtieth of its speed where the destination stands a few bytes further into its page than the
 * source. Words have no such place: a loop for short runs, `rep movsq` for long ones, and one last word that overlaps for the
 * rest. Intel's processors with FSRM have no such place for `rep movsb`, but many for `rep movsq`: there the kernel's own copy does it from
 * 64 bytes on. `tcp-splice-bench copies` prints what each way costs on a machine. Where user memory faults, these copy less, as the
 * kernel's do.
 */
#include <linux/fault-inject-usercopy.h>
#include <linux/instrumented.h>
#include <linux/iov_iter.h>
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/socket.h>
#include <linux/uaccess.h>
#include <asm/processor.h>

#include "api.h"
#include "glue.h"

#if TS_HAVE_MASK_USER_ADDRESS

/* Below this many bytes `rep` costs more to begin than it saves. */
#define TS_REP_FROM 256

/* The same for bytes, where those are fast. */
#define TS_BYTES_FROM 64
static DEFINE_STATIC_KEY_FALSE(ts_bytes_are_fast);

/* Said when the module was loaded. */
static bool ts_copy_is_chosen;

static int ts_param_set_copy_bytes(const char *val, const struct kernel_param *kp)
{
	bool bytes;
	int err = kstrtobool(val, &bytes);

	if (err)
		return err;
	ts_copy_is_chosen = true;
	if (bytes)
		static_branch_enable(&ts_bytes_are_fast);
	else
		static_branch_disable(&ts_bytes_are_fast);
	return 0;
}

static int ts_param_get_copy_bytes(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%c\n", static_key_enabled(&ts_bytes_are_fast) ? 'Y' : 'N');
}

static const struct kernel_param_ops ts_copy_bytes_ops = {
	.set = ts_param_set_copy_bytes,
	.get = ts_param_get_copy_bytes,
};

module_param_cb(copy_bytes, &ts_copy_bytes_ops, NULL, 0644);
__MODULE_PARM_TYPE(copy_bytes, "bool");
MODULE_PARM_DESC(copy_bytes, "copy from 64 bytes on as the kernel does, by rep movsb, and not by words (default: by the processor)");

void __init ts_copy_init(void)
{
	if (!ts_copy_is_chosen && boot_cpu_has(X86_FEATURE_FSRM) && boot_cpu_data.x86_vendor == X86_VENDOR_INTEL)
		static_branch_enable(&ts_bytes_are_fast);
}

static __always_inline bool ts_copies_bytes(size_t len)
{
	return len < 8 || (static_branch_unlikely(&ts_bytes_are_fast) && len >= TS_BYTES_FROM);
}

/* @len >= 8 bytes upwards from the start; returns how many were not copied. Either side may be user memory, made sure of by the caller. */
static __always_inline size_t ts_copy_words(void *to, const void *from, size_t len)
{
	size_t words = len / 8, rest = len % 8, word;

	stac();
	if (len < TS_REP_FROM)
		asm volatile("	leaq (%[from],%[words],8), %[from]\n"
			     "	leaq (%[to],%[words],8), %[to]\n"
			     "	negq %[words]\n"
			     "1:	movq (%[from],%[words],8), %[word]\n"
			     "2:	movq %[word], (%[to],%[words],8)\n"
			     "	incq %[words]\n"
			     "	jnz 1b\n"
			     "	testq %[rest], %[rest]\n"
			     "	jz 5f\n"
			     "3:	movq -8(%[from],%[rest]), %[word]\n"
			     "4:	movq %[word], -8(%[to],%[rest])\n"
			     "	xorl %k[rest], %k[rest]\n"
			     "5:	negq %[words]\n"
			     _ASM_EXTABLE_UA(1b, 5b)
			     _ASM_EXTABLE_UA(2b, 5b)
			     _ASM_EXTABLE_UA(3b, 5b)
			     _ASM_EXTABLE_UA(4b, 5b)
			     : [words] "+r" (words), [to] "+r" (to), [from] "+r" (from), [rest] "+r" (rest), [word] "=&r" (word)
			     : : "memory", "cc");
	else
		asm volatile("1:	rep movsq\n"
			     "	testq %[rest], %[rest]\n"
			     "	jz 4f\n"
			     "2:	movq -8(%[from],%[rest]), %[word]\n"
			     "3:	movq %[word], -8(%[to],%[rest])\n"
			     "	xorl %k[rest], %k[rest]\n"
			     "4:\n"
			     _ASM_EXTABLE_UA(1b, 4b)
			     _ASM_EXTABLE_UA(2b, 4b)
			     _ASM_EXTABLE_UA(3b, 4b)
			     : [words] "+c" (words), [to] "+D" (to), [from] "+S" (from), [rest] "+r" (rest), [word] "=&r" (word)
			     : : "memory", "cc");
	clac();
	return words * 8 + rest;
}

static __always_inline size_t ts_from_user(void __user *from, size_t progress, size_t len, void *to, void *priv)
{
	size_t left;

	if (should_fail_usercopy())
		return len;
	/* A kernel address becomes one that faults; enough, since bytes are touched in order (copy_from_user_iter()). */
	from = mask_user_address(from);
	to += progress;
	instrument_copy_from_user_before(to, from, len);
	left = ts_copies_bytes(len) ? raw_copy_from_user(to, from, len) : ts_copy_words(to, (__force const void *)from, len);
	instrument_copy_from_user_after(to, from, len, left);
	return left;
}

static __always_inline size_t ts_to_user(void __user *to, size_t progress, size_t len, void *from, void *priv)
{
	if (should_fail_usercopy())
		return len;
	to = mask_user_address(to);
	from += progress;
	instrument_copy_to_user(to, from, len);
	return ts_copies_bytes(len) ? raw_copy_to_user(to, from, len) : ts_copy_words((__force void *)to, from, len);
}

static __always_inline size_t ts_iterate(struct iov_iter *iter, size_t len, void *ring, iov_ustep_f step)
{
	might_fault();
	len = min(len, iter->count);
	if (!len)
		return 0;
	return iter_is_ubuf(iter) ? iterate_ubuf(iter, len, ring, NULL, step) : iterate_iovec(iter, len, ring, NULL, step);
}

__ts_spliced size_t ts_copy_from_iter(void *to, size_t bytes, struct msghdr *msg)
{
	if (unlikely(!user_backed_iter(&msg->msg_iter)))
		return _copy_from_iter(to, bytes, &msg->msg_iter);
	return ts_iterate(&msg->msg_iter, bytes, to, ts_from_user);
}

__ts_spliced size_t ts_copy_to_iter(const void *from, size_t bytes, struct msghdr *msg)
{
	if (unlikely(!user_backed_iter(&msg->msg_iter)))
		return _copy_to_iter(from, bytes, &msg->msg_iter);
	return ts_iterate(&msg->msg_iter, bytes, (void *)from, ts_to_user);
}

#else

void __init ts_copy_init(void)
{
}

__ts_spliced size_t ts_copy_from_iter(void *to, size_t bytes, struct msghdr *msg)
{
	return _copy_from_iter(to, bytes, &msg->msg_iter);
}

__ts_spliced size_t ts_copy_to_iter(const void *from, size_t bytes, struct msghdr *msg)
{
	return _copy_to_iter(from, bytes, &msg->msg_iter);
}

#endif
