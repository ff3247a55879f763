/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every struct and constant that the kernel programs and user space share.
 *
 * Python takes the structs from the type information that the compiler writes of the maps
 * (ipc_bypass/kernel/layout.py), and the constants from this text: keep them in named
 * enumerations, each with its value (ipc_bypass/kernel/header.py).
 */
#ifndef IPC_BYPASS_COMMON_H
#define IPC_BYPASS_COMMON_H

/* Raised whenever a struct below changes its meaning or its layout. */
#define IPC_BYPASS_LAYOUT_VERSION 4

/* What the rule table holds for a port. */
enum rule_action {
	ACTION_NONE = 0,
	ACTION_ACCELERATE = 1,
	ACTION_MIRROR = 2,
	ACTION_DIVERT = 3,
	ACTION_GATEWAY = 4, /* a proxy of ours listens there: its far ends are brought together */
	ACTION_NOTE = 5,    /* a proxy of ours listens there: its own sockets are noted, no more */
};

/* An offset that this kernel's BTF does not have. */
#define OFFSET_UNKNOWN 0xffffffff

/*
 * Why a message went the usual way. One counter each, by flow and in total; messages redirected
 * and the sum of these are all the messages that the program saw.
 */
enum pass_reason {
	PASS_NONE = 0,
	/* The other end is not in the map: on another host, or not yet established. */
	PASS_NO_PEER = 1,
	/* Passed before, and not both queues are empty now. */
	PASS_QUEUES_NOT_EMPTY = 2,
	/* Passed before, and this kernel does not let the program see the queues. */
	PASS_QUEUES_NOT_VISIBLE = 3,
	/* The receiver has not read what its budget allows. */
	PASS_BUDGET = 4,
	/* The budget was spent a short while ago: the pause doubles each time. */
	PASS_PAUSE = 5,
	/* A sustained one-way stream of small writes, faster by the usual way. */
	PASS_SMALL_WRITES = 6,
	/* The rule was withdrawn. */
	PASS_WITHDRAWN = 7,
	/* The node is not active. */
	PASS_INACTIVE = 8,
	/* The socket carries no state of ours (it was in the map of an earlier start). */
	PASS_UNKNOWN_SOCKET = 9,
	/* An upper protocol sits on one of the sockets (kTLS): its bytes are not the socket's. */
	PASS_UPPER_PROTOCOL = 10,
	/* The socket is no longer open for sending, or not any more for anything. */
	PASS_CLOSING = 11,
	/* The gateway between the two ends has not brought them together (yet). */
	PASS_NOT_PAIRED = 12,
	/* The receiver takes its data by splice(2), which finds nothing in a redirected socket. */
	PASS_SPLICE = 13,
	/* The receiver reads with MSG_WAITALL, which a redirected socket does not wait for. */
	PASS_WAITALL = 14,
	/* The sender set SO_ZEROCOPY: redirected sends have no completions. */
	PASS_ZEROCOPY = 15,
	/* The other end was left out: its program is listed, or did one of these, or see enum
	   unfit. */
	PASS_EXCLUDED = 16,
	PASS_REASONS = 17,
};

/* Events that are not messages, in struct totals. */
enum total_event {
	EVENT_ENDS_ENROLLED = 0,       /* ends of connections that were entered */
	EVENT_ENDS_CLOSED = 1,	       /* ends that were entered and are closed */
	EVENT_LEFT_OUT_TABLE_FULL = 2, /* ends left out: no free flow record */
	EVENT_LEFT_OUT_KEY_EXISTS = 3, /* ends left out: the same key is in the map already */
	EVENT_LEFT_OUT_MAP_ERROR = 4,  /* ends left out: the kernel refused the entry */
	EVENT_LEFT_OUT_NO_STORAGE = 5, /* ends left out: no memory for the socket's storage */
	EVENT_RETURNED = 6,	       /* times that a flow came back to the fast path */
	EVENT_BUDGET_SPENT = 7,	       /* times that a flow spent its budget */
	EVENT_BUDGET_RENEWED = 8,      /* times that the program renewed a budget by itself */
	EVENT_GUARD_TRIPPED = 9,       /* times that the guard turned a flow to pass */
	EVENT_PEER_REUSED = 10,	       /* looks at a peer whose socket was another one by then */
	EVENT_OVERLAP_TRIMMED = 11,    /* repeated segments that were cut where they began anew */
	EVENT_OVERLAP_KEPT = 12,       /* ... that could not be cut: bytes came twice */
	EVENT_CAPTURED = 13,	       /* redirected messages that were copied to the pool */
	EVENT_NOT_CAPTURED = 14,       /* ... for which the pool had no room, or no reader */
	EVENT_GATEWAY_ENDS = 15,       /* ends of a gateway's own sockets that were noted */
	EVENT_GATEWAY_TABLE_FULL =
		16, /* ... that could not be: their connections go by the gateway */
	EVENT_LEFT_OUT_EXCLUDED = 17, /* ends left out: of programs and users that are excluded */
	EVENT_LEFT_OUT_OPTIONS = 18,  /* ends left out: an option that redirect does not heed */
	EVENT_UNFIT_SOCKETS = 19,     /* entered ends that used what redirect does not have */
	EVENT_READS_INTERRUPTED = 20, /* blocking reads that answered EAGAIN on an entered end */
	EVENT_EXCLUSIONS_FULL = 21,   /* programs that were seen, and could not be noted */
	EVENTS = 22,
};

