/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps, and the questions that several programs ask them. */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "capture.h"

#define MAX_PODS 1024

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

/* Entries outlive their connections: LRU takes the oldest. A later connection from the same end replaces its entry. */
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

/* This node's kubelet, keyed by the cookie of the node's network namespace. Nodes may share a kernel. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct kubelet);
} kubelets SEC(".maps");

/* Connections of the kubelet's, from before their SYN until their socket closes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct ends);
	__type(value, __u64);
} probes SEC(".maps");

/* What ztunnel permitted to go without it. Entry 0 of `generation` is the one that counts; permits of others are void. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct permit_key);
	__type(value, struct permit);
} permits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} generation SEC(".maps");

#define MAX_DIRECT 65536
#define DIRECT_RING (1 << 20)
#define MAX_LANES 16384

/* Connections that go without it, from before their SYN until their client's socket closes, and how many these are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DIRECT);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ends);
	__type(value, struct direct);
} directs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} direct_open SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, DIRECT_RING);
} direct_events SEC(".maps");

/* Accelerated connections, each with both of its sockets. What there is no room for is direct, as others are. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LANES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ends);
	__type(value, struct lane);
} lanes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2 * MAX_LANES);
	__type(key, struct lane_key);
	__type(value, __u64);
} fast SEC(".maps");

/* Marks ztunnel's own sockets; sockets accepted from a marked listener inherit the mark. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, __u32);
	__type(value, __u32);
} own_sockets SEC(".maps");

/* What a captured client socket dialled. Its destination is all zero on a socket that has since dialled something else. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct dial);
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
