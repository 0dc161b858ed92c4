/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Inbound capture, and the way to the outbound listener: sk_lookup picks the listener of every new connection. */
#pragma once
#include <linux/in.h>
#include "addr.h"
#include "direct.h"
#include "kubelet.h"
#include "maps.h"

#define TUNNEL_PORT 15008

/* The slot that this copy of `steer` serves: sk_lookup has no helper that tells the network namespace. */
const volatile __u32 steer_slot = 0;

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

	struct addr local = { .port = ctx->local_port }, remote = { .port = bpf_ntohs(ctx->remote_port) };
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
		return count(IN_PENDING, SK_DROP); /* probes too: a pod is not ready before it is served */
	if (is_probe(&local, &remote))
		return count(IN_PROBE, SK_PASS);
	if (is_direct(index, &local, &remote))
		return count(IN_DIRECT, SK_PASS);
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
