/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the apps are told when they ask who their peer is, and who they are. */
#pragma once
#include <linux/in.h>
#include "addr.h"
#include "maps.h"

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
	struct dial *dial = dialled_by(sk);
	if (dial) {
		*remote = dial->origin.dst;
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
