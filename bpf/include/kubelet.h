/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kubelet's probes: a connection that the kubelet itself makes from the node's network namespace is noted by both its
 * ends before its SYN leaves, and let through to the app by `steer`. Nothing in the packets says that they are probes.
 */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "addr.h"
#include "maps.h"

/* What of the kernel's own types is read. The loader finds each field's place by BTF. */
struct ns_common {
	unsigned int inum;
} __attribute__((preserve_access_index));

struct pid_namespace {
	struct ns_common ns;
} __attribute__((preserve_access_index));

struct upid {
	int nr;
	struct pid_namespace *ns;
} __attribute__((preserve_access_index));

struct pid {
	unsigned int level;
	struct upid numbers[1];
} __attribute__((preserve_access_index));

struct task_struct {
	struct task_struct *group_leader;
	__u64 start_boottime; /* nanoseconds */
	struct pid *thread_pid;
} __attribute__((preserve_access_index));

#define NS_PER_TICK 10000000 /* of the clock that /proc shows: USER_HZ is 100 */

/*
 * How long a note counts: as long as the SYN may be sent again, and after the handshake for as long as its last ACK may
 * be late, which under SYN cookies is what makes the app's socket. Not as long as the connection: whoever forged the
 * node's address could have it reset and take its place.
 */
#define SYN_WAIT_NS (150 * 1000000000ULL)
#define ACK_WAIT_NS 1000000000ULL

/* 0 where the kernel lets programs read no process: then nobody is taken for the kubelet. */
const volatile __u32 reads_tasks = 1;

/*
 * Is the current process `kubelet`? It is known by its number in its own pid namespace, which the agent can learn from
 * outside of it, and by when it started, so that no later process of that number is taken for it.
 */
static __always_inline int is_current(const struct kubelet *kubelet)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct pid_namespace *ns = 0;
	int nr = 0;

	if (BPF_CORE_READ(leader, start_boottime) / NS_PER_TICK != kubelet->start)
		return 0;
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	unsigned int level = BPF_CORE_READ(pid, level);
	void *innermost = (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
	bpf_probe_read_kernel(&nr, sizeof(nr), innermost + bpf_core_field_offset(struct upid, nr));
	bpf_probe_read_kernel(&ns, sizeof(ns), innermost + bpf_core_field_offset(struct upid, ns));
	return (__u32)nr == kubelet->pid && BPF_CORE_READ(ns, ns.inum) == kubelet->pidns;
}

/* Not inlined: clang would merge the families' loads into one by a computed pointer, which no context allows. */
static __noinline void ends4(struct bpf_sock_ops *ctx, struct probe_key *ends)
{
	set_v4(ends->client.ip, ctx->local_ip4);
	set_v4(ends->server.ip, ctx->remote_ip4);
}

static __noinline void ends6(struct bpf_sock_ops *ctx, struct probe_key *ends)
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
static __always_inline void ends_of(struct bpf_sock_ops *ctx, struct probe_key *ends)
{
	ends->client.port = ctx->local_port;
	ends->server.port = bpf_ntohl(ctx->remote_port);
	if (ctx->family == AF_INET)
		ends4(ctx, ends);
	else
		ends6(ctx, ends);
}

/* Notes the connection that is about to be made, if the kubelet makes it. Runs in the process that connects. */
static __always_inline void note_probe(struct bpf_sock_ops *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct kubelet *kubelet = bpf_map_lookup_elem(&kubelets, &netns);
	if (!kubelet || !reads_tasks || !is_current(kubelet))
		return;
	/* Without word of its end the note would outlive the socket, and another process could take up its port. */
	if (bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG) < 0)
		return;
	struct probe_key key = {};
	ends_of(ctx, &key);
	__u64 until = bpf_ktime_get_ns() + SYN_WAIT_NS;
	if (bpf_map_update_elem(&probes, &key, &until, BPF_ANY))
		count(PROBE_NOT_NOTED, 0);
}

/* A connection of the kubelet's changes its state. When its socket closes, which is before its port is free, it is forgotten. */
static __always_inline void follow_probe(struct bpf_sock_ops *ctx)
{
	struct probe_key key = {};
	__u32 state = ctx->args[1];

	if (state != BPF_TCP_ESTABLISHED && state != BPF_TCP_CLOSE)
		return;
	ends_of(ctx, &key);
	if (state == BPF_TCP_CLOSE) {
		bpf_map_delete_elem(&probes, &key);
		return;
	}
	__u64 *until = bpf_map_lookup_elem(&probes, &key);
	if (until)
		*until = bpf_ktime_get_ns() + ACK_WAIT_NS;
}

/* Did the kubelet of this node make the connection that comes in? Asked for each SYN, and for an ACK with a SYN cookie. */
static __always_inline int is_probe(const struct addr *server, const struct addr *client)
{
	struct probe_key key = { .client = *client, .server = *server };
	__u64 *until = bpf_map_lookup_elem(&probes, &key);
	return until && bpf_ktime_get_ns() < *until;
}
