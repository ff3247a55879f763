/* SPDX-License-Identifier: Apache-2.0 */
/* What the rate limiter and user space share; mirrored in ipc_bypass/xdp/limiter_layout.py. */
#ifndef IPC_BYPASS_XDP_LIMITER_H
#define IPC_BYPASS_XDP_LIMITER_H

/* Limits at a time, each with a place of its own in the map limiter_counts. */
#define LIMITER_LIMITS 1024
/* Ranges of ports of one limit. */
#define LIMITER_RANGES 8

/* Times are kept in 1/256 ns, modulo 2^64: 2.2 years. What a packet costs is given finer. */
#define LIMITER_TIME_SHIFT 8
#define LIMITER_COST_SHIFT 22

/*
 * What a limit holds for. The first kind that has a limit for a packet's source decides, and of
 * this kind the longest prefix.
 */
enum limiter_kind {
	LIMITER_DISCOVERY = 0, /* multicast to 7400 + 250 * domain by UDP (RTPS 2.5, 9.6.1.4) */
	LIMITER_PORTS = 1,     /* UDP and TCP to the limit's ranges */
	LIMITER_ALL = 2,       /* every packet of IPv4 or IPv6 */
	LIMITER_KINDS = 3,
};

/* Entries of the map limiter_words, 64 bits each. */
enum limiter_word {
	LIMITER_WORD_KINDS = 0,	  /* bit k: there are limits of kind k */
	LIMITER_WORD_DRY_RUN = 1, /* not 0: nothing is dropped, whatever the limits say */
	LIMITER_WORD_CLOCK = 2,	  /* nanoseconds, the clock of a build with LIMITER_CLOCK_MAP */
	LIMITER_WORDS = 3,
};

/* struct limiter_limit.flags */
enum limiter_flag {
	LIMITER_DRY_RUN = 1, /* count what would be dropped */
	LIMITER_PACKETS = 2, /* there is a limit of packets */
	LIMITER_BYTES = 4,   /* there is a limit of bytes */
};

/* Key of the trie; its first 32 bits always count: prefix_bits is 32 and the prefix's length. */
struct limiter_prefix {
	__u32 prefix_bits;
	__u8 kind;   /* enum limiter_kind */
	__u8 family; /* 4 or 6 */
	__u16 unused;
	__u32 address[4]; /* network order; IPv4 in the first word */
};

struct limiter_range {
	__u16 first;
	__u16 last; /* inclusive; 0: no further range */
};

/*
 * A limit, by the generic cell rate algorithm (ITU-T I.371, annex A, the virtual scheduling
 * form): a bucket is the time at which it will be full again, one for packets and one for bytes.
 */
struct limiter_limit {
	__u64 packet_cost;     /* of one packet, in 2^-22 ns */
	__u64 packet_capacity; /* of the bucket, in 1/256 ns */
	__u64 byte_cost;       /* of one byte of a frame, in 2^-22 ns */
	__u64 byte_capacity;
	__u32 identity; /* of this limit, never used again for another */
	__u32 place;	/* in limiter_counts */
	__u32 flags;	/* enum limiter_flag */
	__u32 unused;
	__u32 mask[4]; /* bits of a source's address that choose its bucket, network order */
	struct limiter_range range[LIMITER_RANGES];
};

struct limiter_bucket_key {
	__u32 identity;
	__u32 address[4];
};

/* When the bucket is full again, in 1/256 ns of CLOCK_MONOTONIC. */
struct limiter_bucket {
	__u64 packets;
	__u64 bytes;
};

/* Packets of one limit, per processor; all of these but the bytes add up to what it saw. */
struct limiter_counts {
	__u64 passed;
	__u64 passed_bytes;
	__u64 dropped_by_packets; /* more packets than the limit allows */
	__u64 dropped_by_bytes;	  /* so many packets are allowed, but not so many bytes */
	__u64 dropped_bytes;
	__u64 would_drop_by_packets; /* dry run: they passed */
	__u64 would_drop_by_bytes;
	__u64 would_drop_bytes;
	__u64 contended;  /* passed: other processors changed the bucket again and again */
	__u64 table_full; /* passed: no room for a bucket */
};

/* Packets per processor: these and those of struct limiter_counts are all that were seen. */
struct limiter_totals {
	__u64 off;	 /* passed: there are no limits */
	__u64 not_ip;	 /* passed: neither IPv4 nor IPv6, or a broken header */
	__u64 unlimited; /* passed: no limit holds for it */
	__u64 buckets_made;
	struct limiter_counts limited; /* over all limits, those that were removed included */
};

#endif
