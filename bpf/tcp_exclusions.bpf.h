/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends that are left out of the TCP path, since their program relies on what a redirected socket
 * does not have (docs/semantics.md): by the list of the node, by what tcp_watch.bpf.c saw such a
 * program do, or by an option of the socket. Part of tcp_path.bpf.c.
 */
#ifndef IPC_BYPASS_TCP_EXCLUSIONS_BPF_H
#define IPC_BYPASS_TCP_EXCLUSIONS_BPF_H

#include "tcp_exclusion_maps.bpf.h"

/* Cookies of ends that were left out, so that their peers can say why they pass. */
BPF_TABLE("lru_hash", struct end_key, __u64, left_out_ends, MAX_FLOWS);

#if KERNEL_VIEW
/* True when poll(2) on the socket is to wait for more than a byte (SO_RCVLOWAT). */
static __always_inline int has_low_water_mark(__u64 socket)
{
#if OFFSET_RCVLOWAT != OFFSET_UNKNOWN
	int mark = 0;

	return !READ_KERNEL(mark, socket + OFFSET_RCVLOWAT) && mark > 1;
#else
	return 0;
#endif
}

/* True when the socket may send with MSG_ZEROCOPY (SO_ZEROCOPY). */
static __always_inline int awaits_completions(__u64 socket)
{
#if OFFSET_SOCK_FLAGS != OFFSET_UNKNOWN
	__u32 word = 0;

	return !READ_KERNEL(word, socket + OFFSET_SOCK_FLAGS) && word & MASK_ZEROCOPY;
#else
	return 0;
#endif
}
#endif

/* True when the owner of a socket is excluded, for connections of this port. */
static __always_inline int is_excluded(struct bpf_sock *sk, __u32 port)
{
	struct exclusion_mark *mark = exclusion_marks.sk_storage_get(sk, 0, 0);
	struct exclusion_key key = {};
	__u32 user;

	if (!mark)
		return 0;
	/* Anew each time: a user may be taken from the list again. */
	user = mark->user;
	if (excluded_users.lookup(&user))
		return 1;
	key.name = mark->name;
	if (exclusions.lookup(&key))
		return 1;
	key.port = port;
	return exclusions.lookup(&key) != NULL;
}

/* Count an end that is left out, and note it for its peer; 0 where it is not. */
static __always_inline int leave_out(struct bpf_sock *sk, __u64 cookie, struct end_key *key,
				     __u32 port, const struct settings *set)
{
	__u32 event = EVENTS;
#if KERNEL_VIEW
	__u64 address = 0;
#endif

	if (is_excluded(sk, port))
		event = EVENT_LEFT_OUT_EXCLUDED;
#if KERNEL_VIEW
	/* As a number: the verifier forbids arithmetic on the pointer. */
	else if (set->find_unfit && !READ_KERNEL(address, &sk) &&
		 (has_low_water_mark(address) || awaits_completions(address)))
		event = EVENT_LEFT_OUT_OPTIONS;
#endif
	if (event == EVENTS)
		return 0;
	if (event == EVENT_LEFT_OUT_EXCLUDED)
		count_event(EVENT_LEFT_OUT_EXCLUDED);
	else
		count_event(EVENT_LEFT_OUT_OPTIONS);
	left_out_ends.update(key, &cookie);
	return 1;
}

static __always_inline int is_left_out(const struct end_key *key)
{
	struct end_key copy = *key;

	return left_out_ends.lookup(&copy) != NULL;
}

#endif
