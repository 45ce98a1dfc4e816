// SPDX-License-Identifier: GPL-2.0-only
/*
 * What differs between kernels, and how it is found out: each probe is compiled alone, for the kernel at hand. No version numbers, since
 * distributions and stable series carry changes back. probes.sh reads the comments in front of them:
 *
 *   need NAME      without it the module is not built
 *   either A or B  exactly one of them compiles: neither or both is a kernel that is not known here
 *   may NAME       where it does not compile, the module does without it, and is right all the same
 *
 * and writes api.h, with TS_HAVE_NAME 1 or 0 for each name that is not needed.
 */
#include <linux/iov_iter.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>
#include <net/inet_connection_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

/* need SOCK_OPS_KFUNCS: sock_ops programs that call functions of modules (Linux 6.15) */
#ifdef PROBE_SOCK_OPS_KFUNCS
#include <linux/filter.h>

/* Came with the first function that they may call. */
bool probe(const struct bpf_sock_ops_kern *ctx);
bool probe(const struct bpf_sock_ops_kern *ctx)
{
	return ctx->is_locked_tcp_sock;
}
#endif

/* need SK_IS_READABLE: an sk_is_readable() that reads sk_prot once (Linux 6.15.3), or tables could not be taken off a socket that is polled */
#ifdef PROBE_SK_IS_READABLE
/* Twice through the plain member, and without READ_ONCE(): looked for in the text, by probes.sh. */
TS_PROBE_TEXT(sk_is_readable, volatile)
#endif

/* need SRCU_FAST: srcu_read_lock_fast() (Linux 6.15) */
#ifdef PROBE_SRCU_FAST
struct srcu_ctr __percpu *probe(struct srcu_struct *srcu);
struct srcu_ctr __percpu *probe(struct srcu_struct *srcu)
{
	return srcu_read_lock_fast(srcu);
}
#endif

/* need PROTO: struct proto with the callbacks that are replaced */
#ifdef PROBE_PROTO
int ts_sendmsg(struct sock *sk, struct msghdr *msg, size_t size);
bool ts_readable(struct sock *sk);
bool ts_memory_free(const struct sock *sk, int wake);
int ts_ioctl(struct sock *sk, int cmd, int *karg);
void ts_how(struct sock *sk, int how);
void ts_plain(struct sock *sk);
void ts_close(struct sock *sk, long timeout);
int ts_disconnect(struct sock *sk, int flags);
int ts_setsockopt(struct sock *sk, int level, int optname, sockptr_t optval, unsigned int optlen);
int ts_getsockopt(struct sock *sk, int level, int optname, char __user *optval, int __user *optlen);

const struct proto probe = {
	.sendmsg = ts_sendmsg,
	.sock_is_readable = ts_readable,
	.stream_memory_free = ts_memory_free,
	.ioctl = ts_ioctl,
	.shutdown = ts_how,
	.unhash = ts_plain,
	.close = ts_close,
	.disconnect = ts_disconnect,
	.release_cb = ts_plain,
	.setsockopt = ts_setsockopt,
	.getsockopt = ts_getsockopt,
};
#endif

/* need PROTO_OPS: struct proto_ops with the callbacks that are replaced */
#ifdef PROBE_PROTO_OPS
__poll_t ts_poll(struct file *file, struct socket *sock, struct poll_table_struct *wait);
int ts_set_rcvlowat(struct sock *sk, int val);
ssize_t ts_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t len, unsigned int flags);

const struct proto_ops probe = {
	.poll = ts_poll,
	.set_rcvlowat = ts_set_rcvlowat,
	.splice_read = ts_splice_read,
	.read_sock = NULL,
	.read_skb = NULL,
	.sendmsg_locked = NULL,
};
#endif

/* need ULP: struct tcp_ulp_ops with release and clone */
#ifdef PROBE_ULP
void ts_release(struct sock *sk);
void ts_clone(const struct request_sock *req, struct sock *newsk, const gfp_t priority);

const struct tcp_ulp_ops probe = {
	.release = ts_release,
	.clone = ts_clone,
};
#endif

/* either RECVMSG_PLAIN or RECVMSG_ADDR_LEN: proto->recvmsg without an address's length (Linux 7.1), or with */
#ifdef PROBE_RECVMSG_PLAIN
int ts_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags);
const struct proto probe = { .recvmsg = ts_recvmsg };
#endif
#ifdef PROBE_RECVMSG_ADDR_LEN
int ts_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len);
const struct proto probe = { .recvmsg = ts_recvmsg };
#endif

/* either SRCU_FAST_DECLARED or SRCU_FAST_UNDECLARED: SRCU that is read by srcu_read_lock_fast() has to be declared so (Linux 6.19), or cannot be */
#ifdef PROBE_SRCU_FAST_DECLARED
DEFINE_STATIC_SRCU_FAST(probe);
struct srcu_struct *probed = &probe;
#endif
#ifdef PROBE_SRCU_FAST_UNDECLARED
#ifdef DEFINE_STATIC_SRCU_FAST
#error
#endif
#endif

/* may MASK_USER_ADDRESS: mask_user_address() knows its limit in a module (Linux 6.18): copies by words, see copy.c */
#ifdef PROBE_MASK_USER_ADDRESS
/* The variable itself. What the kernel puts into its own code where it boots has no address. */
const void *probe(void __user *user, void __user **masked);
const void *probe(void __user *user, void __user **masked)
{
	*masked = mask_user_address(user);
	return &runtime_const_ptr(USER_PTR_MAX);
}
#endif

/* may TCP_DEFERRED_ALL: the mask of what tcp_release_cb() has to do is public: no call when there is nothing */
#ifdef PROBE_TCP_DEFERRED_ALL
unsigned long probe(const struct sock *sk);
unsigned long probe(const struct sock *sk)
{
	return sk->sk_tsq_flags & TCP_DEFERRED_ALL;
}
#endif
