/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the root array of XDP programs and user space share.
 *
 * As in ipc_bypass_common.h: constants stand in named enumerations, each with its value, and
 * Python takes the structs from what the compiler says of them.
 */
#ifndef IPC_BYPASS_XDP_COMMON_H
#define IPC_BYPASS_XDP_COMMON_H

/* Slots of a root array. */
#define XDP_SLOTS 8
/* Marks facts as ours, and of this layout. */
#define XDP_FACTS_MAGIC 0x1bc1
/* What a slot answers to let the next one see the packet. */
#define XDP_CONTINUE (-1)

/* What is known of a packet, struct xdp_facts.flags. */
enum xdp_fact {
	FACT_FRAGMENT = 1,	 /* a fragment, the first one included */
	FACT_FIRST_FRAGMENT = 2, /* ... the first one */
	FACT_VLAN = 4,		 /* one VLAN tag, or two */
	FACT_OPTIONS = 8,	 /* IPv4 options or IPv6 extension headers */
	FACT_PORTS = 16,	 /* the ports are known: UDP or TCP, no later fragment */
	FACT_FRAME_ERROR = 32,	 /* the Ethernet header or a VLAN tag is cut */
	/* The IP header is cut or contradicts itself, or IPv6 has too much before the payload. */
	FACT_IP_ERROR = 64,
	FACT_TRANSPORT_ERROR = 128, /* the same of the UDP or TCP header */
	FACT_MULTICAST = 256,	    /* the destination MAC is a group's, broadcast included */
	FACT_DONT_FRAGMENT = 512,   /* IPv4 with DF, and all of IPv6 */
};

/* What the root found in a packet's headers. */
struct xdp_facts {
	__u16 magic;	 /* XDP_FACTS_MAGIC */
	__u8 family;	 /* 4, 6; 0 for neither */
	__u8 protocol;	 /* IPPROTO_*, behind extension headers; 0 where family is 0 */
	__u16 flags;	 /* enum xdp_fact */
	__u16 ethertype; /* behind VLAN tags, host order */
	__u16 l3_offset; /* bytes from the start of the frame */
	__u16 l4_offset;
	__u16 payload_offset;	/* behind the UDP or TCP header; 0 where there are no ports */
	__u16 source_port;	/* host order */
	__u16 destination_port; /* host order */
	__u16 vlan;		/* id of the outer tag, 0 without one */
	__u32 length;		/* of the whole frame, in bytes */
};

/*
 * The facts of the packet that a CPU has in the array now. A slot takes them only for the very
 * packet, by where it begins and ends, and reads the headers itself otherwise: behind a slot that
 * moved the packet's ends, or where another packet came in between (preemptible softirqs).
 */
struct xdp_parsed {
	__u64 start; /* address of the packet's first byte; 0: of no packet */
	__u64 end;
	__u32 trace; /* of struct xdp_switches, when the packet came */
	struct xdp_facts facts;
};

/*
 * What became of a packet in a slot, struct xdp_slot_counters. PASS: the next one saw it, or the
 * slot itself answered XDP_PASS, which ends the chain.
 */
enum xdp_verdict {
	VERDICT_ABORTED = 0,
	VERDICT_DROP = 1,
	VERDICT_PASS = 2,
	VERDICT_TX = 3,
	VERDICT_REDIRECT = 4,
	VERDICT_INVALID = 5, /* an answer that XDP does not know; it is dropped as ABORTED is */
	VERDICTS = 6,
};

/* Packets of one slot by verdict; the entry behind the last slot is the root's own. */
struct xdp_slot_counters {
	__u64 packets[6];
};

/* Entry of the root in the map of counters: PASS counts every packet that came. */
#define XDP_ROOT_ROW XDP_SLOTS

/* One entry; changed while packets flow. */
struct xdp_switches {
	__u32 trace; /* print each decision to the kernel's trace pipe */
	__u32 reserved;
};

#endif