/* What a flow did with its last message, and does with the next if nothing changes. */
enum steering {
	STEER_REDIRECT = 0,
	STEER_PASS = 1,
};

/*
 * One end of one connection, as it was when the connection was established. The two ends know the
 * same numbers, mirrored: only the true peer can make this key. Addresses are in network byte
 * order, IPv4 as ::ffff:a.b.c.d; ports and sequence numbers in host byte order.
 */
struct end_key {
	__u32 local_address[4];
	__u32 remote_address[4];
	__u32 local_port;
	__u32 remote_port;
	__u32 sent_sequence;	 /* snd_nxt */
	__u32 received_sequence; /* rcv_nxt */
};

/* Where an end is found: value of the map `ends`. */
struct end_place {
	__u64 socket_address;
	__u64 cookie;
	__u32 flow_index;
	__u32 unused;
};

/* What a socket carries: value of the socket storage. */
struct socket_state {
	__u64 cookie;
	__u32 flow_index;
	__u32 gateway; /* it is a gateway's own, and has no flow */
};

/*
 * One of the two sockets of a gateway for one connection: value of the map `gateway_ends`, whose
 * key is the socket's own. The program notes it; user space pairs it with the other one.
 */
struct gateway_end {
	__u64 cookie;
	__u64 socket_address;
	struct end_key other_key; /* of the gateway's other socket, while paired */
	__u32 paired;
	__u32 port;	 /* that the gateway listens on */
	__u32 own_bytes; /* that the gateway wrote to this end by itself, before all others */
	__u32 unused;
};

/* What came by TCP to a socket, as skb_pass sees it: value of the map `arrivals`. */
struct arrival {
	__u32 next_sequence;
	__u32 started;
	__u32 flow_index;
	__u32 unfit;   /* UNFIT_SPLICE or UNFIT_WAITALL: its reader was seen to do that */
	__u32 splices; /* how often it did */
	__u32 reads;   /* of TCP's queue, as tcp_watch.bpf.c counts them */
};

/* Programs that are left out -------------------------------------------------------------------
 */

/* Why a program is left out: what it does, or what it set for a socket. */
enum unfit {
	UNFIT_LISTED = 0, /* the node was told */
	UNFIT_SPLICE = 1,
	UNFIT_WAITALL = 2,
	UNFIT_ZEROCOPY = 3,
	/* It reads sooner than it wants. Its open connections are redirected all the same: what
	   passes is not to be had below the mark, and a read that blocks answers EAGAIN then. */
	UNFIT_LOW_WATER_MARK = 4,
};

/* As /proc/PID/comm: filled with zeros. */
struct program_name {
	char text[16];
};

/* Who is left out: key of the map `exclusions`. */
struct exclusion_key {
	struct program_name name;
	__u32 port; /* by which the connection is enrolled; 0: any */
	__u32 unused;
};

struct exclusion {
	__u64 found_ns; /* CLOCK_MONOTONIC; 0: it was listed */
	__u32 pid;	/* of the process that was found */
	__u32 reason;	/* enum unfit */
};

/*
 * What a socket carries whose maker may be left out; what is accepted has its listener's. It is
 * put there when the socket is made, and by user space for listeners that were there before.
 */
struct exclusion_mark {
	struct program_name name;
	__u32 user; /* real id of its maker's */
	__u32 unused;
};

/* What the program reads of a receiver, by way of its noted kernel address. */
struct queue_view {
	__u64 cookie_before;
	__u64 cookie_after;
	__u32 copied_sequence;
	__u32 received_sequence;
	__u64 queued_bytes;
	__u32 backlog_packets;
	__u32 unused;
};

/*
 * One direction of one connection: the sending end's record, in an mmapable array.
 * Written by the program under the socket's lock; user space writes budget_limit alone.
 */
