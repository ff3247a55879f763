/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the container fast path's program and user space share.
 *
 * As in ipc_bypass_common.h: constants stand in named enumerations, each with its value, and
 * Python takes the structs from what the compiler says of them.
 */
#ifndef IPC_BYPASS_TC_FAST_PATH_H
#define IPC_BYPASS_TC_FAST_PATH_H

/* Addresses of one container's interface that are known; those beyond go by the bridge. */
#define FAST_ADDRESSES 8

/* What is enrolled of a port number, a bit each in the map fast_ports. */
enum fast_transport {
	FAST_UDP = 1, /* as the destination */
	FAST_TCP = 2, /* as the source or the destination: a connection has two directions */
};

/*
 * Why a frame went by the bridge. Frames handed over and the sum of these are all the frames
 * that the program saw.
 */
enum fast_pass_reason {
	FAST_PASS_NONE = 0,
	FAST_PASS_UNKNOWN_PORT = 1, /* the bridge port is not (yet) in the tables */
	FAST_PASS_HEADERS = 2,	/* the headers are cut, or not in the first part of the buffer */
	FAST_PASS_MOVED = 3,	/* its source MAC belongs to another port, by the tables */
	FAST_PASS_SOURCE = 4,	/* its source is not the container that is known there */
	FAST_PASS_INACTIVE = 5, /* the fast path is not active */
	FAST_PASS_STALE = 6,	/* nobody has looked after the tables for a while */
	FAST_PASS_NOT_ENROLLED = 7, /* no UDP or TCP frame of an enrolled port */
	FAST_PASS_VLAN = 8,	    /* with a VLAN tag */
	FAST_PASS_MULTICAST = 9,    /* to a group's MAC */
	FAST_PASS_FRAGMENT = 10,    /* a fragment of a datagram */
	FAST_PASS_OPTIONS = 11,	    /* IPv4 options or IPv6 extension headers */
	FAST_PASS_NO_ENTRY = 12,  /* no container of this bridge has that MAC, or it is not sure */
	FAST_PASS_ADDRESS = 13,	  /* the container with that MAC has not that address */
	FAST_PASS_SAME_PORT = 14, /* to the container that it came from */
	FAST_PASS_TOO_BIG = 15,	  /* larger than the target's MTU */
	FAST_PASS_REASONS = 16,
};

/* What a port is in the tables, struct fast_port.flags. */
enum fast_port_flag {
	FAST_PORT_CONTAINER = 1, /* a container is behind it; else its frames are only looked at */
};

/* One entry. Times are of CLOCK_MONOTONIC. */
struct fast_settings {
	__u64 fresh_until_ns; /* the tables are looked after until then, at least */
	__u32 active;
	__u32 reserved;
};

/*
 * One for each port, by its number in the tables. A port is in use while `activated` is the
 * generation of its entries and `moved` is not: user space writes the first one, the program the
 * second one, so that neither undoes what the other has seen.
 */
struct fast_state {
	__u32 activated;
	__u32 moved; /* generation whose MAC was seen as a source at another port */
};

/* A port of a bridge, by its ifindex. */
struct fast_port {
	__u32 bridge; /* ifindex */
	__u32 number; /* in fast_states and fast_totals */
	__u32 generation;
	__u16 flags; /* enum fast_port_flag */
	__u8 mac[6]; /* of the container behind it */
};

struct fast_station_key {
	__u32 bridge; /* ifindex */
	__u8 mac[6];
	__u16 reserved;
};

/* A container's interface, by the bridge and its MAC. */
struct fast_station {
	__u32 ifindex; /* of the bridge port, the host's end */
	__u32 number;
	__u32 generation;
	__u32 mtu;	 /* the smaller one of the two ends */
	__u32 addresses; /* how many */
	/* IPv4 as ::ffff:a.b.c.d, in network byte order. */
	__u32 address[FAST_ADDRESSES][4];
};

/* By number of the port that frames came in at; 0 is that of all unknown ones. */
struct fast_totals {
	__u64 packets;	  /* handed over; one with segments counts once */
	__u64 bytes;	  /* ... of their frames */
	__u64 passed[16]; /* enum fast_pass_reason */
	__u64 moves;	  /* stations that were given up here, as their MAC was seen elsewhere */
};

#endif
