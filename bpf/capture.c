//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Capture: the kernel's half of a connection's journey, in the order a connection travels.
 *
 *   connect4/6       app dials: note the destination on the socket, show the pod's source, turn to ztunnel
 *   established      (sockops, before the SYN) publish the destination under the now known local port
 *   steer            (sk_lookup) hand every new connection to the listener of its role
 *   getpeername4/6   tell each app its true peer, accept() included
 *   getsockname4/6   tell a client its own address, never loopback
 *   sendmsg4/6       count datagrams, which are not captured
 *
 * Each program normalises its context to struct addr, decides in shared code, and writes back: the verifier lets
 * an IPv4 program see no IPv6 field and the other way round.
 *
 * A program acts only for sockets whose network namespace has a slot, and never for ztunnel's own sockets, which
 * carry a mark in socket storage that only the agent can set.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "include/capture.h"

#define AF_INET 2
#define AF_INET6 10
#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25
#define TUNNEL_PORT 15008
#define MAX_PODS 1024
#define PASS 1
#define REFUSE 0

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The slot that this copy of `steer` serves: sk_lookup has no helper that tells the network namespace. */
const volatile __u32 steer_slot = 0;

/* Keep the enums in BTF, where the Go twins are generated from. */
enum pod_state *pod_state_btf __attribute__((unused));
enum listener_role *listener_role_btf __attribute__((unused));
enum capture_reason *capture_reason_btf __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u64); /* netns cookie */
	__type(value, __u32);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PODS);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS * 8);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct own_addr);
	__type(value, __u32);
} own_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, MAX_PODS * ROLE_STRIDE);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

/* Entries live as long as their connection; LRU bounds what connections that never reach accept() leave. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 131072);
	__type(key, struct origin_key);
	__type(value, struct origin);
} origins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct peer_key);
	__type(value, struct addr);
} peers SEC(".maps");

/* Marks ztunnel's own sockets; sockets accepted from a marked listener inherit the mark. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, __u32);
	__type(value, __u32);
} own_sockets SEC(".maps");

/* What a captured client socket dialled. Its `dst` is all zero on a socket that has since dialled something else. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct origin);
} dialled SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int count(__u32 reason, int verdict)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &reason);
	if (n)
		*n += 1;
	return verdict;
}

/* Addresses. */

static __always_inline void set_v4(__u32 ip[4], __u32 v4)
{
	ip[0] = 0;
	ip[1] = 0;
	ip[2] = bpf_htonl(0xffff);
	ip[3] = v4;
}

static __always_inline int is_v4(const __u32 ip[4])
{
	return ip[0] == 0 && ip[1] == 0 && ip[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const __u32 ip[4])
{
	if (is_v4(ip))
		return (bpf_ntohl(ip[3]) >> 24) == 127;
	return ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] == bpf_htonl(1);
}

static __always_inline int is_unspecified(const __u32 ip[4])
{
	return ip[0] == 0 && ip[1] == 0 && ip[3] == 0 && (ip[2] == 0 || is_v4(ip));
}

static __always_inline int is_link_local(const __u32 ip[4])
{
	return !is_v4(ip) && (bpf_ntohl(ip[0]) & 0xffc00000) == 0xfe800000;
}

static __always_inline int is_zero(const __u32 ip[4])
{
	return (ip[0] | ip[1] | ip[2] | ip[3]) == 0;
}

static __always_inline int same_ip(const __u32 a[4], const __u32 b[4])
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline void local_ip_of(struct bpf_sock *sk, __u32 ip[4], int v6)
{
	if (v6) {
		ip[0] = sk->src_ip6[0];
		ip[1] = sk->src_ip6[1];
		ip[2] = sk->src_ip6[2];
		ip[3] = sk->src_ip6[3];
	} else {
		set_v4(ip, sk->src_ip4);
	}
}

static __always_inline int is_own_addr(__u32 slot, const __u32 ip[4])
{
	struct own_addr key = { .slot = slot };
	__builtin_memcpy(key.ip, ip, sizeof(key.ip));
	return bpf_map_lookup_elem(&own_addrs, &key) != 0;
}

/* The slot of the context's network namespace, or 0. Sets *index. */
static __always_inline struct slot *slot_of(void *ctx, __u64 *netns, __u32 *index)
{
	*netns = bpf_get_netns_cookie(ctx);
	__u32 *found = bpf_map_lookup_elem(&pods, netns);
	if (!found)
		return 0;
	*index = *found;
	struct slot *slot = bpf_map_lookup_elem(&slots, found);
	if (!slot || slot->state == POD_UNMANAGED)
		return 0;
	return slot;
}

