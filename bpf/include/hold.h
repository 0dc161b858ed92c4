/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * While one agent goes and the next comes nobody listens where captured connections are turned to. What dials then is held,
 * not refused: its SYN is dropped, and the kernel sends it again until the next agent listens. An agent that is told to stop
 * attaches this, for a time.
 */
#pragma once
#include <linux/if_ether.h>
#include "maps.h"
#include "outbound.h"

/* Until when SYNs are held, CLOCK_MONOTONIC, nanoseconds. From then on nobody is coming, and apps are to know. */
const volatile __u64 hold_until = 0;

/* Whether an agent listens where this connection was turned to. */
static __always_inline int is_listened(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct bpf_sock_tuple tuple = {};
	__u32 len = sizeof(tuple.ipv4);
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		tuple.ipv4.saddr = sk->src_ip4;
		tuple.ipv4.daddr = sk->dst_ip4;
		tuple.ipv4.dport = sk->dst_port;
	} else {
		local_ip_of(sk, tuple.ipv6.saddr, 1);
		tuple.ipv6.daddr[0] = sk->dst_ip6[0];
		tuple.ipv6.daddr[1] = sk->dst_ip6[1];
		tuple.ipv6.daddr[2] = sk->dst_ip6[2];
		tuple.ipv6.daddr[3] = sk->dst_ip6[3];
		tuple.ipv6.dport = sk->dst_port;
		len = sizeof(tuple.ipv6);
	}
	struct bpf_sock *listener = bpf_sk_lookup_tcp(skb, &tuple, len, BPF_F_CURRENT_NETNS, 0);
	if (!listener)
		return 0;
	int ours = bpf_sk_storage_get(&own_sockets, listener, 0, 0) != 0;
	bpf_sk_release(listener);
	return ours;
}

SEC("cgroup_skb/egress")
int hold(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->state != BPF_TCP_SYN_SENT)
		return PASS;
	struct dial *dial = dialled_by(sk);
	if (!dial || dial->generation)
		return PASS;
	if (bpf_ktime_get_ns() > hold_until)
		return PASS;
	return is_listened(skb, sk) ? PASS : REFUSE;
}
