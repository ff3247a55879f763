/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the filter of the root array and user space share.
 *
 * As in ipc_bypass_common.h: constants stand in named enumerations, each with its value, and
 * Python takes the structs from what the compiler says of them.
 */
#ifndef IPC_BYPASS_XDP_FILTER_H
#define IPC_BYPASS_XDP_FILTER_H

/* Raised whenever a struct below changes its meaning or its layout. */
#define FILTER_LAYOUT_VERSION 1

/*
 * Sizes. Everything but counters is there twice: for the rules in force and for those that are
 * being written (struct filter_settings, FILTER_GENERATION).
 */
enum filter_size {
	FILTER_RULES = 4096,	     /* rules, and so counters */
	FILTER_CLASSES = 16384,	     /* of a generation */
	FILTER_GROUPS = 4096,	     /* of a generation */
	FILTER_COMBINED_RULES = 512, /* of a generation */
	FILTER_GROUP_WORDS = 8,	     /* of 64 combined rules each */
	FILTER_PORTS = 65536,	     /* of a generation */
	FILTER_PROTOCOLS = 256,	     /* of a generation; they stand behind all ports */
	FILTER_PORT_ROWS = 131584,   /* two generations of ports, then two of protocols */
	FILTER_BUCKETS = 4096,	     /* of IPv4 hosts, of a generation */
	FILTER_BUCKET_HOSTS = 8,     /* in a bucket */
	FILTER_ADDRESSES = 8192,     /* IPv6 hosts; prefixes of a family; both generations */
};

/* struct filter_settings.flags: what is in use, what is asked for. */
enum filter_flag {
	FILTER_SOURCE_HOSTS4 = 0x1,
	FILTER_DESTINATION_HOSTS4 = 0x2,
	FILTER_SOURCE_PREFIXES4 = 0x4,
	FILTER_DESTINATION_PREFIXES4 = 0x8,
	FILTER_SOURCE_HOSTS6 = 0x10,
	FILTER_DESTINATION_HOSTS6 = 0x20,
	FILTER_SOURCE_PREFIXES6 = 0x40,
	FILTER_DESTINATION_PREFIXES6 = 0x80,
	FILTER_SOURCE_PORTS = 0x100,
	FILTER_DESTINATION_PORTS = 0x200,
	FILTER_BY_PROTOCOL = 0x400,
	FILTER_PAYLOAD = 0x800,	  /* a rule looks at the payload */
	FILTER_COMBINED = 0x1000, /* a rule has conditions on several fields */
	FILTER_DROP_FRAGMENTS = 0x2000,
	FILTER_DEFAULT_DENY = 0x4000,
	FILTER_DROP_MALFORMED = 0x8000,
	FILTER_DROP_OTHER = 0x10000, /* frames that are not IP */
	FILTER_ANSWER_TOO_BIG = 0x20000,
	FILTER_GENERATION = 0x80000000, /* which of the two is in force */
};

/* One entry; flags and ptb_mtu change together, in one store of 8 bytes. */
struct filter_settings {
	__u32 flags;		/* enum filter_flag */
	__u32 ptb_mtu;		/* bytes of an IP packet; longer ones are answered */
	__u64 ptb_interval_ns;	/* between answers in the long run; 0: none */
	__u64 ptb_tolerance_ns; /* how far answers may be ahead of that: a burst */
	__u32 multipliers[2];	/* of the buckets of IPv4 hosts, by generation */
};

/* Classes that a port number stands for, as struct filter_port has them. */
enum filter_port_place {
	PLACE_UDP_DESTINATION = 0,
	PLACE_UDP_SOURCE = 1,
	PLACE_TCP_DESTINATION = 2,
	PLACE_TCP_SOURCE = 3,
	PLACE_PROTOCOL = 0, /* in the rows of protocols */
};

/* A class is the set of rules that a value of a field obeys; 0: none. */
struct filter_port {
	__u16 classes[4];
};

struct filter_address {
	__u16 source;
	__u16 destination;
};

/*
 * IPv4 hosts: number (address * multiplier) >> 20 of these has the address, or none has it. The
 * addresses are as in the packet; a place without classes is free, and so are all behind it. One
 * line of the processor's cache, and no function to call.
 */
struct filter_bucket {
	__u32 addresses[8];
	__u32 classes[8]; /* struct filter_address, as one number: the source's is the low half */
};

