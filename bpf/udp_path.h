/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the UDP path and user space share, beside the pool.
 *
 * As in ipc_bypass_common.h: constants stand in named enumerations, each with its value, and
 * Python reads them from this text.
 */
#ifndef IPC_BYPASS_UDP_PATH_H
#define IPC_BYPASS_UDP_PATH_H

/* What a destination port obeys: one word, so that user space changes it with one store. */
struct udp_rule {
	__u8 action; /* enum rule_action */
	__u8 ring;   /* counted from 1; 0: no consumer */
	__u16 unused;
	__u32 rule_id;
};

/*
 * Why a datagram to an enrolled port was not captured, and went the usual way. Captured ones and
 * the sum of these are all the datagrams that the program saw.
 */
enum udp_pass_reason {
	UDP_PASS_NONE = 0,
	UDP_PASS_INACTIVE = 1,	      /* the node is not active */
	UDP_PASS_NO_CONSUMER = 2,     /* nobody holds the lease of its rule */
	UDP_PASS_STALE_HEARTBEAT = 3, /* the consumer has not read for too long */
	UDP_PASS_POOL_FULL = 4,	      /* more than 90 % of the slots are in use */
	UDP_PASS_NO_SLOT = 5,	      /* below that, no free slot was met */
	UDP_PASS_RING_FULL = 6,	      /* the consumer has not taken what its ring holds */
	UDP_PASS_SEGMENTED = 7,	      /* UDP_SEGMENT: many datagrams in one */
	UDP_PASS_TOO_LARGE = 8,	      /* larger than a slot */
	UDP_PASS_FRAGMENT = 9,	      /* a part of a datagram (made by a raw socket) */
	UDP_PASS_HEADERS = 10,	      /* lengths or extension headers that are not understood */
	UDP_PASS_COPY = 11,	      /* the kernel could not copy the payload */
	UDP_PASS_MULTICAST = 12,      /* divert: multicast or broadcast */
	UDP_PASS_NOT_LOCAL = 13,      /* divert: not on this host, and no claimed prefix */
	UDP_PASS_ERROR_QUEUE = 14,    /* divert: IP_RECVERR would turn success into ENOBUFS */
	UDP_PASS_NODE = 15,	      /* sent by the node or the bridge itself */
	UDP_PASS_REASONS = 16,
};

/* Events that are not datagrams, in struct udp_totals. */
enum udp_event {
	UDP_EVENT_WAKES = 0,	      /* wake-ups of consumers that slept */
	UDP_EVENT_WAKES_FAILED = 1,   /* ... that the wake-up ring had no room for */
	UDP_EVENT_ENDPOINTS_FULL = 2, /* datagrams whose port and pid have no statistics */
	UDP_EVENT_SLOT_CONTENDED = 3, /* slots that another processor took first */
	UDP_EVENTS = 4,
};

/* Sums, one for each processor; index 0 is mirror, 1 is divert. */
struct udp_totals {
	__u64 captured[2];
	__u64 captured_bytes[2];
	__u64 passed_bytes;
	__u64 passed_by_reason[UDP_PASS_REASONS];
	__u64 events[UDP_EVENTS];
};

/* Statistics by port and sender. */
struct udp_endpoint {
	__u32 port;
	__u32 pid;
};

struct udp_endpoint_totals {
	__u64 captured;
	__u64 captured_bytes;
	__u64 passed;
	__u64 passed_bytes;
	char command[16];
};

/* What a socket carries: the storage of sockets that send datagrams. */
struct udp_socket {
	__u32 pid;    /* noted by connect, sendmsg and bind where the program cannot ask itself */
	__u32 exempt; /* a socket of the node's */
	char command[16];
};

/* What the longest-prefix map of destinations says of one. */
enum destination_kind {
	DESTINATION_LOCAL = 1,
	DESTINATION_CLAIMED = 2, /* plus the ring of who claimed it */
};

/* Where a diverted datagram may go; key of a longest-prefix map. */
struct destination_key {
	__u32 prefix_bits;
	__u32 address[4];
};

/* Settings that user space may change while the programs run. */
struct udp_settings {
	__u32 layout_version;
	__u32 active;
	__u32 exempt_sockets; /* 1: there are some; before, nothing is looked up */
	__u32 unused;
	__u64 heartbeat_ns; /* how old a heartbeat may be */
	__u64 use_limit[SLOT_CLASSES];
};

#endif
