// SPDX-License-Identifier: Apache-2.0
/*
 * The UDP path: cgroup_skb/egress copies datagrams to enrolled ports into the pool, and tells the
 * consumer that holds the lease of the rule. `mirror` lets the datagram go on, `divert` ends it
 * here, with success to the sender.
 *
 * What keeps datagrams safe:
 *  - a divert ends the datagram only when its slot and descriptor are committed; everything else
 *    returns GO_ON, under a reason;
 *  - the maps that consumers write into (released, rings) can at worst make the pool look full, or
 *    a consumer look gone, to this program: the datagram goes the usual way then. Whose a slot is,
 *    and what a port obeys, stands in maps that they do not get;
 *  - a slot is free where released[slot] is the sequence number of the last datagram in it.
 *    Sequence numbers do not come again, so that a release that is late releases nothing.
 *
 * Compiled by BCC. Definitions from the loader:
 *   SMALL_SLOTS, LARGE_SLOTS  how many
 *   ORDERED_STORES            1: stores of this processor are seen in their order
 *   RINGS, RING_ENTRIES       consumers, and descriptors of each (a power of two)
 *   CURRENT_PID               1: the program may ask who is sending (from kernel 6.10), else it
 *                             looks at what note_* wrote down
 *   ERROR_QUEUE               1: IP_RECVERR can be seen, at OFFSET_RECVERR4 and so on; else
 *                             nothing can be diverted
 *   ENDPOINTS                 ports and senders with statistics
 */
#include <uapi/linux/bpf.h>
#include "ipc_bypass_common.h"
#include "pool_layout.h"
#include "udp_path.h"
#include "read_kernel.bpf.h"

#define GO_ON		   1
#define TAKEN		   2 /* not sent, success to the sender */
#define ETHERNET_IPV4	   0x0800
#define ETHERNET_IPV6	   0x86dd
#define LOOPBACK_BROADCAST 0x7fffffff
#define PORTS		   65536
#define DATAGRAM_SOCKET	   2

BPF_F_TABLE("array", __u32, struct pool_header, pool_header, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct small_slot, small_slots, SMALL_SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct large_slot, large_slots, LARGE_SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u64, released, SMALL_SLOTS + LARGE_SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct ring, rings, RINGS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct descriptor, descriptors, RINGS *RING_ENTRIES, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u64, claims, SMALL_SLOTS + LARGE_SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct allocator, allocator, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct udp_rule, udp_rules, PORTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u32, receivers, PORTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct udp_settings, udp_settings, 1, BPF_F_MMAPABLE);
BPF_TABLE("percpu_array", __u32, struct udp_totals, udp_totals, 1);
/* Processes come and go for as long as a robot runs: those that sent longest ago make room. */
BPF_TABLE("lru_hash", struct udp_endpoint, struct udp_endpoint_totals, endpoints, ENDPOINTS);
BPF_SK_STORAGE(udp_sockets, struct udp_socket);
BPF_F_TABLE("lpm_trie", struct destination_key, __u32, destinations, 4096, BPF_F_NO_PREALLOC);
BPF_RINGBUF_OUTPUT(wake_template, 1);
BPF_ARRAY_OF_MAPS(wakes, "wake_template", RINGS);

#include "udp_headers.bpf.h"

/* Divert: may it be taken from its usual way? ------------------------------------------------ */

static __always_inline __u32 where_to(const struct datagram *found, __u32 ring)
{
	struct destination_key key = {.prefix_bits = 128};
	const __u32 *address = found->destination_address;
	__u32 *whose;

	if (found->family == 4) {
		__u8 first = bpf_ntohl(address[3]) >> 24;

		if (first >= 224 || address[3] == bpf_htonl(LOOPBACK_BROADCAST))
			return UDP_PASS_MULTICAST;
		if (first == 127)
			return UDP_PASS_NONE;
	} else if ((bpf_ntohl(address[0]) >> 24) == 0xff) {
		return UDP_PASS_MULTICAST;
	}
	__builtin_memcpy(key.address, address, sizeof(key.address));
	whose = destinations.lookup(&key);
	/* Of this host, or in a prefix that this very owner claimed. */
	if (whose && (*whose == DESTINATION_LOCAL || *whose == DESTINATION_CLAIMED + ring - 1))
		return UDP_PASS_NONE;
	return UDP_PASS_NOT_LOCAL;
}

