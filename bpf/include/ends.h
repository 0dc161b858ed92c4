/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A connection as sockops sees it on its client's socket, and how long a note of one counts. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "addr.h"
#include "capture.h"

/*
 * How long a note counts: as long as the SYN may be sent again, and after the handshake for as long as its last ACK may
 * be late, which under SYN cookies is what makes the app's socket. Not as long as the connection: whoever forged the
 * node's address could have it reset and take its place.
 */
#define SYN_WAIT_NS (150 * 1000000000ULL)
#define ACK_WAIT_NS 1000000000ULL

/* Not inlined: clang would merge the families' loads into one by a computed pointer, which no context allows. */
static __noinline void ends4(struct bpf_sock_ops *ctx, struct ends *ends)
{
	set_v4(ends->client.ip, ctx->local_ip4);
	set_v4(ends->server.ip, ctx->remote_ip4);
}

static __noinline void ends6(struct bpf_sock_ops *ctx, struct ends *ends)
{
	ends->client.ip[0] = ctx->local_ip6[0];
	ends->client.ip[1] = ctx->local_ip6[1];
	ends->client.ip[2] = ctx->local_ip6[2];
	ends->client.ip[3] = ctx->local_ip6[3];
	ends->server.ip[0] = ctx->remote_ip6[0];
	ends->server.ip[1] = ctx->remote_ip6[1];
	ends->server.ip[2] = ctx->remote_ip6[2];
	ends->server.ip[3] = ctx->remote_ip6[3];
}

/* Both ends of the connection that the context's socket, its client, makes. */
static __always_inline void ends_of(struct bpf_sock_ops *ctx, struct ends *ends)
{
	ends->client.port = ctx->local_port;
	ends->server.port = bpf_ntohl(ctx->remote_port);
	if (ctx->family == AF_INET)
		ends4(ctx, ends);
	else
		ends6(ctx, ends);
}
