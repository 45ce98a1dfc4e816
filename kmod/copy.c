// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies between user memory and the ring.
 *
 * Bytes stand in the ring at any alignment, and there `rep movsb`, which the kernel's own copy uses on today's processors, can be
 * slow: on Zen 4 it falls to a thirtieth of its speed where the destination stands a few bytes further into its page than the
 * source. Words have no such place: a loop for short runs, `rep movsq` for long ones, and one last word that overlaps for the
 * rest. `tcp-splice-bench copies` prints what each way costs on a machine. Where user memory faults, these copy less, as the kernel's do.
 */
#include <linux/fault-inject-usercopy.h>
#include <linux/instrumented.h>
#include <linux/iov_iter.h>
#include <linux/socket.h>
#include <linux/uaccess.h>

#include "api.h"
#include "glue.h"

#if TS_HAVE_MASK_USER_ADDRESS

/* Below this many bytes `rep` costs more to begin than it saves. */
#define TS_REP_FROM 256

/* @len >= 8 bytes upwards from the start; returns how many were not copied. Either side may be user memory, made sure of by the caller. */
static __always_inline size_t ts_copy_words(void *to, const void *from, size_t len)
{
	size_t words = len / 8, rest = len % 8, word;

	stac();
	if (len < TS_REP_FROM)
		asm volatile("1:	movq (%[from]), %[word]\n"
			     "2:	movq %[word], (%[to])\n"
			     "	addq $8, %[from]\n"
			     "	addq $8, %[to]\n"
			     "	decq %[words]\n"
			     "	jnz 1b\n"
			     "	testq %[rest], %[rest]\n"
			     "	jz 5f\n"
			     "3:	movq -8(%[from],%[rest]), %[word]\n"
			     "4:	movq %[word], -8(%[to],%[rest])\n"
			     "	xorl %k[rest], %k[rest]\n"
			     "5:\n"
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
	left = len < 8 ? raw_copy_from_user(to, from, len) : ts_copy_words(to, (__force const void *)from, len);
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
	return len < 8 ? raw_copy_to_user(to, from, len) : ts_copy_words((__force void *)to, from, len);
}

static __always_inline size_t ts_iterate(struct iov_iter *iter, size_t len, void *ring, iov_ustep_f step)
{
	might_fault();
	len = min(len, iter->count);
	if (!len)
		return 0;
	return iter_is_ubuf(iter) ? iterate_ubuf(iter, len, ring, NULL, step) : iterate_iovec(iter, len, ring, NULL, step);
}

size_t ts_copy_from_iter(void *to, size_t bytes, struct msghdr *msg)
{
	if (unlikely(!user_backed_iter(&msg->msg_iter)))
		return _copy_from_iter(to, bytes, &msg->msg_iter);
	return ts_iterate(&msg->msg_iter, bytes, to, ts_from_user);
}

size_t ts_copy_to_iter(const void *from, size_t bytes, struct msghdr *msg)
{
	if (unlikely(!user_backed_iter(&msg->msg_iter)))
		return _copy_to_iter(from, bytes, &msg->msg_iter);
	return ts_iterate(&msg->msg_iter, bytes, (void *)from, ts_to_user);
}

#else

size_t ts_copy_from_iter(void *to, size_t bytes, struct msghdr *msg)
{
	return _copy_from_iter(to, bytes, &msg->msg_iter);
}

size_t ts_copy_to_iter(const void *from, size_t bytes, struct msghdr *msg)
{
	return _copy_to_iter(from, bytes, &msg->msg_iter);
}

#endif
