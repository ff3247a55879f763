/* SPDX-License-Identifier: Apache-2.0 */
/* What the slot of devmap forwarding and user space share; see xdp_devmap.bpf.c. */
#ifndef IPC_BYPASS_XDP_DEVMAP_H
#define IPC_BYPASS_XDP_DEVMAP_H

/* Addresses of one container's interface that are known; those beyond go by the bridge. */
#define DEVMAP_ADDRESSES 8
/* Containers of one bridge. */
#define DEVMAP_STATIONS 1024

/* What is enrolled of a port number, a bit each in the map devmap_ports. */
enum devmap_transport {
	DEVMAP_UDP = 1, /* as the destination */
	DEVMAP_TCP = 2, /* as the source or the destination */
};

/*
 * Why a frame went on to the next slot. Frames that were forwarded and the sum of these are all
 * the frames that the program saw.
 */
enum devmap_pass_reason {
	DEVMAP_PASS_NONE = 0,
	DEVMAP_PASS_INACTIVE = 1,     /* not active, or the port is not in use */
	DEVMAP_PASS_NOT_ENROLLED = 2, /* no UDP or TCP frame of an enrolled port, or a cut one */
	DEVMAP_PASS_STALE = 3,	      /* nobody has looked after the tables for a while */
	DEVMAP_PASS_SOURCE = 4,	      /* its source is not the container that is known there */
	DEVMAP_PASS_VLAN = 5,	      /* with a VLAN tag */
	DEVMAP_PASS_MULTICAST = 6,    /* to a group's MAC */
	DEVMAP_PASS_FRAGMENT = 7,     /* a fragment of a datagram */
	DEVMAP_PASS_OPTIONS = 8,      /* IPv4 options or IPv6 extension headers */
	DEVMAP_PASS_NO_ENTRY = 9,     /* no container that can take it has that MAC */
	DEVMAP_PASS_ADDRESS = 10,     /* the container with that MAC has not that address */
	DEVMAP_PASS_TOO_BIG = 11,     /* larger than the target's MTU */
	DEVMAP_PASS_REASONS = 12,
};

/* One entry: of the interface that the array is on. Times are of CLOCK_MONOTONIC. */
struct devmap_settings {
	__u64 fresh_until_ns;
	__u32 active;
	__u16 known; /* a container with this MAC is behind the interface */
	__u8 mac[6];
};

struct devmap_station_key {
	__u8 mac[6];
	__u16 reserved;
};

/* Another container of the same bridge, by its MAC. */
struct devmap_station {
	__u32 ifindex; /* of its bridge port */
	__u32 mtu;
	__u32 addresses; /* how many */
	__u32 reserved;
	/* IPv4 as ::ffff:a.b.c.d, in network byte order. */
	__u32 address[DEVMAP_ADDRESSES][4];
};

struct devmap_totals {
	__u64 packets; /* handed to the kernel for the target's queue */
	__u64 bytes;
	__u64 passed[16]; /* enum devmap_pass_reason */
};

#endif
