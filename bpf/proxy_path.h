/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the proxy's kernel path and user space share. Python takes the struct from the type
 * information that the compiler writes, and the constants from this text.
 */
#ifndef IPC_BYPASS_PROXY_PATH_H
#define IPC_BYPASS_PROXY_PATH_H

/* What the program did with a segment. */
enum proxy_outcome {
	PROXY_REDIRECTED = 0,
	PROXY_NOT_PAIRED = 1,	   /* passed: the socket has no other one (any more) */
	PROXY_NO_TARGET = 2,	   /* passed: the other socket is not in the map */
	PROXY_NOT_EMPTY = 3,	   /* passed: not all that came before is written yet */
	PROXY_BUDGET = 4,	   /* passed: the other socket does not take what was redirected */
	PROXY_END = 5,		   /* dropped: a segment without data, the end of a direction */
	PROXY_OVERLAP_KEPT = 6,	   /* redirected or passed, with bytes that came before */
	PROXY_OVERLAP_TRIMMED = 7, /* redirected or passed, without those */
	PROXY_OUTCOMES = 8,
};

/* One direction: value of the map `proxied`, by the cookie of the socket that receives it. */
struct proxied {
	__u64 other;	      /* cookie of the socket that it goes to */
	__u64 target_address; /* of that one */
	__u64 bytes;	      /* redirected */
	__u64 segments;
	__u64 last_ns;	      /* CLOCK_MONOTONIC of the last one */
	__u32 next_sequence;  /* of the next byte, set by user space at first */
	__u32 first_sequence; /* of the first byte of the connection */
	__u32 target_base;    /* sequence number with which that byte is written */
	__u32 redirecting;    /* else user space reads what comes */
	__u32 budget;	      /* bytes that may be redirected and not be written yet */
	__u32 unused;
};

/* Sums over directions that have ended, too: value of the per-CPU array `proxy_totals`. */
struct proxy_totals {
	__u64 outcomes[PROXY_OUTCOMES];
};

#endif
