// SPDX-License-Identifier: Apache-2.0
/*
 * The trace path: probes on the kernel's send functions, where nothing better can be had.
 *
 * It sees sends and changes none: delivery stays the kernel's. A probe at the entry of
 * udp_sendmsg, udpv6_sendmsg and tcp_sendmsg (of both families) notes where the bytes are; one at
 * the return knows whether the kernel took them, counts, and hands the first bytes to user space
 * by a perf buffer.
 *
 * For kernels from 4.14: no ring buffer, no mapped array, no link, no type information. Where the
 * fields of the kernel's structs stand comes from the loader, or from the kernel's headers where
 * these are the running kernel's own.
 *
 * Compiled by BCC. Definitions from the loader:
 *   TRACE_BYTES   first bytes to copy, a power of two
 *   SPLIT_READ    1: the kernel tells user addresses from its own (5.5)
 *   KERNEL_TREE   1: the headers are the running kernel's own; 0: OFFSET_* and KIND_* are given
 */
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf.h>
#if KERNEL_TREE
#include <linux/uio.h>
#include <linux/version.h>
#include <net/sock.h>
#endif
#include "trace_path.h"

#define AF_INET_FAMILY	2
#define AF_INET6_FAMILY 10
#define MAPPED_PREFIX	0xffff0000 /* ::ffff:0:0 as the third word, in network byte order */
#define PORTS		65536
#define MOST_SENDS	10240 /* under way at once */
#define MOST_SEGMENTS	8     /* that are looked at */

#if SPLIT_READ
#define read_kernel(to, size, from) bpf_probe_read_kernel(to, size, from)
#define read_user(to, size, from)   bpf_probe_read_user(to, size, from)
#else
#define read_kernel(to, size, from) bpf_probe_read(to, size, from)
#define read_user(to, size, from)   bpf_probe_read(to, size, from)
#endif

#if KERNEL_TREE
#define OFFSET_FAMILY	       offsetof(struct sock, __sk_common.skc_family)
#define OFFSET_PORT	       offsetof(struct sock, __sk_common.skc_num)
#define OFFSET_REMOTE_PORT     offsetof(struct sock, __sk_common.skc_dport)
#define OFFSET_REMOTE_V4       offsetof(struct sock, __sk_common.skc_daddr)
#define OFFSET_LOCAL_V4	       offsetof(struct sock, __sk_common.skc_rcv_saddr)
#define OFFSET_REMOTE_V6       offsetof(struct sock, __sk_common.skc_v6_daddr)
#define OFFSET_LOCAL_V6	       offsetof(struct sock, __sk_common.skc_v6_rcv_saddr)
#define OFFSET_COOKIE	       offsetof(struct sock, __sk_common.skc_cookie)
#define OFFSET_NAME	       offsetof(struct msghdr, msg_name)
#define OFFSET_ITERATOR	       offsetof(struct msghdr, msg_iter)
#define OFFSET_SKIP	       offsetof(struct iov_iter, iov_offset)
#define OFFSET_COUNT	       offsetof(struct iov_iter, count)
#define OFFSET_SEGMENTS_NUMBER offsetof(struct iov_iter, nr_segs)
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
#define OFFSET_SEGMENTS offsetof(struct iov_iter, __iov)
#else
#define OFFSET_SEGMENTS offsetof(struct iov_iter, iov)
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 14, 0)
#define OFFSET_KIND offsetof(struct iov_iter, iter_type)
#define KIND_MASK   0xff
#else
#define OFFSET_KIND offsetof(struct iov_iter, type)
#define KIND_MASK   0xfe /* the lowest bit is the direction */
#endif
#define KIND_SEGMENTS ITER_IOVEC
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 0, 0)
#define KIND_BYTES ITER_UBUF
#else
#define KIND_BYTES 0xff
#endif
#endif

struct trace_whole {
	struct trace_record record;
	__u8 data[2 * TRACE_BYTES]; /* the second half is never written: it bounds a copy */
};

struct segment {
	__u64 base;
	__u64 length;
};

