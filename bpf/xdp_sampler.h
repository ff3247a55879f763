/* SPDX-License-Identifier: Apache-2.0 */
/* What the sampler and user space share; mirrored in ipc_bypass/xdp/sampler_layout.py. */
#ifndef IPC_BYPASS_XDP_SAMPLER_H
#define IPC_BYPASS_XDP_SAMPLER_H

/* Most bytes of a packet in a sample. */
#define SAMPLER_SNAP 256
/* Rules, and the place 0 of packets that no rule matches. */
#define SAMPLER_PLACES 16

/* Who reads samples: each has a ring buffer of its own, so that none steals from another. */
enum sampler_reader {
	SAMPLER_READER_NODE = 0,    /* the node's summaries: the map sampler_samples */
	SAMPLER_READER_CAPTURE = 1, /* a capture into a file: the map sampler_captures */
	SAMPLER_READERS = 2,
};

/* Entries of the map sampler_words, 64 bits each. */
enum sampler_word {
	/* Number of the settings that hold; they stand at this number modulo 2. */
	SAMPLER_WORD_GENERATION = 0,
	/* CLOCK_MONOTONIC of the readers' last look, one word each; 0: nobody reads. */
	SAMPLER_WORD_HEARTBEAT = 1,
	SAMPLER_WORDS = 3,
};

/* struct sampler_settings.flags */
enum sampler_flag {
	/* Gaps between samples are random, 1 to 2N - 1; else every Nth packet is taken. */
	SAMPLER_RANDOM = 1,
	/* A rule asks for an address. */
	SAMPLER_ADDRESSES = 2,
};

/* One kind of packets, and of how many of them one is taken. */
struct sampler_rule {
	__u32 source[4]; /* network order, IPv4 as ::ffff:a.b.c.d; masked */
	__u32 source_mask[4];
	__u32 destination[4];
	__u32 destination_mask[4];
	__u32 every;	  /* 1 in so many; 0: none */
	__u16 port_first; /* of either end; 0 and 65535 for any packet, also one without ports */
	__u16 port_span;  /* last less first */
	__u8 protocol;	  /* IPPROTO_*, masked; the mask is 0 for any */
	__u8 protocol_mask;
	__u8 family; /* 4 or 6, masked; the mask is 0 for any packet */
	__u8 family_mask;
};

struct sampler_settings {
	__u32 every;	    /* of packets that no rule matches: 1 in so many; 0: none */
	__u32 snap;	    /* most bytes of a packet to copy */
	__u32 rules;	    /* how many there are: at most SAMPLER_PLACES - 1 */
	__u32 flags;	    /* enum sampler_flag */
	__u64 heartbeat_ns; /* how long a reader's heartbeat is fresh */
	struct sampler_rule rule[SAMPLER_PLACES];
};

/*
 * Counters of one processor, and how many packets there are to the next sample. For each reader,
 * written, full and unread add up to all that were selected.
 */
struct sampler_state {
	__u64 seen;
	__u64 selected[SAMPLER_PLACES]; /* by place: 0, then the rules */
	__u64 written[SAMPLER_READERS];
	__u64 full[SAMPLER_READERS];   /* lost: the reader is behind */
	__u64 unread[SAMPLER_READERS]; /* not written: nobody reads */
	__u64 not_copied;	       /* written without bytes: the kernel could not copy them */
	__u32 left[SAMPLER_PLACES];
	__u64 generation; /* of the settings that `left` is of */
};

/* A sample; in a ring buffer it ends behind its captured bytes. */
struct sampler_sample {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 interface;
	__u32 queue;
	__u32 captured;
	__u32 every; /* it stands for so many packets */
	__u32 place; /* 0, or the number of the rule */
	__u32 unused;
	struct xdp_facts facts; /* with the whole length */
	__u8 data[SAMPLER_SNAP];
};

/* Key and value of the map sampler_leases: who holds a reader's right. The last epoch counts. */
struct sampler_lease_key {
	__u32 reader; /* enum sampler_reader */
	__u32 epoch;
};

struct sampler_lease {
	__u64 taken_ns;	     /* CLOCK_MONOTONIC */
	__u32 pid;	     /* as the holder sees itself; 0: it was given up */
	__u32 pid_namespace; /* inode of the namespace in which that is its number */
	char name[16];	     /* of the holder, for people */
};

#endif
