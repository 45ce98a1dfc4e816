/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The configuration of one policy program, written by tcp-splice-ctl and read back by it. ctl/src/policy.rs mirrors it
 * field by field; a change of meaning or layout takes a new POLICY_ABI.
 */
#ifndef TCP_SPLICE_POLICY_H
#define TCP_SPLICE_POLICY_H

#include <linux/types.h>

#define POLICY_ABI 2
#define POLICY_MAX_PORTS 64

struct policy {
	__u32 abi;		/* POLICY_ABI */
	__u32 enabled;		/* 0: offer nothing */
	__u32 loopback_only;	/* 0: any address */
	__u32 busy_poll_us;	/* 0: the socket's own budget */
	__u32 ring_kbytes;	/* 0: the module's default */
	__u32 same_netns;	/* 0: any two namespaces of the host's own */
	__u32 n_ports;		/* 0: every port */
	__u16 ports[POLICY_MAX_PORTS];	/* host byte order, ascending, each once */
};

_Static_assert(sizeof(struct policy) == 28 + 2 * POLICY_MAX_PORTS, "struct policy has holes");

#endif