/* uapi/linux/in.h and in6.h, struct sockaddr_in6 up to its address. */
struct name {
	__u16 family;
	__u16 port;
	__u32 word; /* the address of sockaddr_in */
	__u32 address[4];
};

BPF_HASH(sends, __u64, struct trace_send, MOST_SENDS);
BPF_PERCPU_ARRAY(whole, struct trace_whole, 1);
BPF_PERCPU_ARRAY(totals, struct trace_totals, 1);
BPF_ARRAY(trace_rules, __u32, PORTS);
BPF_PERF_OUTPUT(records);

static __always_inline __u32 rule_of(__u32 port)
{
	__u32 *rule = trace_rules.lookup(&port);
	return rule ? *rule : 0;
}

/* Read where a connected socket sends to. */
static __always_inline void remote_of(struct trace_record *record, const char *socket)
{
	read_kernel(&record->destination_port, 2, socket + OFFSET_REMOTE_PORT);
	if (record->family == 6) {
		read_kernel(record->destination_address, 16, socket + OFFSET_REMOTE_V6);
	} else {
		record->destination_address[2] = MAPPED_PREFIX;
		read_kernel(&record->destination_address[3], 4, socket + OFFSET_REMOTE_V4);
	}
}

/* Read the address that a send names. */
static __always_inline void named(struct trace_record *record, const char *address)
{
	struct name name = {};
	/* What follows a sockaddr_in is the kernel's as well: sockaddr_storage. */
	read_kernel(&name, sizeof(name), address);
	record->destination_port = name.port;
	if (record->family == 6) {
		if (name.family != AF_INET6_FAMILY)
			record->destination_address[2] = MAPPED_PREFIX;
		else
			__builtin_memcpy(record->destination_address, name.address, 16);
	} else {
		record->destination_address[2] = MAPPED_PREFIX;
		record->destination_address[3] = name.word;
	}
}

static __always_inline void local_of(struct trace_record *record, const char *socket)
{
	read_kernel(&record->source_port, 2, socket + OFFSET_PORT);
	if (record->family == 6) {
		read_kernel(record->source_address, 16, socket + OFFSET_LOCAL_V6);
	} else {
		record->source_address[2] = MAPPED_PREFIX;
		read_kernel(&record->source_address[3], 4, socket + OFFSET_LOCAL_V4);
	}
}

/* Note where the bytes of a send are; other than a user's memory is counted, not copied. */
static __always_inline void bytes_of(struct trace_send *send, const char *message)
{
	const char *iterator = message + OFFSET_ITERATOR;
	__u64 skip = 0, base = 0;
	__u8 kind = 0;

	read_kernel(&kind, 1, iterator + OFFSET_KIND);
	kind &= KIND_MASK;
	read_kernel(&skip, 8, iterator + OFFSET_SKIP);
	read_kernel(&base, 8, iterator + OFFSET_SEGMENTS);
	if (kind == KIND_BYTES) {
		send->segments = base + skip;
		read_kernel(&send->first_bytes, 8, iterator + OFFSET_COUNT);
	} else if (kind == KIND_SEGMENTS && !skip) {
		send->segments = base;
		read_kernel(&send->segment_count, 8, iterator + OFFSET_SEGMENTS_NUMBER);
	}
}

