// SPDX-License-Identifier: GPL-2.0-only
/*
 * Decides which established connections are offered to the module tcp_splice.
 *
 * Each program carries its own policy, frozen before it is loaded. A new policy is a new program put in the place of the old
 * one by a single link update, so no connection can ever meet half of one policy and half of another.
 *
 * Whatever happens here, the connection goes on: the program always returns 1, never writes to the context, and ignores what
 * the module answers.
 */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "policy.h"

/* From <sys/socket.h>, which a BPF program cannot include. */
#define AF_INET 2
#define AF_INET6 10

/* Flag of bpf_tcp_splice_pair(): only with an end in the same network namespace. */
#define PAIR_SAME_NETNS 1

extern int bpf_tcp_splice_pair(struct bpf_sock_ops *ctx, __u64 flags, __u32 busy_poll_us, __u32 ring_kbytes) __ksym;

/* All zero as compiled: a program that somebody loads without a configuration offers nothing. */
const volatile struct policy policy SEC(".rodata.policy") = {};

static __always_inline int ip4_is_loopback(__be32 addr)
{
	return (bpf_ntohl(addr) >> 24) == 127;
}

/* ::1, or ::ffff:127.0.0.0/104: an AF_INET6 socket may well speak IPv4. */
static __always_inline int ip6_is_loopback(__be32 a0, __be32 a1, __be32 a2, __be32 a3)
{
	if (a0 || a1)
		return 0;
	if (a2 == bpf_htonl(0xffff))
		return ip4_is_loopback(a3);
	return a2 == 0 && a3 == bpf_htonl(1);
}

/* The context's words are read one by one: the verifier allows no address arithmetic on them. */
static __always_inline int both_ends_loopback(struct bpf_sock_ops *ctx)
{
	if (ctx->family == AF_INET)
		return ip4_is_loopback(ctx->local_ip4) && ip4_is_loopback(ctx->remote_ip4);
	if (ctx->family == AF_INET6)
		return ip6_is_loopback(ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]) &&
		       ip6_is_loopback(ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3]);
	return 0;
}

static __always_inline int either_port_listed(struct bpf_sock_ops *ctx)
{
	__u32 n = policy.n_ports;
	__u32 local = ctx->local_port;			/* host byte order */
	__u32 remote = bpf_ntohl(ctx->remote_port);	/* 32 bits in network byte order */

	if (n == 0)
		return 1;
	for (__u32 i = 0; i < POLICY_MAX_PORTS && i < n; i++) {
		__u32 port = policy.ports[i];

		if (port == local || port == remote)
			return 1;
	}
	return 0;
}

SEC("sockops")
int tcp_splice(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;

	if (op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (!policy.enabled)
		return 1;
	if (policy.loopback_only && !both_ends_loopback(ctx))
		return 1;
	if (!either_port_listed(ctx))
		return 1;
	bpf_tcp_splice_pair(ctx, policy.same_netns ? PAIR_SAME_NETNS : 0, policy.busy_poll_us, policy.ring_kbytes);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
