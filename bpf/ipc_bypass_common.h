/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The structs and constants that the TCP path shares with user space, and what all paths share.
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

#endif /* IPC_BYPASS_COMMON_H */
