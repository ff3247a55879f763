/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the trace path and user space share.
 *
 * As in ipc_bypass_common.h: constants stand in named enumerations, each with its value, and
 * Python reads them from this text.
 */
#ifndef IPC_BYPASS_TRACE_PATH_H
#define IPC_BYPASS_TRACE_PATH_H

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

#endif
