/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Outbound capture: connect4 and connect6 turn a connection to ztunnel, `established` publishes what it wanted. */
#pragma once
#include <linux/in.h>
#include <linux/in6.h>
#include "addr.h"
#include "direct.h"
#include "kubelet.h"
#include "maps.h"

#define SOL_SOCKET 1
#define SO_BINDTODEVICE 25

/* What decide() tells its caller to write into the context. */
struct turn {
	__u32 src[4];   /* address to bind, if it could be bound */
	__u16 out_port; /* listener's port on loopback, host order */
	__u16 unbind;   /* an earlier connect of this socket bound it to an address that it should not keep */
	struct addr to; /* the endpoint, if the connection goes directly */
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

enum outcome { GO = 0, STOP = 1, TURN = 2, DIRECT = 3 };

/* Forgets an earlier connect on this socket. Tells whether it had bound the source. */
static __always_inline int forget_dialled(struct bpf_sock *sk, struct dial **dial)
{
	*dial = bpf_sk_storage_get(&dialled, sk, 0, 0);
	if (!*dial)
		return 0;
	int bound = (*dial)->origin.bound;
	__builtin_memset(*dial, 0, sizeof(**dial));
	return bound;
}

/* Whether the app left it to the kernel which of the pod's addresses is the source, or bound the one that is shown. */
static __always_inline int has_usual_source(const __u32 src[4], const struct turn *turn)
{
	return turn->unbind || is_unspecified(src) || same_ip(src, turn->src);
}

/*
 * decide: GO as dialled, STOP with EPERM, TURN to ztunnel or go DIRECT as `turn` says. `ctx` is void so that no field of
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

	struct dial *dial;
	turn->unbind = forget_dialled(sk, &dial);
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
	struct permit permit;
	int direct = turn->out_port && has_usual_source(src, turn) && may_go_direct(sk, index, dst, &permit);
	/* Without an agent nothing is permitted: who would hear of it? */
	int alive = !(direct || slot->fail_open) || (turn->out_port && listener_alive(ctx, turn, v4));
	if (slot->fail_open && !alive)
		return count(OUT_FAIL_OPEN, GO);
	/* Without a mesh, what is bound to loopback cannot leave the pod either. */
	if (is_zero(turn->src) || turn->out_port == 0 || is_loopback(src))
		return count(OUT_NO_SOURCE, STOP);

	if (!dial)
		dial = bpf_sk_storage_get(&dialled, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!dial)
		return count(OUT_ERROR, STOP);
	dial->origin.dst = *dst;
	dial->origin.at = bpf_ktime_get_ns();
	if (direct && alive) {
		dial->generation = permit.generation;
		dial->to = permit.to;
		dial->slot = index;
		turn->to = permit.to.addr;
		return count(OUT_DIRECT, DIRECT);
	}
	dial->origin.bound = turn->unbind || is_unspecified(src);
	return count(OUT_CAPTURED, TURN);
}

/* The socket's record of a captured connection, or 0. */
static __always_inline struct dial *dialled_by(struct bpf_sock *sk)
{
	struct dial *dial = bpf_sk_storage_get(&dialled, sk, 0, 0);
	return dial && dial->origin.dst.port ? dial : 0;
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
		if (outcome == DIRECT) {
			ctx->user_ip4 = turn.to.ip[3];
			ctx->user_port = bpf_htons(turn.to.port);
		}
		return outcome == STOP ? REFUSE : PASS;
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
static __always_inline void turn6(struct bpf_sock_addr *ctx, const __u32 to[4], __u16 port)
{
	ctx->user_ip6[0] = to[0];
	ctx->user_ip6[1] = to[1];
	ctx->user_ip6[2] = to[2];
	ctx->user_ip6[3] = to[3];
	ctx->user_port = bpf_htons(port);
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
		if (outcome == DIRECT)
			turn6(ctx, turn.to.ip, turn.to.port);
		return outcome == STOP ? REFUSE : PASS;
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
	turn6(ctx, to, turn.out_port);
	return PASS;
}

/* sockops: the local port is known and the SYN not sent. */

SEC("sockops")
int established(struct bpf_sock_ops *ctx)
{
	struct ends ends = {};
	if (ctx->op == BPF_SOCK_OPS_STATE_CB) { /* only noted sockets say when they change */
		if (ctx->args[1] != BPF_TCP_ESTABLISHED && ctx->args[1] != BPF_TCP_CLOSE)
			return 1;
		ends_of(ctx, &ends);
		if (!follow_direct(ctx, &ends))
			follow_probe(ctx, &ends);
		return 1;
	}
	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct dial *dial = dialled_by(sk);
	if (!dial) {
		note_probe(ctx);
		return 1;
	}
	if (dial->generation) {
		note_direct(ctx, dial);
		return 1;
	}
	ends_of(ctx, &ends);
	struct origin_key key = { .netns = bpf_get_netns_cookie(ctx), .local = ends.client };
	struct origin copy = dial->origin;
	bpf_map_update_elem(&origins, &key, &copy, BPF_ANY);
	return 1;
}
