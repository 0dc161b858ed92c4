/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Acceleration: between two pods that asked for it, what one end of a direct connection sends is put into the other end's
 * queue at once, without a segment, a bridge or a timer of TCP's.
 *
 *   accelerate   (sockops, once established) put both sockets into `fast`, and the connection into `lanes`
 *   overtake     (sk_msg, each send) hand it to the other socket, or leave it to TCP
 *
 * The kernel bounds the queue of what was handed over by nothing but its memory. So overtake does: a reader that falls
 * behind gets the rest by TCP, which makes the sender wait. Order holds: a reader gets all that was handed over before what
 * came by TCP (tcp_bpf_recvmsg), and nothing is handed over before it has read all of that.
 */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "addr.h"
#include "direct.h"
#include "ends.h"
#include "maps.h"

static __always_inline int wants_speed(__u32 index)
{
	struct slot *slot = bpf_map_lookup_elem(&slots, &index);
	return slot && slot->accelerate;
}

/* The connection of a socket that is established now, if both of its pods want it accelerated. */
static __always_inline int may_accelerate(const struct ends *ends)
{
	struct direct *direct = bpf_map_lookup_elem(&directs, ends);
	return direct && wants_speed(direct->slot) && wants_speed(direct->to_slot);
}

SEC("sockops")
int accelerate(struct bpf_sock_ops *ctx)
{
	int client = ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB;
	if (!client && ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	struct lane_key key = { .side = client ? SIDE_CLIENT : SIDE_SERVER };
	struct bpf_sock *sk = ctx->sk;
	ends_of(ctx, &key.ends);
	if (!client) {
		struct addr own = key.ends.client;
		key.ends.client = key.ends.server;
		key.ends.server = own;
	}
	if (!sk || !may_accelerate(&key.ends))
		return 1;
	void *self = bpf_skc_to_tcp_sock(sk);
	if (!self)
		return 1;
	if (client) { /* which is established first */
		struct lane lane = { .client_sk = (__u64)self };
		if (bpf_map_update_elem(&lanes, &key.ends, &lane, BPF_ANY))
			return 1;
		if (bpf_sock_hash_update(ctx, &fast, &key, BPF_ANY))
			bpf_map_delete_elem(&lanes, &key.ends);
		return 1;
	}
	struct lane *lane = bpf_map_lookup_elem(&lanes, &key.ends);
	if (lane && bpf_sock_hash_update(ctx, &fast, &key, BPF_ANY) == 0)
		lane->server_sk = (__u64)self;
	return 1;
}

/* Not inlined, as ends4. */
static __noinline void ends_of_msg4(struct sk_msg_md *msg, struct ends *ends)
{
	set_v4(ends->client.ip, msg->local_ip4);
	set_v4(ends->server.ip, msg->remote_ip4);
}

static __noinline void ends_of_msg6(struct sk_msg_md *msg, struct ends *ends)
{
	ends->client.ip[0] = msg->local_ip6[0];
	ends->client.ip[1] = msg->local_ip6[1];
	ends->client.ip[2] = msg->local_ip6[2];
	ends->client.ip[3] = msg->local_ip6[3];
	ends->server.ip[0] = msg->remote_ip6[0];
	ends->server.ip[1] = msg->remote_ip6[1];
	ends->server.ip[2] = msg->remote_ip6[2];
	ends->server.ip[3] = msg->remote_ip6[3];
}

/*
 * How much may be handed to a socket. What waits counts against its receive buffer, of which most is left to TCP: with less
 * it drops segments, and has the sender wait for timers.
 */
static __always_inline __u32 room_of(const struct tcp_sock *tp)
{
	__s32 waits = BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter);
	__s32 most = BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.sk_rcvbuf) >> 2;
	return waits < most ? most - waits : 0;
}

/* Has the receiver read all that the sender ever gave to TCP? Both count in the same numbers. */
static __always_inline int all_is_read(const struct tcp_sock *from, const struct tcp_sock *to)
{
	return BPF_CORE_READ(from, write_seq) == BPF_CORE_READ(to, copied_seq);
}

/* A socket that encrypts by itself (kTLS) must be asked to. */
static __always_inline int has_ulp(const struct tcp_sock *tp)
{
	return BPF_CORE_READ(tp, inet_conn.icsk_ulp_ops) != 0;
}

SEC("sk_msg")
int overtake(struct sk_msg_md *msg)
{
	struct lane_key to = { .side = SIDE_SERVER };
	to.ends.client.port = msg->local_port;
	to.ends.server.port = bpf_ntohl(msg->remote_port);
	if (msg->family == AF_INET)
		ends_of_msg4(msg, &to.ends);
	else
		ends_of_msg6(msg, &to.ends);
	struct lane *lane = bpf_map_lookup_elem(&lanes, &to.ends);
	if (!lane) { /* it is the server's */
		struct addr own = to.ends.client;
		to.ends.client = to.ends.server;
		to.ends.server = own;
		to.side = SIDE_CLIENT;
		lane = bpf_map_lookup_elem(&lanes, &to.ends);
	}
	if (!lane)
		return SK_PASS;
	struct tcp_sock *from_sk = (void *)(to.side == SIDE_SERVER ? lane->client_sk : lane->server_sk);
	struct tcp_sock *to_sk = (void *)(to.side == SIDE_SERVER ? lane->server_sk : lane->client_sk);
	if (!from_sk || !to_sk || has_ulp(from_sk) || has_ulp(to_sk))
		return SK_PASS;
	/* The other socket may be gone by now: then what is read here is anything, and there is nobody to redirect to. */
	__u32 size = msg->size;
	if (size > room_of(to_sk) || !all_is_read(from_sk, to_sk))
		return SK_PASS;
	if (bpf_msg_redirect_hash(msg, &fast, &to, BPF_F_INGRESS) != SK_PASS)
		return SK_PASS;
	__sync_fetch_and_add(to.side == SIDE_SERVER ? &lane->up : &lane->down, size);
	return SK_PASS;
}

/* unread: each socket with something that was handed to it and is not read, as one byte. */

struct list_head {
	struct list_head *next;
} __attribute__((preserve_access_index));

struct sk_psock {
	struct list_head ingress_msg;
} __attribute__((preserve_access_index));

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__sockmap {
	struct bpf_iter_meta *meta;
	struct sock *sk;
} __attribute__((preserve_access_index));

#define SK_USER_DATA_FLAGS 7UL /* include/net/sock.h */

SEC("iter/sockmap")
int unread(struct bpf_iter__sockmap *ctx)
{
	struct sock *sk = ctx->sk;
	if (!sk)
		return 0;
	struct sk_psock *psock = (void *)((unsigned long)BPF_CORE_READ(sk, sk_user_data) & ~SK_USER_DATA_FLAGS);
	if (!psock || BPF_CORE_READ(psock, ingress_msg.next) == (void *)__builtin_preserve_access_index(&psock->ingress_msg))
		return 0;
	char one = 1;
	bpf_seq_write(ctx->meta->seq, &one, sizeof(one));
	return 0;
}
