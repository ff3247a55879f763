/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies what is redirected to the pool, whose maps the program declares. Part of tcp_path.bpf.c.
 */
#ifndef IPC_BYPASS_TCP_CAPTURE_BPF_H
#define IPC_BYPASS_TCP_CAPTURE_BPF_H

#include "pool_write.bpf.h"

/* Where the first piece of a message is, as a number: the verifier forbids arithmetic on it. */
static __always_inline __u32 first_piece(struct sk_msg_md *msg, __u64 *address)
{
	void *start = (void *)(long)msg->data, *end = (void *)(long)msg->data_end;
	__u64 after = 0;

	if (bpf_probe_read_kernel(address, sizeof(*address), &start) ||
	    bpf_probe_read_kernel(&after, sizeof(after), &end) || after < *address)
		return 0;
	after -= *address;
	return after > LARGE_SLOT_DATA ? LARGE_SLOT_DATA : after;
}

static __always_inline long copy_piece(void *data, __u32 length, __u64 address, __u32 small)
{
	__u32 count = length - 1;

	if (!length)
		return 0;
	if (small)
		asm volatile("%0 &= 4095" : "+r"(count));
	else
		asm volatile("%0 &= 65535" : "+r"(count));
	return bpf_probe_read_kernel(data, count + 1, (const void *)address);
}

/*
 * Copy a redirected message, or the first piece of it: the message itself is left as it is.
 * Addresses are the connection's; the receiver is who sent last from the other end.
 */
static __always_inline int copy_message(struct sk_msg_md *msg, struct flow *flow,
					__u32 ring_number, __u32 size)
{
	__u32 zero = 0, length, flags = DESCRIPTOR_TCP, peer = flow->peer_index, receiver;
	__u64 address = 0, place = 0, contended = 0;
	struct udp_settings *set = udp_settings.lookup(&zero);
	struct ring *ring = rings.lookup(&ring_number);
	struct reservation got = {};
	struct descriptor *descriptor;
	struct slot_header *header;
	struct flow *other;
	long failed;

	if (!set || !ring || !set->active)
		return -1;
	length = first_piece(msg, &address);
	if (length < size)
		flags |= DESCRIPTOR_TRUNCATED;
	if (reserve_slot(ring, length, 0, set, &contended, &got))
		return -1;
	if (got.class == SMALL_SLOT) {
		struct small_slot *small = small_slot_of(&got);

		if (!small)
			return -1;
		header = &small->header;
		failed = copy_piece(small->data, length, address, 1);
	} else {
		struct large_slot *large = large_slot_of(&got);

		if (!large)
			return -1;
		header = &large->header;
		failed = copy_piece(large->data, length, address, 0);
	}
	if (failed) {
		cancel_slot(&got);
		return -1;
	}
	other = flows.lookup(&peer);
	receiver = other ? other->pid : 0;
	header->sender_pid = flow->pid;
	header->receiver_pid = receiver;
	header->length = length;
	header->flags = flags;
	commit_slot(&got, header, ring_number);

	descriptor = next_descriptor(&got, ring, ring_number, &place);
	if (!descriptor)
		return -1;
	descriptor->cookie = flow->cookie;
	descriptor->length = length;
	__builtin_memcpy(descriptor->source_address, flow->key.local_address,
			 sizeof(flow->key.local_address));
	__builtin_memcpy(descriptor->destination_address, flow->key.remote_address,
			 sizeof(flow->key.remote_address));
	descriptor->source_port = flow->key.local_port;
	descriptor->destination_port = flow->key.remote_port;
	descriptor->family = flow->family;
	descriptor->action = ACTION_MIRROR;
	descriptor->flags = flags;
	descriptor->sender_pid = flow->pid;
	descriptor->receiver_pid = receiver;
	descriptor->rule_id = 0;
	descriptor->original_length = size;
	publish(ring, ring_number, descriptor, place);
	return 0;
}

#endif
