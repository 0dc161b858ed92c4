/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses in the one form that is ever compared: 16 bytes in network order, IPv4 mapped. */
#pragma once
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>

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
