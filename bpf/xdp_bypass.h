/* SPDX-License-Identifier: Apache-2.0 */
/* What the bypass slot and user space share; see xdp_bypass.bpf.c. */
#ifndef IPC_BYPASS_XDP_BYPASS_H
#define IPC_BYPASS_XDP_BYPASS_H

/* Flows at one time: a bit each in a word of bypass_ports. */
#define BYPASS_FLOWS 16

/*
 * Why a packet did not leave by this slot. Packets that did and the sum of these are all the
 * packets that the program saw.
 */
enum bypass_pass_reason {
	BYPASS_PASS_NONE = 0,
	BYPASS_PASS_NOT_ENROLLED = 1, /* of no flow that is enrolled */
	BYPASS_PASS_INACTIVE = 2,     /* the slot is not active */
	BYPASS_PASS_STALE = 3,	      /* nobody has looked after the next hops for a while */
	BYPASS_PASS_VLAN = 4,	      /* with a VLAN tag */
	BYPASS_PASS_FRAGMENT = 5,   /* a first fragment; later ones have no ports: NOT_ENROLLED */
	BYPASS_PASS_OPTIONS = 6,    /* IPv4 options or IPv6 extension headers */
	BYPASS_PASS_ADDRESSEE = 7,  /* to a group, or to route and not to this interface's MAC */
	BYPASS_PASS_UNRESOLVED = 8, /* the next hop's MAC is not known, or it cannot be sent to */
	BYPASS_PASS_LIFETIME = 9,   /* its TTL or hop limit ends here */
	BYPASS_PASS_TOO_BIG = 10,   /* larger than the MTU towards the next hop */
	BYPASS_PASS_HEADERS = 11,   /* the headers cannot be read again */
	BYPASS_PASS_REASONS = 12,
};

enum bypass_flow_flag {
	BYPASS_RESOLVED = 1, /* the MACs, the interface and the MTU are good */
	BYPASS_ROUTED = 2,   /* the TTL goes down by one */
};

/* One entry. Times are of CLOCK_MONOTONIC. */
struct bypass_settings {
	__u64 fresh_until_ns;
	__u32 active;
	__u32 reserved;
};

/* An enrolled flow and its next hop. Addresses in network byte order, IPv4 as ::ffff:a.b.c.d. */
struct bypass_flow {
	__u32 source[4];
	__u32 source_mask[4];
	__u32 destination[4];
	__u32 destination_mask[4];
	__u16 source_first; /* ports, host order */
	__u16 source_last;
	__u16 destination_first;
	__u16 destination_last;
	__u16 protocol; /* IPPROTO_*; 0: UDP and TCP */
	__u16 flags;	/* enum bypass_flow_flag */
	__u32 ifindex;	/* 0: back out of the interface that it came in at */
	__u32 mtu;
	__u8 arrival_mac[6]; /* of the interface that it came in at */
	__u8 source_mac[6];
	__u8 next_mac[6];
	__u16 family; /* 4 or 6; 0: both */
};

struct bypass_totals {
	__u64 packets; /* that left by this slot, as far as the program can tell */
	__u64 bytes;
	__u64 passed[16]; /* enum bypass_pass_reason */
};

/* By flow. */
struct bypass_flow_totals {
	__u64 packets;
	__u64 bytes;
	__u64 passed; /* enrolled, and left to the kernel */
};

#endif