/* connect: outbound capture. */

/* What decide() tells its caller to write into the context. */
struct turn {
	__u32 src[4];   /* address to bind, if it could be bound */
	__u16 out_port; /* listener's port on loopback, host order */
	__u16 unbind;   /* an earlier connect of this socket bound it to an address that it should not keep */
};

/* Is ztunnel's outbound listener there? Asked only where the answer may open the way. */
static __always_inline int listener_alive(void *ctx, const struct turn *turn, int v4)
{
	struct bpf_sock_tuple tuple = {};
	__u32 len = sizeof(tuple.ipv4);
	if (v4) {
		tuple.ipv4.saddr = turn->src[3];
		tuple.ipv4.daddr = bpf_htonl(0x7f000001);
		tuple.ipv4.dport = bpf_htons(turn->out_port);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, turn->src, sizeof(turn->src));
		__builtin_memcpy(tuple.ipv6.daddr, turn->src, sizeof(turn->src));
		tuple.ipv6.dport = bpf_htons(turn->out_port);
		len = sizeof(tuple.ipv6);
	}
	struct bpf_sock *sk = bpf_sk_lookup_tcp(ctx, &tuple, len, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	int ours = bpf_sk_storage_get(&own_sockets, sk, 0, 0) != 0;
	bpf_sk_release(sk);
	return ours;
}

enum outcome { GO = 0, STOP = 1, TURN = 2 };

/* Forgets an earlier connect on this socket. Tells whether it had bound the source. */
static __always_inline int forget_dialled(struct bpf_sock *sk, struct origin **origin)
{
	*origin = bpf_sk_storage_get(&dialled, sk, 0, 0);
	if (!*origin)
		return 0;
	__builtin_memset(&(*origin)->dst, 0, sizeof((*origin)->dst));
	int bound = (*origin)->bound;
	(*origin)->bound = 0;
	return bound;
}

/*
 * decide: GO as dialled, STOP with EPERM, or TURN to ztunnel as `turn` says. `ctx` is void so that no field of
 * either family can be touched here. `src` is what the socket is bound to, all zero if to no address.
 */
static __always_inline enum outcome decide(void *ctx, struct bpf_sock *sk, __u32 protocol, const __u32 src[4],
					   const struct addr *dst, struct turn *turn)
{
	__u64 netns;
	__u32 index;
	struct slot *slot = slot_of(ctx, &netns, &index);
	if (!slot || !sk)
		return GO;
	if (protocol == IPPROTO_UDP)
		return count(OUT_UDP, GO);
	if (protocol != IPPROTO_TCP)
		return count(OUT_OTHER, GO);
	if (bpf_sk_storage_get(&own_sockets, sk, 0, 0))
		return count(OUT_OWN, GO);

	struct origin *origin;
	turn->unbind = forget_dialled(sk, &origin);
	if (is_loopback(dst->ip) || is_unspecified(dst->ip) || is_own_addr(index, dst->ip))
		return count(OUT_LOCAL, GO);
	if (is_link_local(dst->ip))
		return count(OUT_LINK_LOCAL, GO);
	if (slot->state == POD_LEAVING)
		return GO;
	if (slot->state != POD_ENROLLED)
		return count(OUT_PENDING, STOP);

	int v4 = is_v4(dst->ip);
	__builtin_memcpy(turn->src, v4 ? slot->src4 : slot->src6, sizeof(turn->src));
	turn->out_port = v4 ? slot->out_port4 : slot->out_port6;
	if (slot->fail_open && (turn->out_port == 0 || !listener_alive(ctx, turn, v4)))
		return count(OUT_FAIL_OPEN, GO);
	/* Without a mesh, what is bound to loopback cannot leave the pod either. */
	if (is_zero(turn->src) || turn->out_port == 0 || is_loopback(src))
		return count(OUT_NO_SOURCE, STOP);

	if (!origin)
		origin = bpf_sk_storage_get(&dialled, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!origin)
		return count(OUT_ERROR, STOP);
	origin->dst = *dst;
	origin->at = bpf_ktime_get_ns();
	origin->bound = turn->unbind || is_unspecified(src);
	return count(OUT_CAPTURED, TURN);
}

