/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool: memory that a program writes and consumers map.
 *
 * As in ipc_bypass_common.h: constants stand in named enumerations, each with its value, and
 * Python reads them from this text.
 */
#ifndef IPC_BYPASS_POOL_LAYOUT_H
#define IPC_BYPASS_POOL_LAYOUT_H

enum pool_layout {
	POOL_MAGIC = 0x4c4f4f50, /* "POOL" in memory */
	POOL_VERSION = 1,
	SMALL_SLOT = 0, /* the classes of slots */
	LARGE_SLOT = 1,
	SLOT_CLASSES = 2,
	SMALL_SLOT_DATA = 4096, /* bytes; powers of two, so that a mask bounds a length */
	LARGE_SLOT_DATA = 65536,
	LARGEST_PAYLOAD = 65527, /* of UDP over IPv6; over IPv4 it is 65507 */
};

/* What a descriptor tells beside its fields. */
enum descriptor_flag {
	DESCRIPTOR_TRUNCATED = 1, /* the slot holds the first bytes only: never to be sent on */
	DESCRIPTOR_TCP = 2,	  /* a message of a redirected connection, not a datagram */
};

/*
 * What is where, for consumers. Nothing here is read by a program: a consumer may have scribbled
 * over it. The counters are refreshed by the node with each tick of its watchdog.
 */
struct pool_header {
	__u32 magic;
	__u32 version; /* written last: before, nothing else here is valid */
	__u32 header_bytes;
	__u32 slot_header_bytes;
	__u32 slot_data_bytes[SLOT_CLASSES];
	__u32 slots[SLOT_CLASSES];
	__u32 rings;
	__u32 ring_entries; /* a power of two */
	__u32 descriptor_bytes;
	__u32 tick_ms; /* of the watchdog */
	__u64 slots_used[SLOT_CLASSES];
	__u64 captured;
	__u64 captured_bytes;
	__u64 passed;
	__u64 freed_by_watchdog;
	__u64 sent_on;
	__u64 stranded;
};

/* At the head of each slot. */
struct slot_header {
	__u64 sequence;	  /* of the datagram, unique in its class; 0 while it is being written */
	__u64 capture_ns; /* CLOCK_MONOTONIC */
	__u32 sender_pid;
	__u32 receiver_pid; /* 0: none, several, or not known */
	__u32 length;
	__u32 flags; /* enum descriptor_flag */
	__u32 ring;  /* whose it is */
	__u32 unused_word;
	__u64 unused[3];
};

struct small_slot {
	struct slot_header header;
	__u8 data[SMALL_SLOT_DATA];
};

struct large_slot {
	struct slot_header header;
	__u8 data[LARGE_SLOT_DATA];
};

/* One datagram, in a consumer's ring. Addresses in network byte order, IPv4 as ::ffff:a.b.c.d. */
struct descriptor {
	__u64 number; /* its place in the ring, counted from 1; written last */
	__u64 sequence;
	__u64 capture_ns;
	__u64 cookie; /* of the sending socket */
	__u32 slot;   /* large slots are counted on after the small ones */
	__u32 length;
	__u32 source_address[4];
	__u32 destination_address[4];
	__u16 source_port;
	__u16 destination_port;
	__u8 family; /* 4 or 6 */
	__u8 action; /* enum rule_action */
	__u16 flags; /* enum descriptor_flag */
	__u32 sender_pid;
	__u32 receiver_pid;
	__u32 rule_id;
	__u32 original_length; /* of the whole, where only the first bytes were captured */
};

/* The state of one ring; each part has its own cache line and its own writer. */
struct ring {
	/* the program */
	__u64 head; /* descriptors reserved */
	__u64 program_unused[7];
	/* the owner */
	__u64 cursor; /* descriptors taken */
	__u64 heartbeat_ns;
	__u64 owner_wake; /* it sleeps until so many are ready; 0: awake */
	__u64 released[SLOT_CLASSES];
	__u64 owner_unused[3];
	/* observers */
	__u64 observer_wake; /* 1: one of them sleeps */
	__u64 observer_unused[7];
	/* the node */
	__u64 generation; /* of the lease; odd while one is held */
	__u64 revoked_at; /* the cursor that counted when the last one ended, plus 1; 0: not yet */
	__u32 owner_pid;
	__u32 node_pid;
	__u64 node_unused[5];
};

/* Which slots are whose; not shared with consumers. */
struct allocator {
	__u64 next[SLOT_CLASSES];     /* tickets: where to look, and the sequence numbers */
	__u64 claimed[SLOT_CLASSES];  /* slots taken, ever */
	__u64 released[SLOT_CLASSES]; /* as the program last summed it up */
	__s64 freed[SLOT_CLASSES];    /* given back by the node's watchdog */
};

#endif
