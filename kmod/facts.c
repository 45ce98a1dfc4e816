// SPDX-License-Identifier: GPL-2.0-only
/* What the kfunc sees of a socket: src/pairing.rs decides. Within the sock_ops program, so nothing sleeps. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/filter.h>
#include <linux/if_bridge.h>
#include <linux/user_namespace.h>
#include <net/flow.h>
#include <net/psp.h>
#include <net/rtnetlink.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "glue.h"
#include "endpoint.h"

/* Only loopback, veth and a bridge lead from one socket of this host to another; everything else is at best a detour. */
static bool ts_device_is_local(const struct sock *sk, const struct sk_buff *skb)
{
	struct net_device *dev;

	/* Of each namespace, and of no other device: loopback_net_init(). */
	if (skb->skb_iif == LOOPBACK_IFINDEX)
		return true;
	dev = dev_get_by_index_rcu(sock_net(sk), skb->skb_iif);
	if (!dev)
		return false;
	return (dev->flags & IFF_LOOPBACK) || netif_is_bridge_master(dev) ||
	       (dev->rtnl_link_ops && !strcmp(dev->rtnl_link_ops->kind, "veth"));
}

static u32 ts_handshake_obstacles(const struct bpf_sock_ops_kern *ctx)
{
	const struct tcp_sock *tp = tcp_sk(ctx->sk);
	bool passive = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
	u32 obstacles = 0;

	if (!ctx->skb || tp->repair || tp->syn_fastopen || tp->syn_data || tp->fastopen_req ||
	    rcu_access_pointer(tp->fastopen_rsk))
		obstacles |= TS_OBSTACLE_HANDSHAKE;
	if (ctx->sk->sk_state != (passive ? TCP_SYN_RECV : TCP_ESTABLISHED))
		obstacles |= TS_OBSTACLE_HANDSHAKE;
	/* Crossed SYNs: a descriptor exists already, and somebody may sleep on it. */
	if (passive && ctx->sk->sk_socket)
		obstacles |= TS_OBSTACLE_HANDSHAKE;
	if (tp->urg_data)
		obstacles |= TS_OBSTACLE_URGENT;
	if (ctx->skb && !ts_device_is_local(ctx->sk, ctx->skb))
		obstacles |= TS_OBSTACLE_REMOTE;
	return obstacles;
}

static u32 ts_policy_obstacles(const struct sock *sk)
{
	bool found = rcu_access_pointer(sk->sk_filter);

#ifdef CONFIG_TCP_MD5SIG
	found |= !!rcu_access_pointer(tcp_sk(sk)->md5sig_info);
#endif
#ifdef CONFIG_TCP_AO
	found |= !!rcu_access_pointer(tcp_sk(sk)->ao_info);
#endif
#ifdef CONFIG_XFRM
	found |= rcu_access_pointer(sk->sk_policy[0]) || rcu_access_pointer(sk->sk_policy[1]);
	found |= __sk_dst_get(sk) && dst_xfrm(__sk_dst_get(sk));
#endif
#if IS_ENABLED(CONFIG_INET_PSP)
	found |= !!rcu_access_pointer(sk->psp_assoc);
#endif
	return found ? TS_OBSTACLE_POLICY : 0;
}

static u32 ts_multipath_obstacles(const struct sock *sk)
{
	bool found = sk_is_mptcp(sk);

#if IS_ENABLED(CONFIG_SMC)
	found |= tcp_sk(sk)->syn_smc;
#endif
	return found ? TS_OBSTACLE_MULTIPATH : 0;
}

/* Crossed SYNs end in that callback, too: of a socket that connected. */
static bool ts_is_accepted(const struct bpf_sock_ops_kern *ctx)
{
	return ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && !ctx->sk->sk_socket;
}

/* All else is looked at only of sockets that have none of these. */
static u32 ts_kind_obstacles(const struct bpf_sock_ops_kern *ctx)
{
	const struct sock *sk = ctx->sk;

	if ((ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) ||
	    !ctx->is_fullsock || !ctx->is_locked_tcp_sock)
		return TS_OBSTACLE_CALLBACK;
	if (sk->sk_type != SOCK_STREAM || sk->sk_protocol != IPPROTO_TCP || sk->sk_kern_sock || !ts_proto_is_base(sk))
		return TS_OBSTACLE_NOT_PLAIN;
	return 0;
}

static u32 ts_other_obstacles(const struct bpf_sock_ops_kern *ctx)
{
	const struct sock *sk = ctx->sk;
	u32 obstacles = ts_handshake_obstacles(ctx) | ts_policy_obstacles(sk) | ts_multipath_obstacles(sk);

	if (!ts_slots_are_free(sk) || !ts_callbacks_are_default(sk))
		obstacles |= TS_OBSTACLE_TAKEN;
	if (ts_is_held_up(sk))
		obstacles |= TS_OBSTACLE_HELD_UP;
	return obstacles;
}

__ts_offered void ts_facts(const struct bpf_sock_ops_kern *ctx, struct ts_facts *facts)
{
	u32 obstacles = ts_kind_obstacles(ctx);
	const struct sock *sk = ctx->sk;
	const struct sk_buff *skb;

	if (unlikely(obstacles)) {
		*facts = (struct ts_facts) {
			.sk = ctx->sk,
			.obstacles = obstacles,
			.passive = obstacles != TS_OBSTACLE_CALLBACK && ts_is_accepted(ctx),
		};
		return;
	}
	skb = ctx->skb;
	*facts = (struct ts_facts) {
		.sk = ctx->sk,
		.obstacles = ts_other_obstacles(ctx),
		.passive = ts_is_accepted(ctx),
		.netns = (unsigned long)sock_net(sk),
		.init_user_ns = sock_net(sk)->user_ns == &init_user_ns,
		.write_seq = tcp_sk(sk)->write_seq,
		.rcv_nxt = tcp_sk(sk)->rcv_nxt,
		.txhash = sk->sk_txhash,
		.has_peer_hash = skb && skb->l4_hash && !skb->sw_hash,
		.peer_hash = skb ? skb->hash : 0,
	};
}