/* The socket's record of a captured connection, or 0. */
static __always_inline struct origin *dialled_by(struct bpf_sock *sk)
{
	struct origin *origin = bpf_sk_storage_get(&dialled, sk, 0, 0);
	return origin && origin->dst.port ? origin : 0;
}

/* A socket bound to a device cannot reach loopback: ztunnel dials by the pod's routes instead. */
static __always_inline void release_device(struct bpf_sock_addr *ctx, struct bpf_sock *sk)
{
	char none[4] = "";
	if (sk->bound_dev_if)
		bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, none, sizeof(none));
}

static __always_inline int bind4(struct bpf_sock_addr *ctx, __u32 ip)
{
	struct sockaddr_in src = { .sin_family = AF_INET, .sin_addr.s_addr = ip };
	return bpf_bind(ctx, (struct sockaddr *)&src, sizeof(src));
}

static __always_inline int bind6(struct bpf_sock_addr *ctx, const __u32 ip[4])
{
	struct sockaddr_in6 src = { .sin6_family = AF_INET6 };
	__builtin_memcpy(&src.sin6_addr, ip, sizeof(src.sin6_addr));
	return bpf_bind(ctx, (struct sockaddr *)&src, sizeof(src));
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct addr dst = { .port = bpf_ntohs(ctx->user_port) };
	struct bpf_sock *sk = ctx->sk;
	struct turn turn = {};
	__u32 bound[4];

	set_v4(dst.ip, ctx->user_ip4);
	set_v4(bound, sk ? sk->src_ip4 : 0);
	enum outcome outcome = decide(ctx, sk, ctx->protocol, bound, &dst, &turn);
	if (outcome != TURN) {
		if (turn.unbind)
			bind4(ctx, 0);
		return outcome == GO ? PASS : REFUSE;
	}
	if (sk)
		release_device(ctx, sk);
	/* An address that the app bound stands. If it bound only a port this fails, and getsockname4 tells the truth. */
	if (turn.unbind || is_unspecified(bound))
		bind4(ctx, turn.src[3]);
	ctx->user_ip4 = bpf_htonl(0x7f000001);
	ctx->user_port = bpf_htons(turn.out_port);
	return PASS;
}

/*
 * Where an IPv6 socket is turned to: its own source, which is an address of this pod, or ::1 if it has none. A socket
 * bound to another address cannot be turned to ::1: the kernel sends RSTs to ::1 only by the interface that their
 * cause came in by, which is the one that has the source (tcp_v6_send_response), and so never sends them.
 */
static __always_inline void turn6(struct bpf_sock_addr *ctx, const __u32 to[4], const struct turn *turn)
{
	ctx->user_ip6[0] = to[0];
	ctx->user_ip6[1] = to[1];
	ctx->user_ip6[2] = to[2];
	ctx->user_ip6[3] = to[3];
	ctx->user_port = bpf_htons(turn->out_port);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct addr dst = { .port = bpf_ntohs(ctx->user_port) };
	struct bpf_sock *sk = ctx->sk;
	struct turn turn = {};
	__u32 bound[4] = {}, to[4] = {};

	dst.ip[0] = ctx->user_ip6[0];
	dst.ip[1] = ctx->user_ip6[1];
	dst.ip[2] = ctx->user_ip6[2];
	dst.ip[3] = ctx->user_ip6[3];
	if (sk)
		local_ip_of(sk, bound, 1);
	enum outcome outcome = decide(ctx, sk, ctx->protocol, bound, &dst, &turn);
	if (outcome != TURN) {
		if (turn.unbind)
			bind6(ctx, to);
		return outcome == GO ? PASS : REFUSE;
	}
	if (sk)
		release_device(ctx, sk);
	if (is_v4(dst.ip))
		set_v4(to, bpf_htonl(0x7f000001));
	else
		to[3] = bpf_htonl(1);
	if (turn.unbind || is_unspecified(bound)) {
		if (bind6(ctx, turn.src) == 0 && !is_v4(dst.ip))
			__builtin_memcpy(to, turn.src, sizeof(to));
	} else if (!is_v4(dst.ip)) {
		__builtin_memcpy(to, bound, sizeof(to));
	}
	turn6(ctx, to, &turn);
	return PASS;
}

/* sockops: the local port is known and the SYN not sent. */

