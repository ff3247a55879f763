/* SPDX-License-Identifier: Apache-2.0 */
/* What the slot "steering to AF_XDP" and user space share; see xdp_common.h for the form. */
#ifndef IPC_BYPASS_XDP_STEERING_H
#define IPC_BYPASS_XDP_STEERING_H

/* Most receive queues of an interface, each of which may have a socket. */
#define STEERING_QUEUES 64
#define STEERING_PORTS	65536

/*
 * Who asks for what: each has a byte of its own in the words of both maps, so that none writes
 * over another's. The program takes all of them together.
 */
enum steering_holder {
	STEERING_HOLDER_NODE = 0,     /* the node, by its parameters */
	STEERING_HOLDER_PIPELINE = 1, /* pipelines in processes of their own */
	STEERING_HOLDERS = 2,
};

/* Which transport's port it is, of each byte of an entry of the map of ports. */
enum steering_port {
	STEERING_UDP = 1,
	STEERING_TCP = 2,
};

/* What else goes to the sockets, of each byte of the entry of the map of switches. */
enum steering_switch {
	STEERING_NEIGHBOURS = 1, /* ARP requests and IPv6 neighbour solicitations */
	STEERING_ECHO = 2,	 /* ICMP and ICMPv6 echo requests */
	STEERING_ALL = 4,	 /* every frame, whatever it is */
};

/* What became of a packet, struct steering_counts. All but the first pass to the next slot. */
enum steering_outcome {
	STEERING_REDIRECTED = 0,
	STEERING_NO_SOCKET = 1,	   /* enrolled, and nobody has its queue */
	STEERING_NOT_ENROLLED = 2, /* not asked for */
	STEERING_FRAGMENT = 3,	   /* a fragment: its port is not always known */
	STEERING_OUTCOMES = 4,
};

struct steering_counts {
	__u64 packets[4];
};

#endif
