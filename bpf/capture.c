//go:build ignore
// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Capture: the kernel's half of a connection's journey, in the order a connection travels.
 *
 *   outbound.h  connect4/6       app dials: note the destination on the socket, show the pod's source, turn to ztunnel
 *               established      (sockops, before the SYN) publish the destination under the now known local port
 *   inbound.h   steer            (sk_lookup) hand every new connection to the listener of its role
 *   direct.h                     (in all of these) what was permitted goes from pod to pod of this node, past ztunnel
 *   kubelet.h                    (in established and steer) let the kubelet's probes through to the app
 *   names.h     getpeername4/6   tell each app its true peer, accept() included
 *               getsockname4/6   tell a client its own address, never loopback
 *   hold.h      hold             (egress, between two agents only) let a new connection wait for the next agent
 *   accelerate.h accelerate, overtake  (sockops, sk_msg; while pods want it) past TCP between direct connections' two sockets
 *   here        sendmsg4/6       count datagrams, which are not captured
 *
 * capture.h is what the Go side shares, maps.h the maps, addr.h the one form of an address, ends.h of a connection.
 *
 * Each program normalises its context to struct addr, decides in shared code, and writes back: the verifier lets
 * an IPv4 program see no IPv6 field and the other way round.
 *
 * A program acts only for sockets whose network namespace has a slot, and never for ztunnel's own sockets, which
 * carry a mark in socket storage that only the agent can set.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10
#define PASS 1
#define REFUSE 0

#include "include/capture.h"
#include "include/addr.h"
#include "include/maps.h"
#include "include/outbound.h"
#include "include/inbound.h"
#include "include/names.h"
#include "include/hold.h"
#include "include/accelerate.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Keep the enums in BTF, where the Go twins are generated from. */
enum pod_state *pod_state_btf __attribute__((unused));
enum listener_role *listener_role_btf __attribute__((unused));
enum capture_reason *capture_reason_btf __attribute__((unused));
enum direct_kind *direct_kind_btf __attribute__((unused));
enum direct_flag *direct_flag_btf __attribute__((unused));
enum lane_side *lane_side_btf __attribute__((unused));
struct direct_event *direct_event_btf __attribute__((unused));

/* sendmsg: only counted. */

static __always_inline int count_datagram(void *ctx)
{
	__u64 netns;
	__u32 index;
	if (slot_of(ctx, &netns, &index))
		count(UDP_SENT, PASS);
	return PASS;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return count_datagram(ctx);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return count_datagram(ctx);
}