SEC("sockops")
int established(struct bpf_sock_ops *ctx)
{
	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct origin *origin = dialled_by(sk);
	if (!origin)
		return 1;
	struct origin_key key = { .netns = bpf_get_netns_cookie(ctx), .local.port = ctx->local_port };
	if (ctx->family == AF_INET) {
		set_v4(key.local.ip, ctx->local_ip4);
	} else {
		key.local.ip[0] = ctx->local_ip6[0];
		key.local.ip[1] = ctx->local_ip6[1];
		key.local.ip[2] = ctx->local_ip6[2];
		key.local.ip[3] = ctx->local_ip6[3];
	}
	struct origin copy = *origin;
	bpf_map_update_elem(&origins, &key, &copy, BPF_ANY);
	return 1;
}

/* sk_lookup: inbound capture, and the way to the outbound listener. */

/* The role of the listener that serves local:port, or -1 to pass. */
static __always_inline int role_of(const struct slot *slot, const struct addr *local, const struct addr *remote)
{
	if (is_loopback(local->ip)) {
		__u16 out_port = is_v4(local->ip) ? slot->out_port4 : slot->out_port6;
		return out_port && local->port == out_port ? ROLE_OUTBOUND : -1;
	}
	if (same_ip(local->ip, remote->ip) && !is_v4(local->ip) && slot->out_port6 && local->port == slot->out_port6)
		return ROLE_OUTBOUND; /* connect6 turned it */
	/* The pod to itself, ztunnel to the app included. From outside such a source is a martian. */
	if (same_ip(local->ip, remote->ip) || is_loopback(remote->ip) || is_own_addr(steer_slot, remote->ip))
		return -1;
	return local->port == TUNNEL_PORT ? ROLE_TUNNEL : ROLE_PLAINTEXT;
}

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	__u32 index = steer_slot;
	struct slot *slot = bpf_map_lookup_elem(&slots, &index);
	if (!slot || slot->state == POD_UNMANAGED)
		return SK_PASS;

	struct addr local = { .port = ctx->local_port }, remote = {};
	if (ctx->family == AF_INET) {
		set_v4(local.ip, ctx->local_ip4);
		set_v4(remote.ip, ctx->remote_ip4);
	} else {
		local.ip[0] = ctx->local_ip6[0];
		local.ip[1] = ctx->local_ip6[1];
		local.ip[2] = ctx->local_ip6[2];
		local.ip[3] = ctx->local_ip6[3];
		remote.ip[0] = ctx->remote_ip6[0];
		remote.ip[1] = ctx->remote_ip6[1];
		remote.ip[2] = ctx->remote_ip6[2];
		remote.ip[3] = ctx->remote_ip6[3];
	}
	int role = role_of(slot, &local, &remote);
	if (role < 0)
		return count(IN_LOCAL, SK_PASS);
	if (slot->state == POD_PENDING)
		return count(IN_PENDING, SK_DROP);
	if (slot->state == POD_LEAVING && role == ROLE_PLAINTEXT)
		return SK_PASS;

	__u32 key = index * ROLE_STRIDE + role * 2 + (ctx->family == AF_INET6);
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &key);
	if (!listener) {
		if (slot->fail_open && role != ROLE_OUTBOUND)
			return count(IN_FAIL_OPEN, SK_PASS);
		return count(IN_NO_LISTENER, SK_DROP);
	}
	long err = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	if (err)
		return count(IN_ERROR, SK_DROP);
	if (role == ROLE_OUTBOUND)
		return SK_PASS;
	return count(role == ROLE_TUNNEL ? IN_TUNNEL : IN_PLAINTEXT, SK_PASS);
}

/* getpeername, getsockname: what the apps are told. */

/* An MPTCP socket's first subflow, another socket, was captured: finds what it dialled. */
static __always_inline int subflow_peer(void *ctx, __u64 netns, struct bpf_sock *sk, const __u32 local_ip[4],
					struct addr *remote)
{
	struct origin_key key = { .netns = netns, .local.port = sk->src_port };
	__u32 index;
	struct slot *slot = slot_of(ctx, &netns, &index);
	if (!slot || (remote->port != slot->out_port4 && remote->port != slot->out_port6))
		return 0;
	__builtin_memcpy(key.local.ip, local_ip, sizeof(key.local.ip));
	struct origin *origin = bpf_map_lookup_elem(&origins, &key);
	if (!origin)
		return 0;
	*remote = origin->dst;
	return 1;
}

