/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What TCP's queues hold of a direction, as the program sees it in the kernel's memory, at the
 * offsets of its type information. Part of tcp_path.bpf.c.
 */
#ifndef IPC_BYPASS_TCP_QUEUES_BPF_H
#define IPC_BYPASS_TCP_QUEUES_BPF_H

/*
 * Look at the receiver's queues. Its address was noted when it was entered; the memory of a TCP
 * socket is only ever a TCP socket's while the program runs (SLAB_TYPESAFE_BY_RCU), or is given
 * back, and then the read answers an error or another cookie. A cookie is never given twice, so
 * the same one before and after says that all that was read between is the peer's.
 */
static __always_inline int look_at_peer(struct flow *flow, struct queue_view *view)
{
	__u64 address = flow->peer_address, psock = 0;
	__u32 queued = 0;

	if (READ_KERNEL(view->cookie_before, address + OFFSET_COOKIE))
		return -1;
	if (READ_KERNEL(view->copied_sequence, address + OFFSET_COPIED_SEQ))
		return -1;
	if (READ_KERNEL(view->received_sequence, address + OFFSET_RCV_NXT))
		return -1;
	if (READ_KERNEL(psock, address + OFFSET_USER_DATA))
		return -1;
	psock &= ~7ULL; /* the flags of sk_user_data */
	if (!psock)
		return -1;
	if (READ_KERNEL(view->backlog_packets, psock + OFFSET_PSOCK_BACKLOG))
		return -1;
#if OFFSET_PSOCK_QUEUED != OFFSET_UNKNOWN
	if (READ_KERNEL(queued, psock + OFFSET_PSOCK_QUEUED))
		return -1;
	view->queued_bytes = queued;
#elif OFFSET_RMEM_ALLOC != OFFSET_UNKNOWN
	if (READ_KERNEL(queued, address + OFFSET_RMEM_ALLOC))
		return -1;
	view->queued_bytes = queued;
#else
	view->queued_bytes = ~0ULL;
#endif
	if (READ_KERNEL(view->cookie_after, address + OFFSET_COOKIE))
		return -1;
	if (view->cookie_before != flow->peer_cookie || view->cookie_after != flow->peer_cookie) {
		count_event(EVENT_PEER_REUSED);
		return -1;
	}
	return 0;
}

/*
 * Hold what this program counted as passed against what TCP took: less where a send that would
 * block was cut short, more where a send that was waiting for the connection when the socket was
 * entered went on by TCP, past the program. Return true when they were the same.
 */
static __always_inline int settle(struct flow *flow)
{
	__u32 written;

	if (READ_KERNEL(written, flow->socket_address + OFFSET_WRITE_SEQ))
		return 0;
	if (written == flow->written_sequence)
		return 1;
	flow->passed_bytes += (__s64)(__s32)(written - flow->written_sequence);
	flow->written_sequence = written;
	return 0;
}

/*
 * True when TCP holds nothing of this direction that the receiver has not read. Called under the
 * sender's lock, after settle(). It need not be acknowledged: that comes up to 40 ms later, so
 * that a stream without pauses would never be seen empty, and what the receiver has, it drops when
 * it is sent again.
 */
static __always_inline int tcp_is_empty(struct flow *flow)
{
	__u32 written = flow->written_sequence;
	struct queue_view view = {};

#if GATEWAY
	if (flow->by_gateway && gateway_holds(flow, &written))
		return 0;
#endif
	if (look_at_peer(flow, &view))
		return 0;
	return view.received_sequence == written && view.copied_sequence == written &&
	       view.backlog_packets == 0;
}

#endif