/* Keys. Addresses as in the packet; the generation, 0 or 1, comes before them. */
struct filter_host6 {
	__u32 generation;
	__u32 address[4];
};

struct filter_prefix4 {
	__u32 bits; /* those of the generation included: 32 and the prefix's */
	__u32 generation;
	__u32 address;
};

struct filter_prefix6 {
	__u32 bits;
	__u32 generation;
	__u32 address[4];
};

/*
 * A choice: a rule with its rank, as one number. The smallest of those that a packet meets is that
 * of the rule that decides.
 */
enum filter_choice {
	CHOICE_NONE = 0xffffffff,
	CHOICE_RANK_SHIFT = 16, /* 16 bits: 0 is the most specific rule */
	CHOICE_INDEX_SHIFT = 4, /* 12 bits: of the rule's counters */
	CHOICE_INDEX_MASK = 0xfff,
	CHOICE_DENY = 1,
	CHOICE_NOT_RTPS = 2, /* the rule asks that the payload is not RTPS */
};

/* What a payload is, to rules that look at it. */
enum filter_payload {
	PAYLOAD_OTHER = 0,
	PAYLOAD_RTPS = 1,
};

struct filter_class {
	__u32 choices[2]; /* by enum filter_payload: of the rules with this condition alone */
	__u32 group;	  /* of combined rules; 0: those that ask nothing of this field */
	__u32 unused;
};

/* Groups by what a rule does not ask for; those of classes come behind them. */
enum filter_group_row {
	GROUP_ANY_SOURCE = 0,
	GROUP_ANY_DESTINATION = 1,
	GROUP_ANY_SOURCE_PORT = 2,
	GROUP_ANY_SERVICE = 3, /* neither a destination port nor a protocol */
	GROUP_PAYLOAD_OTHER = 4,
	GROUP_PAYLOAD_RTPS = 5,
	GROUPS_FIXED = 6,
};

/* Combined rules, a bit each, in the order of their ranks. */
struct filter_group {
	__u64 words[8];
};

struct filter_combined {
	__u32 choice;
	__u32 unused;
};

/* What became of a packet: one of these each, so that their sum is what came. */
enum filter_outcome {
	OUTCOME_RULE_PASS = 0,	       /* passed by a rule */
	OUTCOME_DEFAULT_PASS = 1,      /* passed, no rule matched */
	OUTCOME_OTHER_PASS = 2,	       /* passed, not IP */
	OUTCOME_ETH_FRAME_ERR = 3,     /* Ethernet header or VLAN tag cut */
	OUTCOME_IP_HEADER_ERR = 4,     /* IPv4 header cut or wrong */
	OUTCOME_IP6_HEADER_ERR = 5,    /* IPv6 header cut or wrong */
	OUTCOME_TRANSPORT_ERR = 6,     /* UDP or TCP header cut or wrong */
	OUTCOME_IP_DROP = 7,	       /* IPv4, dropped by a rule */
	OUTCOME_IP6_DROP = 8,	       /* IPv6, dropped by a rule */
	OUTCOME_IP_FRAG_DROP = 9,      /* IPv4 fragment, dropped by frags_drop */
	OUTCOME_IP6_FRAG_DROP = 10,    /* IPv6 fragment, dropped by frags_drop */
	OUTCOME_NOT_RTPS = 11,	       /* dropped by a rule with not-rtps */
	OUTCOME_DEFAULT_DROP = 12,     /* dropped, no rule matched */
	OUTCOME_OTHER_DROP = 13,       /* dropped, not IP */
	OUTCOME_PTB_SENT = 14,	       /* turned into the answer 'packet too big' */
	OUTCOME_PTB_ERR = 15,	       /* too big, dropped: too little of it to quote */
	OUTCOME_PTB_MEM_ERR = 16,      /* too big, dropped: no room to build the answer */
	OUTCOME_PTB_RATE_LIMITED = 17, /* too big, dropped: enough answers for now */
	OUTCOME_PTB_SUPPRESSED = 18,   /* too big, passed: it may not be answered */
	FILTER_OUTCOMES = 19,
};

struct filter_counters {
	__u64 packets[19]; /* enum filter_outcome */
};

struct filter_rule_counters {
	__u64 packets;
	__u64 bytes;
};

#endif
