/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What capture.c and its Go owner share. The structs are map keys and values: once pinned they are an ABI, so
 * a change of layout needs a new ABI number (abiVersion in capture.go). Go twins are generated from here.
 *
 * An address is 16 bytes in network order; IPv4 is v4-mapped (::ffff:a.b.c.d), so that IPv4, IPv6 and v4-mapped
 * sockets meet the same keys. Ports are in host order.
 */
#pragma once
#include <linux/types.h>

struct addr {
	__u32 ip[4]; /* network order */
	__u16 port;  /* host order */
	__u16 zero;
};
_Static_assert(sizeof(struct addr) == 20, "struct addr is part of the map ABI");

enum pod_state {
	POD_UNMANAGED = 0, /* as if there were no mesh */
	POD_PENDING = 1,   /* captured, not served yet: every connection is refused */
	POD_ENROLLED = 2,  /* captured and served */
	POD_LEAVING = 3,   /* no longer captured, but peers' tunnels are served until they know */
};

/* slot is what the kernel needs to know of one pod. The whole life of a pod is writes to its slot. */
struct slot {
	__u32 state;     /* enum pod_state */
	__u32 fail_open; /* 1: with no listener the pod's connections pass uncaptured */
	__u16 out_port4; /* outbound listener on 127.0.0.1, 0 if none */
	__u16 out_port6; /* outbound listener on ::, 0 if none */
	__u32 accelerate; /* 1: what it has with others like it may go past TCP */
	__u32 src4[4];   /* address to show as a connection's own, 0 if the pod has none of the family */
	__u32 src6[4];
};
_Static_assert(sizeof(struct slot) == 48, "struct slot is part of the map ABI");

/* own_addr is the key of an address that belongs to the pod in a slot. */
struct own_addr {
	__u32 slot;
	__u32 ip[4];
};
_Static_assert(sizeof(struct own_addr) == 20, "struct own_addr is part of the map ABI");

/* origin_key finds a captured connection by the client's end of it. */
struct origin_key {
	__u64 netns; /* cookie */
	struct addr local;
	__u32 zero;
};
_Static_assert(sizeof(struct origin_key) == 32, "struct origin_key is part of the map ABI");

/* neighbour is a pod of this node that may be connected to without ztunnel. */
struct neighbour {
	struct addr addr;
	__u32 slot;
	__u64 netns; /* cookie */
};
_Static_assert(sizeof(struct neighbour) == 32, "struct neighbour is part of the map ABI");

/* origin is where a captured connection wanted to go, and when it was captured. */
struct origin {
	struct addr dst;
	__u32 bound; /* on the socket: connect bound its source, which the app had not */
	__u64 at; /* CLOCK_MONOTONIC, nanoseconds */
};
_Static_assert(sizeof(struct origin) == 32, "struct origin is part of the map ABI");

/* dial is what a client's socket remembers of its connect. All but origin is zero if ztunnel carries the connection. */
struct dial {
	struct origin origin;
	__u64 generation; /* of the permit */
	struct neighbour to;
	__u32 slot; /* the client's */
	__u32 zero;
};
_Static_assert(sizeof(struct dial) == 80, "struct dial is part of the map ABI");

/* permit_key is what a pod dials. */
struct permit_key {
	__u32 slot;
	struct addr dst;
};
_Static_assert(sizeof(struct permit_key) == 24, "struct permit_key is part of the map ABI");

/* permit says where that may go without ztunnel, as long as its generation is the one that counts. */
struct permit {
	__u64 generation;
	struct neighbour to;
};
_Static_assert(sizeof(struct permit) == 40, "struct permit is part of the map ABI");

/* peer_key is both ends of the connection that ztunnel made to an app, as the app's socket has them. */
struct peer_key {
	__u64 netns; /* cookie */
	struct addr local;
	struct addr remote;
};
_Static_assert(sizeof(struct peer_key) == 48, "struct peer_key is part of the map ABI");

/*
 * kubelet is the process of the node whose connections are probes; the key is the cookie of the node's network namespace.
 * Pids and start times are as /proc shows them.
 */
struct kubelet {
	__u64 start; /* field 22 of /proc/<pid>/stat: clock ticks since boot */
	__u32 pidns; /* inode of its own pid namespace */
	__u32 pid;   /* its number in that namespace */
};
_Static_assert(sizeof(struct kubelet) == 16, "struct kubelet is part of the map ABI");

/* ends names a connection by its two ends. For one of the kubelet's the value is until when its SYN may come. */
struct ends {
	struct addr client;
	struct addr server;
};
_Static_assert(sizeof(struct ends) == 40, "struct ends is part of the map ABI");