struct flow {
	__u64 cookie; /* of the sending socket; 0: the record is free */
	struct end_key key;
	struct end_key peer_key;
	__u64 established_ns; /* CLOCK_MONOTONIC */
	__u64 last_send_ns;
	__u64 socket_address;
	__u64 peer_cookie; /* 0: not found yet */
	__u64 peer_address;
	__u32 peer_index;
	__u32 family;	 /* 4 or 6 */
	__u32 rule_port; /* the port by which it was enrolled */
	__u32 pid;	 /* of the last sender */
	__u32 steer;	 /* enum steering */
	__u32 reason;	 /* enum pass_reason of the last pass */
	__u64 redirected_bytes;
	__u64 redirected_messages;
	__u64 passed_bytes;
	__u64 passed_messages;
	__u64 passed_by_reason[PASS_REASONS];
	__u64 budget_limit;	     /* redirected_bytes may grow up to this (set by user space) */
	__u64 program_limit;	     /* the same, set by the program itself */
	__u64 message_limit;	     /* redirected_messages may grow up to this (user space) */
	__u64 program_message_limit; /* the same, set by the program itself */
	__u64 checkpoint_bytes;	     /* redirected_bytes when the message limit was last renewed */
	__u64 queued_bytes;	     /* of the receiver, as the program saw it last */
	__u64 returns;
	__u64 pause_until_ns;
	__u64 pause_ns;	       /* length of the last pause */
	__u64 window_start_ns; /* guard: the current window */
	__u64 window_bytes;
	__u64 window_peer_messages;
	__u64 asked_limit; /* user space was asked to renew this budget_limit */
	__u32 window_messages;
	__u32 written_sequence; /* TCP's write_seq if all that it carries was passed here */
	__u64 small_since_ns;	/* guard: every window since then was small writes; 0: not */
	__u64 near_address;	/* of a gateway between the ends: the socket that faces this one */
	__u64 near_cookie;
	__u64 beyond_address; /* and the one that faces the peer */
	__u64 beyond_cookie;
	__u32 near_base;   /* sequence number of the first byte that the gateway forwarded, as it
			      came */
	__u32 beyond_base; /* and as it went on */
	__u32 by_gateway;  /* the connection's other end is a gateway's */
	__u32 unfit;	   /* what its owner was seen to do with it, as struct arrival has it */
	__u32 option;	   /* UNFIT_ZEROCOPY or UNFIT_LOW_WATER_MARK: it was seen to be set */
	__u32 option_unused;
};

/* Sums over flows that are closed, and events. */
struct totals {
	__u64 closing; /* closes begun; differs from `closed` while one is being added */
	__u64 closed;
	__u64 redirected_bytes;
	__u64 redirected_messages;
	__u64 passed_bytes;
	__u64 passed_messages;
	__u64 passed_by_reason[PASS_REASONS];
	__u64 events[EVENTS];
};

/* Settings that user space may change while the programs run. */
struct settings {
	__u32 layout_version;
	__u32 active;		 /* 0: every message passes, no connection is entered */
	__u32 skb_pass_attached; /* the work-around for FIONREAD is in place */
	__u32 renew_by_peek;	 /* FIONREAD does not count redirected bytes here */
	__u64 budget_bytes;	 /* a receiver may have this much queued by redirect */
	__u64 budget_messages;	 /* and this many messages: each holds about a kilobyte */
	__u64 pause_ns;		 /* first pause after a spent budget */
	__u64 pause_max_ns;
	__u64 guard_rate;   /* messages a second; 0: no guard */
	__u64 guard_size;   /* bytes: mean size of a message below which it is small */
	__u64 guard_ns;	    /* how long it must last */
	__u64 capture_ring; /* of the pool, counted from 1: copy redirected messages; 0: do not */
	__u64 find_unfit;   /* 1: heed options that redirected sockets do not have */
};

/* The pool: memory that a program writes and consumers map ------------------------------------ */

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

/* The UDP path -------------------------------------------------------------------------------- */

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

/* The trace path ------------------------------------------------------------------------------ */

/* What a port obeys, bits: the destination port of a datagram, either port of a connection. */
enum trace_rule {
	TRACE_RULE_UDP = 1,
	TRACE_RULE_TCP = 2,
};

/* At the head of each record of a send; the first bytes of what was sent follow it. */
struct trace_record {
	__u64 capture_ns; /* CLOCK_MONOTONIC */
	__u64 cookie;	  /* of the sending socket; 0 where the kernel has not numbered it */
	/* In network byte order, IPv4 as ::ffff:a.b.c.d; the source's is 0 where it is not bound.
	 */
	__u32 source_address[4];
	__u32 destination_address[4];
	__u16 source_port;
	__u16 destination_port;
	__u8 family;	/* 4 or 6 */
	__u8 transport; /* enum trace_rule */
	__u16 copied;	/* bytes that follow */
	__u32 length;	/* bytes that the kernel took */
	__u32 sender_pid;
};

/* A send that is under way: the record that it will become, and where its bytes are. */
struct trace_send {
	struct trace_record record;
	__u64 socket;
	__u64 message;
	__u64 segments; /* of the user's memory, struct iovec in the kernel's; or one user address
			 */
	__u64 first_bytes; /* of that address; 0: there are segments */
	__u64 segment_count;
	__u64 by_udp6; /* entered by udpv6_sendmsg */
};

/* Sums, one for each processor; index 0 is UDP, 1 is TCP. Sends to enrolled ports only. */
struct trace_totals {
	__u64 sends[2]; /* that succeeded */
	__u64 bytes[2];
	__u64 failed[2];    /* sends that returned an error */
	__u64 untracked[2]; /* too many under way, or their return was not seen */
};

#endif /* IPC_BYPASS_COMMON_H */