/* True when the socket asked for errors (IP_RECVERR), or when that cannot be seen. */
static __always_inline int wants_errors(struct bpf_sock *sk, __u32 family)
{
#if ERROR_QUEUE
	struct bpf_sock *pointer = sk;
	__u64 address = 0, place = 0;
	__u8 flags = 0;

	/* Only so does the verifier take the socket's address for a number. */
	if (bpf_probe_read_kernel(&address, sizeof(address), &pointer))
		return 1;
	if (bpf_probe_read_kernel(&flags, sizeof(flags),
				  (const void *)(address + OFFSET_RECVERR4)) ||
	    flags & MASK_RECVERR4)
		return 1;
	if (sk->family != 10)
		return 0;
#if OFFSET_PINET6 != OFFSET_UNKNOWN
	if (bpf_probe_read_kernel(&place, sizeof(place), (const void *)(address + OFFSET_PINET6)))
		return 1;
#else
	place = address;
#endif
	return bpf_probe_read_kernel(&flags, sizeof(flags),
				     (const void *)(place + OFFSET_RECVERR6)) ||
	       flags & MASK_RECVERR6;
#else
	return 1;
#endif
}

/* The pool ----------------------------------------------------------------------------------- */

#include "pool_write.bpf.h"

/* Copy the payload to a slot; 0 on success. An empty datagram has nothing to copy. */
#define COPY(ctx, found, target, mask)                                                    \
	({                                                                                \
		__u32 count = (found)->length - 1;                                        \
		long failed = 0;                                                          \
		asm volatile("%0 &= " #mask : "+r"(count));                               \
		if ((found)->length)                                                      \
			failed = bpf_skb_load_bytes(ctx, (found)->payload_offset, target, \
						    count + 1);                           \
		failed;                                                                   \
	})

/* Put a datagram into the pool and tell its consumer; return why not, or UDP_PASS_NONE. */
static __always_inline __u32 capture(struct __sk_buff *ctx, const struct datagram *found,
				     __u32 action, __u32 ring_number, __u32 rule_id, __u32 pid,
				     const struct udp_settings *set, struct udp_totals *sums)
{
	struct reservation got = {};
	struct descriptor *descriptor;
	struct slot_header *header;
	__u32 index, *receiver, why;
	struct ring *ring;
	__u64 place = 0;
	long failed;
	int told;

	ring = rings.lookup(&ring_number);
	if (!ring)
		return UDP_PASS_NO_CONSUMER;
	why = reserve_slot(ring, found->length, action == ACTION_DIVERT, set,
			   &sums->events[UDP_EVENT_SLOT_CONTENDED], &got);
	if (why)
		return why;
	if (got.class == SMALL_SLOT) {
		struct small_slot *small = small_slot_of(&got);

		if (!small)
			return UDP_PASS_NO_SLOT;
		header = &small->header;
		failed = COPY(ctx, found, small->data, 4095);
	} else {
		struct large_slot *large = large_slot_of(&got);

		if (!large)
			return UDP_PASS_NO_SLOT;
		header = &large->header;
		failed = COPY(ctx, found, large->data, 65535);
	}
	if (failed) {
		cancel_slot(&got);
		return UDP_PASS_COPY;
	}
	index = found->destination_port & 0xffff;
	receiver = receivers.lookup(&index);
	header->sender_pid = pid;
	header->receiver_pid = receiver ? *receiver : 0;
	header->length = found->length;
	header->flags = 0;
	commit_slot(&got, header, ring_number);

	descriptor = next_descriptor(&got, ring, ring_number, &place);
	if (!descriptor)
		return UDP_PASS_RING_FULL;
	descriptor->cookie = bpf_get_socket_cookie(ctx);
	descriptor->length = found->length;
	__builtin_memcpy(descriptor->source_address, found->source_address,
			 sizeof(found->source_address));
	__builtin_memcpy(descriptor->destination_address, found->destination_address,
			 sizeof(found->destination_address));
	descriptor->source_port = found->source_port;
	descriptor->destination_port = found->destination_port;
	descriptor->family = found->family;
	descriptor->action = action;
	descriptor->flags = 0;
	descriptor->sender_pid = pid;
	descriptor->receiver_pid = header->receiver_pid;
	descriptor->rule_id = rule_id;
	descriptor->original_length = found->length;
	told = publish(ring, ring_number, descriptor, place);
	if (told)
		__sync_fetch_and_add(
			&sums->events[told > 0 ? UDP_EVENT_WAKES : UDP_EVENT_WAKES_FAILED], 1);
	return UDP_PASS_NONE;
}

/* Counting ----------------------------------------------------------------------------------- */

static __always_inline void count(const struct datagram *found, __u32 action, __u32 reason,
				  __u32 pid, struct udp_socket *note, struct udp_totals *sums)
{
	struct udp_endpoint key = {.port = found->destination_port, .pid = pid};
	__u32 which = action == ACTION_DIVERT, bytes = found->length;
	struct udp_endpoint_totals *totals;

	if (reason == UDP_PASS_NONE) {
		__sync_fetch_and_add(&sums->captured[which], 1);
		__sync_fetch_and_add(&sums->captured_bytes[which], bytes);
	} else {
		__sync_fetch_and_add(&sums->passed_by_reason[reason & (UDP_PASS_REASONS - 1)], 1);
		__sync_fetch_and_add(&sums->passed_bytes, bytes);
	}
	totals = endpoints.lookup(&key);
	if (!totals) {
		struct udp_endpoint_totals first = {};

#if CURRENT_PID
		bpf_get_current_comm(first.command, sizeof(first.command));
#else
		if (note)
			__builtin_memcpy(first.command, note->command, sizeof(first.command));
#endif
		endpoints.insert(&key, &first);
		totals = endpoints.lookup(&key);
		if (!totals) {
			__sync_fetch_and_add(&sums->events[UDP_EVENT_ENDPOINTS_FULL], 1);
			return;
		}
	}
	if (reason == UDP_PASS_NONE) {
		__sync_fetch_and_add(&totals->captured, 1);
		__sync_fetch_and_add(&totals->captured_bytes, bytes);
	} else {
		__sync_fetch_and_add(&totals->passed, 1);
		__sync_fetch_and_add(&totals->passed_bytes, bytes);
	}
}

int skb_capture(struct __sk_buff *ctx)
{
	__u32 protocol = bpf_ntohs(ctx->protocol), zero = 0, port, action, reason, pid = 0;
	struct udp_socket *note = 0;
	struct datagram found = {};
	struct udp_settings *set;
	struct udp_totals *sums;
	union {
		__u64 word;
		struct udp_rule rule;
	} obeyed;
	struct udp_rule *rule;
	struct bpf_sock *sk;
	__u32 ring;

	if (protocol == ETHERNET_IPV4) {
		if (!read_ipv4(ctx, &found))
			return GO_ON;
	} else if (protocol == ETHERNET_IPV6) {
		if (!read_ipv6(ctx, &found))
			return GO_ON;
	} else {
		return GO_ON;
	}
	port = found.destination_port & 0xffff;
	rule = udp_rules.lookup(&port);
	if (!rule)
		return GO_ON;
	obeyed.word = *(volatile __u64 *)rule; /* at once: user space may be changing it */
	if (obeyed.rule.action == ACTION_NONE)
		return GO_ON;
	set = udp_settings.lookup(&zero);
	sums = udp_totals.lookup(&zero);
	if (!set || !sums)
		return GO_ON;
	action = obeyed.rule.action;
	ring = obeyed.rule.ring;
	reason = found.reason;

	sk = ctx->sk;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk && (!CURRENT_PID || set->exempt_sockets))
		note = udp_sockets.sk_storage_get(sk, 0, 0);
#if CURRENT_PID
	pid = bpf_get_current_pid_tgid() >> 32;
#else
	pid = note ? note->pid : 0;
#endif
	if (reason)
		;
	else if (!set->active)
		reason = UDP_PASS_INACTIVE;
	else if (note && note->exempt)
		reason = UDP_PASS_NODE;
	else if (!ring)
		reason = UDP_PASS_NO_CONSUMER;
	else if (action == ACTION_DIVERT) {
		reason = where_to(&found, ring);
		if (!reason && (!sk || wants_errors(sk, found.family)))
			reason = UDP_PASS_ERROR_QUEUE;
	}
	if (!reason)
		reason = capture(ctx, &found, action, ring - 1, obeyed.rule.rule_id, pid, set,
				 sums);
	count(&found, action, reason, pid, note, sums);
	return action == ACTION_DIVERT && !reason ? TAKEN : GO_ON;
}

/* Who sends, on kernels where the program above cannot ask ------------------------------------ */

static __always_inline void note_sender(struct bpf_sock *sk)
{
	struct udp_socket *note;

	if (!sk)
		return;
	note = udp_sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!note)
		return;
	note->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(note->command, sizeof(note->command));
}

#define NOTE_ADDRESS(name)                        \
	int name(struct bpf_sock_addr *ctx)       \
	{                                         \
		if (ctx->type == DATAGRAM_SOCKET) \
			note_sender(ctx->sk);     \
		return 1;                         \
	}
#define NOTE_BIND(name)                           \
	int name(struct bpf_sock *ctx)            \
	{                                         \
		if (ctx->type == DATAGRAM_SOCKET) \
			note_sender(ctx);         \
		return 1;                         \
	}

/* One for each place to attach to: the kernel wants to know it when it loads them. */
NOTE_ADDRESS(note_connect4)
NOTE_ADDRESS(note_connect6)
NOTE_ADDRESS(note_sendmsg4)
NOTE_ADDRESS(note_sendmsg6)
NOTE_BIND(note_bind4)
NOTE_BIND(note_bind6)