/* direct is a connection between two pods of this node that goes without ztunnel. Times are CLOCK_MONOTONIC, nanoseconds. */
struct direct {
	__u64 client, server; /* cookies of their network namespaces */
	__u64 generation;     /* of the permit */
	__u64 until;          /* when its SYN may come at the latest */
	__u64 at;             /* when it was dialled */
	__u64 established;    /* 0 if not yet */
	struct addr dialled;
	__u32 slot, to_slot;
	__u32 zero;
};
_Static_assert(sizeof(struct direct) == 80, "struct direct is part of the map ABI");

enum direct_kind {
	DIRECT_OPENS = 1, /* the SYN leaves */
	DIRECT_ENDED = 2, /* the client's socket has closed */
};

enum direct_flag {
	DIRECT_GOT_FIN = 1, /* the server's FIN came */
	DIRECT_FAST = 2,    /* part of it went past TCP, accelerated */
};

/* direct_event is what the agent is told of such a connection. */
struct direct_event {
	struct ends ends;
	struct direct direct;
	__u64 at;
	__u32 kind;        /* enum direct_kind */
	__u32 old_state;   /* of an ended one, here and below: TCP state before it closed */
	__u64 acked;       /* bytes that the server took, SYN and FIN counted */
	__u64 received;    /* bytes that came from it, its FIN counted */
	__u32 error;       /* errno of the socket */
	__u32 flags;       /* enum direct_flag */
	__u32 srtt_us;
	__u32 retransmits; /* of the client */
};
_Static_assert(sizeof(struct direct_event) == 168, "struct direct_event is part of the map ABI");

/*
 * lane is an accelerated connection: where the kernel has its two sockets, for reading what may be gone, and how many bytes
 * went past TCP, from the client (up) and to it.
 */
struct lane {
	__u64 client_sk, server_sk;
	__u64 up, down;
};
_Static_assert(sizeof(struct lane) == 32, "struct lane is part of the map ABI");

enum lane_side {
	SIDE_CLIENT = 0,
	SIDE_SERVER = 1,
};

/* lane_key finds the socket of one end. */
struct lane_key {
	struct ends ends;
	__u32 side; /* enum lane_side */
};
_Static_assert(sizeof(struct lane_key) == 44, "struct lane_key is part of the map ABI");

/* Roles of ztunnel's listeners; listeners[] is indexed by slot * ROLE_STRIDE + role * 2 + (IPv6 ? 1 : 0). */
enum listener_role {
	ROLE_OUTBOUND = 0,
	ROLE_PLAINTEXT = 1,
	ROLE_TUNNEL = 2,
	ROLE_STRIDE = 8,
};

/* Why a program decided as it did; each has a per-CPU counter. */
enum capture_reason {
	OUT_CAPTURED = 0,
	OUT_OWN = 1,         /* ztunnel's own socket */
	OUT_LOCAL = 2,       /* loopback or an address of the pod itself */
	OUT_LINK_LOCAL = 3,  /* not routable, so not tunnelled */
	OUT_UDP = 4,
	OUT_OTHER = 5,       /* neither TCP nor UDP */
	OUT_PENDING = 6,     /* refused: not served yet */
	OUT_NO_SOURCE = 7,   /* refused: the pod has no address or listener of the family */
	OUT_ERROR = 8,       /* refused: no memory for the socket's record */
	OUT_FAIL_OPEN = 9,   /* passed: agent absent, and the namespace says open */
	IN_PLAINTEXT = 10,
	IN_TUNNEL = 11,
	IN_LOCAL = 12,       /* the pod to itself */
	IN_PENDING = 13,     /* refused: not served yet */
	IN_NO_LISTENER = 14, /* refused: agent absent */
	IN_ERROR = 15,       /* refused: the socket could not be assigned */
	IN_FAIL_OPEN = 16,
	UDP_SENT = 17,       /* datagrams on sockets that never connected */
	IN_PROBE = 18,       /* passed to the app: the kubelet's */
	PROBE_NOT_NOTED = 19, /* a connection of the kubelet's is as anybody's: too many at once */
	OUT_DIRECT = 20,      /* permitted before, and to a pod of this node */
	IN_DIRECT = 21,
	DIRECT_NOT_NOTED = 22, /* too many at once: served as plaintext, if that is allowed */
	DIRECT_END_LOST = 23,  /* the agent was not told of an end: too many at once */
	REASONS = 24,
};
