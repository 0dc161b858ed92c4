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
#include "ends.h"
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
	struct ends key = {};
	ends_of(ctx, &key);
	__u64 until = bpf_ktime_get_ns() + SYN_WAIT_NS;
	if (bpf_map_update_elem(&probes, &key, &until, BPF_ANY))
		count(PROBE_NOT_NOTED, 0);
}

/* A connection of the kubelet's changes its state. When its socket closes, which is before its port is free, it is forgotten. */
static __always_inline void follow_probe(struct bpf_sock_ops *ctx, const struct ends *key)
{
	if (ctx->args[1] == BPF_TCP_CLOSE) {
		bpf_map_delete_elem(&probes, key);
		return;
	}
	__u64 *until = bpf_map_lookup_elem(&probes, key);
	if (until)
		*until = bpf_ktime_get_ns() + ACK_WAIT_NS;
}

/* Did the kubelet of this node make the connection that comes in? Asked for each SYN, and for an ACK with a SYN cookie. */
static __always_inline int is_probe(const struct addr *server, const struct addr *client)
{
	struct ends key = { .client = *client, .server = *server };
	__u64 *until = bpf_map_lookup_elem(&probes, &key);
	return until && bpf_ktime_get_ns() < *until;
}
