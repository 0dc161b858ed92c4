/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The direct way: a connection between two pods of this node that ztunnel has permitted before goes from app to app, and
 * no process is in between.
 *
 *   may_go_direct   (connect4/6) is what was dialled permitted
 *   note_direct     (sockops, before the SYN) note both ends, tell the agent
 *   is_direct       (sk_lookup) let exactly that SYN through to the app, if it is permitted still
 *   follow_direct   (sockops) shorten the note once it is established; tell the agent how it ended
 *
 * A permit counts for one generation. Who changes what permits follow from starts another, so a SYN is never let through
 * by what was true before.
 */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "addr.h"
#include "ends.h"
#include "maps.h"

/* What of the kernel's own socket is read. */
struct sock_common {
	unsigned long skc_flags;
} __attribute__((preserve_access_index));

struct sock {
	struct sock_common __sk_common;
	int sk_err;
	int sk_rcvbuf;
	void *sk_user_data;
	struct {
		struct { int counter; } rmem_alloc;
	} sk_backlog;
} __attribute__((preserve_access_index));

struct inet_sock {
	struct sock sk;
} __attribute__((preserve_access_index));

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const void *icsk_ulp_ops;
} __attribute__((preserve_access_index));

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u8 is_mptcp : 1;
	__u32 write_seq;
	__u32 copied_seq;
} __attribute__((preserve_access_index));

#define SOCK_DONE_BIT 1 /* enum sock_flags: the peer's FIN has come */

static __always_inline int is_mptcp(struct bpf_sock *sk)
{
	struct tcp_sock *tp = (void *)bpf_skc_to_tcp_sock(sk);
	return !tp || (bpf_core_field_exists(tp->is_mptcp) && BPF_CORE_READ_BITFIELD_PROBED(tp, is_mptcp));
}

static __always_inline __u64 generation_now(void)
{
	__u32 zero = 0;
	__u64 *now = bpf_map_lookup_elem(&generation, &zero);
	return now ? *now : 0;
}

/* The permit for what a pod dials, or 0 if none counts. */
static __always_inline int permit_for(__u32 slot, const struct addr *dst, struct permit *permit)
{
	struct permit_key key = { .slot = slot, .dst = *dst };
	struct permit *found = bpf_map_lookup_elem(&permits, &key);
	if (!found)
		return 0;
	*permit = *found;
	return permit->generation && permit->generation == generation_now();
}

/* Is there room to note one more connection, and to tell of it? Otherwise ztunnel carries it. */
static __always_inline int direct_has_room(void)
{
	__u32 zero = 0;
	__u64 *open = bpf_map_lookup_elem(&direct_open, &zero);
	return open && *open < MAX_DIRECT - MAX_DIRECT / 16 &&
	       bpf_ringbuf_query(&direct_events, BPF_RB_AVAIL_DATA) < DIRECT_RING / 2;
}

/* May this socket go directly? */
static __always_inline int may_go_direct(struct bpf_sock *sk, __u32 slot, const struct addr *dst, struct permit *permit)
{
	return permit_for(slot, dst, permit) && direct_has_room() && !is_mptcp(sk);
}

/* Adds what went past TCP. */
static __always_inline void add_lane(const struct ends *ends, struct direct_event *event)
{
	struct lane *lane = bpf_map_lookup_elem(&lanes, ends);
	if (!lane)
		return;
	event->acked += lane->up;
	event->received += lane->down;
	if (lane->up | lane->down)
		event->flags |= DIRECT_FAST;
}

/* Tells the agent. A connection whose beginning cannot be told is not noted, so that it is steered to ztunnel. */
static __always_inline int tell_direct(__u32 kind, const struct ends *ends, const struct direct *direct,
				       struct bpf_sock_ops *ctx)
{
	struct direct_event *event = bpf_ringbuf_reserve(&direct_events, sizeof(*event), 0);
	if (!event)
		return -1;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->ends = *ends;
	event->direct = *direct;
	event->at = bpf_ktime_get_ns();
	if (kind == DIRECT_ENDED) {
		struct tcp_sock *tp = ctx->sk ? (void *)bpf_skc_to_tcp_sock(ctx->sk) : 0;
		event->old_state = ctx->args[0];
		event->acked = ctx->bytes_acked;
		event->received = ctx->bytes_received;
		event->srtt_us = ctx->srtt_us >> 3;
		event->retransmits = ctx->total_retrans;
		add_lane(ends, event);
		if (tp) {
			event->error = BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.sk_err);
			if (BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.__sk_common.skc_flags) >> SOCK_DONE_BIT & 1)
				event->flags |= DIRECT_GOT_FIN;
		}
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline void add_open(__s64 n)
{
	__u32 zero = 0;
	__u64 *open = bpf_map_lookup_elem(&direct_open, &zero);
	if (open)
		__sync_fetch_and_add(open, n);
}

/* Notes a permitted connection that is about to be made. */
static __always_inline void note_direct(struct bpf_sock_ops *ctx, const struct dial *dial)
{
	struct ends ends = {};
	struct direct direct = {
		.client = bpf_get_netns_cookie(ctx),
		.server = dial->to.netns,
		.generation = dial->generation,
		.until = bpf_ktime_get_ns() + SYN_WAIT_NS,
		.at = dial->origin.at,
		.dialled = dial->origin.dst,
		.slot = dial->slot,
		.to_slot = dial->to.slot,
	};

	ends_of(ctx, &ends);
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG) < 0 ||
	    bpf_map_update_elem(&directs, &ends, &direct, BPF_ANY)) {
		count(DIRECT_NOT_NOTED, 0);
		return;
	}
	add_open(1);
	if (tell_direct(DIRECT_OPENS, &ends, &direct, ctx)) {
		bpf_map_delete_elem(&directs, &ends);
		add_open(-1);
		count(DIRECT_NOT_NOTED, 0);
	}
}

/* A socket changes its state. Returns 0 if it is none that was noted. */
static __always_inline int follow_direct(struct bpf_sock_ops *ctx, const struct ends *ends)
{
	struct direct *direct = bpf_map_lookup_elem(&directs, ends);
	if (!direct)
		return 0;
	__u32 state = ctx->args[1];
	if (state == BPF_TCP_ESTABLISHED) {
		direct->until = bpf_ktime_get_ns() + ACK_WAIT_NS;
		direct->established = bpf_ktime_get_ns();
	} else if (state == BPF_TCP_CLOSE) {
		struct direct copy = *direct;
		if (bpf_map_delete_elem(&directs, ends) == 0)
			add_open(-1);
		if (tell_direct(DIRECT_ENDED, ends, &copy, ctx))
			count(DIRECT_END_LOST, 0); /* the agent looks for what is not in the map any more */
		bpf_map_delete_elem(&lanes, ends);
	}
	return 1;
}

/* Is the connection that comes in to `slot` one that was permitted, and is permitted still? */
static __always_inline int is_direct(__u32 slot, const struct addr *server, const struct addr *client)
{
	struct ends ends = { .client = *client, .server = *server };
	struct direct *direct = bpf_map_lookup_elem(&directs, &ends);
	if (!direct || direct->to_slot != slot || bpf_ktime_get_ns() >= direct->until)
		return 0;
	if (direct->generation == generation_now())
		return 1;
	/* Another generation has begun since it dialled: what is permitted in that counts. */
	struct permit permit;
	return permit_for(direct->slot, &direct->dialled, &permit) && permit.to.slot == slot &&
	       permit.to.addr.port == server->port && same_ip(permit.to.addr.ip, server->ip);
}