/*
 * Replaces *remote by the true peer of `sk`. Returns 0 if it is true already. The pod may have left the mesh since the
 * connection was made.
 */
static __always_inline int true_peer(void *ctx, struct bpf_sock *sk, const __u32 local_ip[4], struct addr *remote)
{
	struct origin *origin = dialled_by(sk);
	if (origin) {
		*remote = origin->dst;
		return 1;
	}
	/* What ztunnel made has one address at both ends, or a loopback one. */
	int own = same_ip(local_ip, remote->ip);
	if (!own && !is_loopback(remote->ip))
		return 0;
	if (bpf_sk_storage_get(&own_sockets, sk, 0, 0))
		return 0;
	__u64 netns = bpf_get_netns_cookie(ctx);
	if (own) {
		struct peer_key key = { .netns = netns, .local.port = sk->src_port, .remote = *remote };
		__builtin_memcpy(key.local.ip, local_ip, sizeof(key.local.ip));
		struct addr *client = bpf_map_lookup_elem(&peers, &key);
		if (client) {
			*remote = *client;
			return 1;
		}
	}
	return subflow_peer(ctx, netns, sk, local_ip, remote);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct addr remote = { .port = bpf_ntohs(ctx->user_port) };
	__u32 local[4] = {};

	if (!sk || ctx->protocol == IPPROTO_UDP)
		return PASS;
	local_ip_of(sk, local, 0);
	set_v4(remote.ip, ctx->user_ip4);
	if (!true_peer(ctx, sk, local, &remote))
		return PASS;
	ctx->user_ip4 = remote.ip[3];
	ctx->user_port = bpf_htons(remote.port);
	return PASS;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct addr remote = { .port = bpf_ntohs(ctx->user_port) };
	__u32 local[4] = {};

	if (!sk || ctx->protocol == IPPROTO_UDP)
		return PASS;
	local_ip_of(sk, local, 1);
	remote.ip[0] = ctx->user_ip6[0];
	remote.ip[1] = ctx->user_ip6[1];
	remote.ip[2] = ctx->user_ip6[2];
	remote.ip[3] = ctx->user_ip6[3];
	if (!true_peer(ctx, sk, local, &remote))
		return PASS;
	ctx->user_ip6[0] = remote.ip[0];
	ctx->user_ip6[1] = remote.ip[1];
	ctx->user_ip6[2] = remote.ip[2];
	ctx->user_ip6[3] = remote.ip[3];
	ctx->user_port = bpf_htons(remote.port);
	return PASS;
}

/* The pod's address in place of the loopback one that a captured socket got because the app bound only a port. */
static __always_inline const __u32 *true_source(struct bpf_sock_addr *ctx, const __u32 ip[4])
{
	struct origin_key key = { .local.port = bpf_ntohs(ctx->user_port) };
	__u32 index;

	if (!ctx->sk || !is_loopback(ip))
		return 0;
	struct slot *slot = slot_of(ctx, &key.netns, &index);
	if (!slot)
		return 0;
	__builtin_memcpy(key.local.ip, ip, sizeof(key.local.ip));
	if (!dialled_by(ctx->sk) && !(ctx->protocol == IPPROTO_MPTCP && bpf_map_lookup_elem(&origins, &key)))
		return 0;
	return is_v4(ip) ? slot->src4 : slot->src6;
}

SEC("cgroup/getsockname4")
int getsockname4(struct bpf_sock_addr *ctx)
{
	__u32 ip[4];

	set_v4(ip, ctx->user_ip4);
	const __u32 *src = true_source(ctx, ip);
	if (src && src[3])
		ctx->user_ip4 = src[3];
	return PASS;
}

SEC("cgroup/getsockname6")
int getsockname6(struct bpf_sock_addr *ctx)
{
	__u32 ip[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] };
	const __u32 *src = true_source(ctx, ip);
	if (!src || is_zero(src))
		return PASS;
	ctx->user_ip6[0] = src[0];
	ctx->user_ip6[1] = src[1];
	ctx->user_ip6[2] = src[2];
	ctx->user_ip6[3] = src[3];
	return PASS;
}

/* sendmsg: only counted. */

static __always_inline int count_datagram(void *ctx)
{
	__u64 netns;
	__u32 index;
	if (slot_of(ctx, &netns, &index))
		count(UDP_SENT, PASS);
	return PASS;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return count_datagram(ctx);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return count_datagram(ctx);
}