static __always_inline int enter(struct pt_regs *ctx, __u8 transport, __u8 family)
{
	const char *socket = (const char *)PT_REGS_PARM1(ctx);
	const char *message = (const char *)PT_REGS_PARM2(ctx);
	__u64 id = bpf_get_current_pid_tgid(), name = 0;
	struct trace_send send = {}, *before;
	struct trace_record *record = &send.record;
	__u64 by_udp6 = transport == TRACE_RULE_UDP && family == 6;
	__u16 socket_family = 0;
	__u32 zero = 0;

	if (!family) {
		read_kernel(&socket_family, 2, socket + OFFSET_FAMILY);
		family = socket_family == AF_INET6_FAMILY ? 6 : 4;
	}
	record->family = family;
	record->transport = transport;
	record->sender_pid = id >> 32;
	if (transport == TRACE_RULE_UDP)
		read_kernel(&name, 8, message + OFFSET_NAME);
	if (name)
		named(record, (const char *)name);
	else
		remote_of(record, socket);
	record->destination_port = ntohs(record->destination_port);
	local_of(record, socket);
	if (!(rule_of(record->destination_port) & transport) &&
	    !(transport == TRACE_RULE_TCP && rule_of(record->source_port) & transport))
		return 0;
	if (family == 6 && record->destination_address[2] == MAPPED_PREFIX &&
	    !record->destination_address[0] && !record->destination_address[1]) {
		if (transport == TRACE_RULE_UDP)
			return 0; /* udpv6_sendmsg calls udp_sendmsg: it is seen there */
		record->family = 4;
	}
	read_kernel(&record->cookie, 8, socket + OFFSET_COOKIE);
	send.socket = (__u64)socket;
	send.message = (__u64)message;
	send.by_udp6 = by_udp6;
	bytes_of(&send, message);

	struct trace_totals *sums = totals.lookup(&zero);
	/* What udpv6_sendmsg leaves to udp_sendmsg is one send. */
	before = sends.lookup(&id);
	if (before && sums &&
	    !(before->by_udp6 && transport == TRACE_RULE_UDP && !by_udp6 &&
	      before->socket == send.socket && before->message == send.message))
		sums->untracked[before->record.transport == TRACE_RULE_TCP]++;
	if (sends.update(&id, &send) && sums)
		sums->untracked[transport == TRACE_RULE_TCP]++;
	return 0;
}

int udp_enter(struct pt_regs *ctx)
{
	return enter(ctx, TRACE_RULE_UDP, 4);
}

int udp6_enter(struct pt_regs *ctx)
{
	return enter(ctx, TRACE_RULE_UDP, 6);
}

int tcp_enter(struct pt_regs *ctx)
{
	return enter(ctx, TRACE_RULE_TCP, 0);
}

/* Copy the first of the bytes that were sent. */
static __always_inline void copy_bytes(struct trace_whole *to, struct trace_send *send)
{
	__u64 left = to->record.length < TRACE_BYTES ? to->record.length : TRACE_BYTES;
	__u64 copied = 0;

#pragma unroll
	for (int number = 0; number < MOST_SEGMENTS; number++) {
		struct segment segment = {send->segments, send->first_bytes};
		__u64 size;

		if (!send->first_bytes) {
			if (number >= send->segment_count)
				break;
			read_kernel(&segment, sizeof(segment),
				    (const char *)send->segments + number * sizeof(segment));
		}
		size = segment.length < left ? segment.length : left;
		if (!size)
			continue;
		/* Bounds that the compiler knows and the verifier has to see. */
		size--;
		asm volatile("%0 &= %1" : "+r"(size) : "i"(TRACE_BYTES - 1));
		size++;
		asm volatile("%0 &= %1" : "+r"(copied) : "i"(TRACE_BYTES - 1));
		if (read_user(to->data + copied, size, (const void *)segment.base))
			break;
		copied += size;
		left -= size;
		if (!left || send->first_bytes)
			break;
	}
	to->record.copied = copied;
}

int send_leave(struct pt_regs *ctx)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct trace_send *found = sends.lookup(&id), send;
	int taken = PT_REGS_RC(ctx);
	__u32 zero = 0, is_tcp;

	if (!found)
		return 0;
	send = *found;
	sends.delete(&id);
	is_tcp = send.record.transport == TRACE_RULE_TCP;
	struct trace_totals *sums = totals.lookup(&zero);
	struct trace_whole *to = whole.lookup(&zero);
	if (!sums || !to)
		return 0;
	if (taken < 0) {
		sums->failed[is_tcp]++;
		return 0;
	}
	to->record = send.record;
	to->record.capture_ns = bpf_ktime_get_ns();
	to->record.length = taken;
	copy_bytes(to, &send);
	/* Counted first, so that what is read can never be more than what was sent. */
	sums->sends[is_tcp]++;
	sums->bytes[is_tcp] += taken;
	records.perf_submit(ctx, to, sizeof(struct trace_record) + TRACE_BYTES);
	return 0;
}
