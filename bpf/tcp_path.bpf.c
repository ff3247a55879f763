// SPDX-License-Identifier: Apache-2.0
/*
 * The TCP path: sock_ops enters both ends of an enrolled connection into a sockhash, sk_msg
 * redirects what one end sends into the other end's receive queue.
 *
 * What keeps the bytes safe:
 *  - the key of an end holds both sequence numbers, so that only its true peer can name it;
 *  - msg_steer always returns SK_PASS: redirect happens where the helper found the peer, else the
 *    message takes the usual way;
 *  - a receiver reads redirected bytes before those that came by TCP. So once a message passed,
 *    the flow passes, until the program sees that TCP has nothing left between the two ends;
 *  - redirect has no back-pressure, so that a flow may run ahead of its reader by a budget only.
 *
 * Compiled by BCC. Definitions from the loader:
 *   MAX_FLOWS        records, two for each connection with both ends on this host
 *   KERNEL_VIEW      1: the program reads TCP's queues, at the offsets OFFSET_* of this kernel
 *   PROGRAM_RENEWAL  1: the program renews budgets by itself (needs KERNEL_VIEW)
 *   WAKE             1: user space renews, and is woken by a ring buffer when half is spent
 *   GATEWAY          1: the ends beyond a proxy of ours are brought together (needs KERNEL_VIEW)
 *   CAPTURE          1: redirected messages may be copied to the pool of the UDP path, whose maps
 *                    are pinned in POOL_PINS; with SMALL_SLOTS and so on as there
 */
#include <uapi/linux/bpf.h>
#include "ipc_bypass_common.h"
#include "read_kernel.bpf.h"
#include "tcp_overlap.bpf.h"
#if CAPTURE
#include "pool_layout.h"
#include "udp_path.h"
#endif

#define AF_INET_FAMILY	      2
#define AF_INET6_FAMILY	      10
#define TCP_ESTABLISHED_STATE 1 /* include/net/tcp_states.h */
#define TCP_CLOSE_WAIT_STATE  8
#define TCP_CLOSE_STATE	      7
#define PORTS		      65536
#define MAPPED_PREFIX	      0xffff0000 /* ::ffff:0:0 as the third word, in network byte order */
#define GUARD_WINDOW	      256	 /* messages */
#define SECOND_NS	      1000000000ULL

/* As BCC's BPF_SOCKHASH, with a value that user space can read (the socket's cookie). */
struct sockets_table_t {
	struct end_key key;
	__u64 leaf;
	int (*update)(struct end_key *, __u64 *);
	int (*delete)(struct end_key *);
	int (*sock_hash_update)(void *, void *, u64);
	int (*msg_redirect_hash)(void *, void *, u64);
	int (*sk_redirect_hash)(void *, void *, u64);
	__u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct sockets_table_t sockets = {.max_entries =
										    MAX_FLOWS};

BPF_SK_STORAGE(socket_states, struct socket_state);
BPF_TABLE("hash", struct end_key, struct end_place, ends, MAX_FLOWS);
BPF_F_TABLE("array", __u32, struct flow, flows, MAX_FLOWS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u32, tcp_rules, PORTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct totals, totals, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct settings, settings, 1, BPF_F_MMAPABLE);
BPF_QUEUE(free_flows, __u32, MAX_FLOWS);
BPF_TABLE("hash", __u64, struct arrival, arrivals, MAX_FLOWS);
#if WAKE
BPF_RINGBUF_OUTPUT(wake, 1);
#endif
#if GATEWAY
BPF_TABLE("hash", struct end_key, struct gateway_end, gateway_ends, MAX_FLOWS);
BPF_TABLE("hash", __u64, struct end_key, gateway_keys, MAX_FLOWS);
/* Sockets with which the gateway is about to connect: cookie, and the port it listens on. */
BPF_TABLE("hash", __u64, __u64, gateway_sockets, MAX_FLOWS);
#endif
#if CAPTURE
#define POOL_ARRAY(type, name, entries) \
	BPF_TABLE_PINNED("array", __u32, type, name, entries, POOL_PINS "/" #name, BPF_F_MMAPABLE)
POOL_ARRAY(struct small_slot, small_slots, SMALL_SLOTS);
POOL_ARRAY(struct large_slot, large_slots, LARGE_SLOTS);
POOL_ARRAY(__u64, released, SMALL_SLOTS + LARGE_SLOTS);
POOL_ARRAY(struct ring, rings, RINGS);
POOL_ARRAY(struct descriptor, descriptors, RINGS *RING_ENTRIES);
POOL_ARRAY(__u64, claims, SMALL_SLOTS + LARGE_SLOTS);
POOL_ARRAY(struct allocator, allocator, 1);
POOL_ARRAY(struct udp_settings, udp_settings, 1);
BPF_RINGBUF_OUTPUT(wake_template, 1);
BPF_TABLE_PINNED("array_of_maps$wake_template", int, int, wakes, RINGS, POOL_PINS "/wakes");
#endif

static __always_inline void count_event(enum total_event event)
{
	__u32 zero = 0;
	struct totals *sums = totals.lookup(&zero);

	if (sums)
		__sync_fetch_and_add(&sums->events[event], 1);
}

/* sock_ops: enter and leave ------------------------------------------------------------------ */

/* The empty statement keeps the compiler from merging the reads of two members: the verifier
 * refuses a read by way of a computed pointer into the context.
 */
#define CONTEXT(ctx, member)                                 \
	({                                                   \
		__u32 value = (ctx)->member;                 \
		asm volatile("" : "+r"(value) : : "memory"); \
		value;                                       \
	})

static __always_inline int make_key(struct bpf_sock_ops *ctx, struct end_key *key)
{
	__u32 family = ctx->family;

	if (family == AF_INET_FAMILY) {
		key->local_address[2] = MAPPED_PREFIX;
		key->local_address[3] = CONTEXT(ctx, local_ip4);
		key->remote_address[2] = MAPPED_PREFIX;
		key->remote_address[3] = CONTEXT(ctx, remote_ip4);
	} else if (family == AF_INET6_FAMILY) {
		key->local_address[0] = CONTEXT(ctx, local_ip6[0]);
		key->local_address[1] = CONTEXT(ctx, local_ip6[1]);
		key->local_address[2] = CONTEXT(ctx, local_ip6[2]);
		key->local_address[3] = CONTEXT(ctx, local_ip6[3]);
		key->remote_address[0] = CONTEXT(ctx, remote_ip6[0]);
		key->remote_address[1] = CONTEXT(ctx, remote_ip6[1]);
		key->remote_address[2] = CONTEXT(ctx, remote_ip6[2]);
		key->remote_address[3] = CONTEXT(ctx, remote_ip6[3]);
	} else {
		return -1;
	}
	key->local_port = ctx->local_port;
	key->remote_port = bpf_ntohl(ctx->remote_port);
	key->sent_sequence = ctx->snd_nxt;
	key->received_sequence = ctx->rcv_nxt;
	return 0;
}

static __always_inline void mirror_key(const struct end_key *key, struct end_key *mirrored)
{
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		mirrored->local_address[i] = key->remote_address[i];
		mirrored->remote_address[i] = key->local_address[i];
	}
	mirrored->local_port = key->remote_port;
	mirrored->remote_port = key->local_port;
	mirrored->sent_sequence = key->received_sequence;
	mirrored->received_sequence = key->sent_sequence;
}

/* The port by which a connection is enrolled, or 0. */
static __always_inline __u32 enrolled_port(const struct end_key *key)
{
	__u32 port = key->local_port & 0xffff;
	__u32 *action = tcp_rules.lookup(&port);

	if (action && *action == ACTION_ACCELERATE)
		return port;
	port = key->remote_port & 0xffff;
	action = tcp_rules.lookup(&port);
	if (action && *action == ACTION_ACCELERATE)
		return port;
	return 0;
}

#include "tcp_exclusions.bpf.h"
#if GATEWAY
#include "tcp_gateway.bpf.h"
#endif

static __always_inline void establish(struct bpf_sock_ops *ctx)
{
	struct end_place place = {};
	struct arrival arrival = {};
	struct socket_state *state;
	struct end_key key = {};
	struct settings *set;
	struct bpf_sock *sk;
	struct flow *flow;
	__u32 index, port, by_gateway = 0, zero = 0;
	long err;

	set = settings.lookup(&zero);
	if (!set || !set->active)
		return;
	if (make_key(ctx, &key))
		return;
	sk = ctx->sk;
	if (!sk)
		return;
	port = enrolled_port(&key);
#if GATEWAY
	if (!port) {
		port = beyond_gateway(ctx, sk, &key);
		by_gateway = 1;
	}
#endif
	if (!port || leave_out(sk, bpf_get_socket_cookie(ctx), &key, port, set))
		return;

	if (free_flows.pop(&index)) {
		count_event(EVENT_LEFT_OUT_TABLE_FULL);
		return;
	}
	flow = flows.lookup(&index);
	if (!flow) {
		count_event(EVENT_LEFT_OUT_TABLE_FULL);
		return;
	}
	state = socket_states.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		count_event(EVENT_LEFT_OUT_NO_STORAGE);
		goto give_back;
	}
	__builtin_memset(flow, 0, sizeof(*flow));
	place.cookie = bpf_get_socket_cookie(ctx);
	place.flow_index = index;
#if KERNEL_VIEW
	/* Only then: without CAP_PERFMON no address may go into a map. */
	place.socket_address = (__u64)sk;
#endif
	arrival.flow_index = index;
	state->cookie = place.cookie;
	state->flow_index = index;
	state->gateway = 0;
	flow->key = key;
	flow->by_gateway = by_gateway;
	mirror_key(&key, &flow->peer_key);
	flow->established_ns = bpf_ktime_get_ns();
	flow->socket_address = place.socket_address;
	flow->family = key.local_address[2] == MAPPED_PREFIX && !key.local_address[0] &&
				       !key.local_address[1]
			       ? 4
			       : 6;
	flow->rule_port = port;
	flow->written_sequence = key.sent_sequence;
	flow->budget_limit = set->budget_bytes;
	flow->message_limit = set->budget_messages / 2;
#if !KERNEL_VIEW
	/* A send that waits for the connection goes past the program, which could not see it. */
	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		flow->steer = STEER_PASS;
		flow->reason = PASS_QUEUES_NOT_VISIBLE;
	}
#endif

	if (ends.insert(&key, &place)) {
		count_event(EVENT_LEFT_OUT_KEY_EXISTS);
		goto give_back;
	}
	arrivals.update(&place.cookie, &arrival);
	/* From here on the close has to be seen, to give the record back. */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	flow->cookie = place.cookie;
	/* Last: from here on the peer may redirect to this end. */
	err = sockets.sock_hash_update(ctx, &key, BPF_NOEXIST);
	if (err) {
		flow->cookie = 0;
		ends.delete(&key);
		arrivals.delete(&place.cookie);
		count_event(err == -17 ? EVENT_LEFT_OUT_KEY_EXISTS : EVENT_LEFT_OUT_MAP_ERROR);
		goto give_back;
	}
	count_event(EVENT_ENDS_ENROLLED);
	return;

give_back:
	state = socket_states.sk_storage_get(sk, 0, 0);
	if (state)
		state->cookie = 0;
	free_flows.push(&index, 0);
}

static __always_inline void leave(struct bpf_sock_ops *ctx)
{
	struct socket_state *state;
	struct totals *sums;
	struct bpf_sock *sk;
	struct flow *flow;
	struct end_key key;
	__u32 index, zero = 0;
	int i;

	sk = ctx->sk;
	if (!sk)
		return;
	state = socket_states.sk_storage_get(sk, 0, 0);
	if (!state || !state->cookie)
		return;
#if GATEWAY
	if (state->gateway) {
		forget_gateway_end(state);
		return;
	}
#endif
	index = state->flow_index;
	flow = flows.lookup(&index);
	sums = totals.lookup(&zero);
	if (!flow || !sums || flow->cookie != state->cookie)
		return;
	arrivals.delete(&state->cookie);
	state->cookie = 0;
	key = flow->key;
	ends.delete(&key);

	__sync_fetch_and_add(&sums->closing, 1);
	__sync_fetch_and_add(&sums->redirected_bytes, flow->redirected_bytes);
	__sync_fetch_and_add(&sums->redirected_messages, flow->redirected_messages);
	__sync_fetch_and_add(&sums->passed_bytes, flow->passed_bytes);
	__sync_fetch_and_add(&sums->passed_messages, flow->passed_messages);
#pragma unroll
	for (i = 0; i < PASS_REASONS; i++)
		__sync_fetch_and_add(&sums->passed_by_reason[i], flow->passed_by_reason[i]);
	__sync_fetch_and_add(&sums->events[EVENT_ENDS_CLOSED], 1);
	flow->cookie = 0;
	__sync_fetch_and_add(&sums->closed, 1);
	free_flows.push(&index, 0);
}

int sockops_establish(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		establish(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE_STATE)
			leave(ctx);
		break;
	}
	return 1;
}

/* True while a rule covers the connection: that by which it was entered, or another one. */
static __always_inline int rule_holds(struct flow *flow)
{
	__u32 port = flow->rule_port & 0xffff;
	__u32 *action = tcp_rules.lookup(&port);

	if (action && *action == (flow->by_gateway ? ACTION_GATEWAY : ACTION_ACCELERATE))
		return 1;
	if (flow->by_gateway)
		return 0;
	port = enrolled_port(&flow->key);
	if (!port)
		return 0;
	flow->rule_port = port;
	return 1;
}

/* sk_msg: steer ------------------------------------------------------------------------------ */

/* Find the other end once, and note where its socket and its record are. */
static __always_inline int find_peer(struct flow *flow)
{
	struct end_key key = flow->peer_key;
	struct end_place *place;

	if (flow->peer_cookie)
		return 0;
#if GATEWAY
	if (flow->by_gateway && see_through(flow, &key))
		return -1;
#endif
	place = ends.lookup(&key);
	if (!place)
		return -1;
	flow->peer_key = key;
	flow->peer_address = place->socket_address;
	flow->peer_index = place->flow_index;
	flow->peer_cookie = place->cookie;
	return 0;
}

#if KERNEL_VIEW
#include "tcp_queues.bpf.h"

/*
 * True when an upper protocol was put on one of the two sockets since they were entered. With
 * kTLS a redirect would hand plain text to a reader of records, or records to a reader of text.
 */
static __always_inline int upper_protocol(const struct flow *flow)
{
#if OFFSET_ULP_OPS != OFFSET_UNKNOWN
	__u64 ours = 0, theirs = 0;

	return READ_KERNEL(ours, flow->socket_address + OFFSET_ULP_OPS) || ours ||
	       READ_KERNEL(theirs, flow->peer_address + OFFSET_ULP_OPS) || theirs;
#else
	return 0;
#endif
}
#endif

#if PROGRAM_RENEWAL
/*
 * Look at the receiver's queue and set new limits. The kernel counts the bytes that are queued,
 * not the messages; but where fewer bytes are queued than were sent since the checkpoint, all
 * messages up to the checkpoint were read. Half of the messages of a budget may be sent from one
 * checkpoint to the next.
 */
static __always_inline int renew_budget(struct flow *flow, const struct settings *set, __u64 size,
					int messages_spent)
{
	__u64 sent = flow->redirected_bytes;
	struct queue_view view = {};

	if (look_at_peer(flow, &view))
		return 0;
	flow->queued_bytes = view.queued_bytes;
	if (view.queued_bytes >= set->budget_bytes)
		return 0;
	if (messages_spent) {
		if (view.queued_bytes > sent - flow->checkpoint_bytes)
			return 0;
		flow->checkpoint_bytes = sent;
		flow->program_message_limit =
			flow->redirected_messages + set->budget_messages / 2 + 1;
	}
	flow->program_limit = sent + set->budget_bytes - view.queued_bytes;
	/* One message may be larger than the budget: a queue that is short takes it. */
	if (flow->program_limit < sent + size)
		flow->program_limit = sent + size;
	count_event(EVENT_BUDGET_RENEWED);
	return 1;
}
#endif

/*
 * True when the budget allows one more message of `size` bytes. It is renewed here where the
 * program can see the receiver's queue; else user space is asked when half of it is spent.
 */
static __always_inline int within_budget(struct flow *flow, const struct settings *set, __u64 size,
					 __u32 index)
{
	__u64 bytes = flow->redirected_bytes + size, messages = flow->redirected_messages + 1;
	int bytes_spent, messages_spent;

#if WAKE
	if ((bytes + set->budget_bytes / 2 > flow->budget_limit ||
	     messages + set->budget_messages / 4 > flow->message_limit) &&
	    flow->asked_limit != flow->budget_limit + flow->message_limit) {
		flow->asked_limit = flow->budget_limit + flow->message_limit;
		wake.ringbuf_output(&index, sizeof(index), 0);
	}
#endif
	bytes_spent = bytes > flow->budget_limit && bytes > flow->program_limit;
	messages_spent = messages > flow->message_limit && messages > flow->program_message_limit;
	if (!bytes_spent && !messages_spent)
		return 1;
#if PROGRAM_RENEWAL
	return renew_budget(flow, set, size, messages_spent);
#else
	return 0;
#endif
}

/* True when the flow is a sustained one-way stream of small writes, and has been for long. */
static __always_inline int small_writes(struct flow *flow, const struct settings *set, __u64 size,
					__u64 now)
{
	struct flow *peer;
	__u64 peer_messages = 0, elapsed;
	__u32 index;
	int small, fast;

	if (!set->guard_rate)
		return 0;
	flow->window_messages++;
	flow->window_bytes += size;
	elapsed = now - flow->window_start_ns;
	fast = elapsed < SECOND_NS && elapsed * set->guard_rate < GUARD_WINDOW * SECOND_NS;
	/* A window ends when it is full, or too slow to be: a stream that rested is none. */
	if (fast && flow->window_messages < GUARD_WINDOW)
		return flow->small_since_ns && now - flow->small_since_ns > set->guard_ns;

	index = flow->peer_index;
	peer = flows.lookup(&index);
	if (peer)
		peer_messages = peer->redirected_messages + peer->passed_messages;
	small = fast && flow->window_bytes < set->guard_size * GUARD_WINDOW &&
		peer_messages == flow->window_peer_messages;
	if (!small)
		flow->small_since_ns = 0;
	else if (!flow->small_since_ns)
		flow->small_since_ns = flow->window_start_ns;
	flow->window_start_ns = now;
	flow->window_messages = 0;
	flow->window_bytes = 0;
	flow->window_peer_messages = peer_messages;
	return flow->small_since_ns && now - flow->small_since_ns > set->guard_ns;
}

/*
 * Return why the message must not be redirected for what its two ends do: a reason of enum
 * pass_reason, or 0. What they were seen to do stays; an option counts while it is set.
 */
static __always_inline __u32 unfit_ends(struct flow *flow, const struct settings *set)
{
	__u32 index = flow->peer_index;
	struct flow *peer = flows.lookup(&index);

	if (peer && peer->cookie == flow->peer_cookie) {
		/*
		 * Passed at once, with redirected bytes unread: where those of TCP come first,
		 * skb_pass is attached, and brings passed bytes behind the redirected ones.
		 */
		if (peer->unfit == UNFIT_SPLICE)
			return PASS_SPLICE;
		if (peer->unfit == UNFIT_WAITALL)
			return PASS_WAITALL;
#if KERNEL_VIEW
		if (set->find_unfit && has_low_water_mark(flow->peer_address))
			peer->option = UNFIT_LOW_WATER_MARK;
#endif
	}
#if KERNEL_VIEW
	if (set->find_unfit && awaits_completions(flow->socket_address)) {
		flow->option = UNFIT_ZEROCOPY;
		return PASS_ZEROCOPY;
	}
#endif
	return 0;
}

static __always_inline int pass(struct flow *flow, enum pass_reason reason, __u64 size)
{
	flow->steer = STEER_PASS;
	flow->reason = reason;
	flow->passed_bytes += size;
	flow->passed_messages++;
	flow->written_sequence += size;
	flow->passed_by_reason[reason]++;
	return SK_PASS;
}

/* Count a message of a socket that has no record (any more). */
static __always_inline int pass_unknown(__u64 size)
{
	__u32 zero = 0;
	struct totals *sums = totals.lookup(&zero);

	if (sums) {
		__sync_fetch_and_add(&sums->passed_bytes, size);
		__sync_fetch_and_add(&sums->passed_messages, 1);
		__sync_fetch_and_add(&sums->passed_by_reason[PASS_UNKNOWN_SOCKET], 1);
	}
	return SK_PASS;
}

#if CAPTURE
#include "tcp_capture.bpf.h"
#endif

int msg_steer(struct sk_msg_md *msg)
{
	struct socket_state *state;
	struct settings *set;
	struct bpf_sock *sk;
	struct flow *flow;
	__u64 size = msg->size, now;
	__u32 index, unfit, zero = 0;
	int small, passed;
#if KERNEL_VIEW
	int same;
#endif

	set = settings.lookup(&zero);
	sk = msg->sk;
	if (!set || !sk)
		return pass_unknown(size);
	state = socket_states.sk_storage_get(sk, 0, 0);
	if (!state || !state->cookie)
		return pass_unknown(size);
	index = state->flow_index;
	flow = flows.lookup(&index);
	if (!flow || flow->cookie != state->cookie)
		return pass_unknown(size);

	now = bpf_ktime_get_ns();
	flow->last_send_ns = now;
	flow->pid = bpf_get_current_pid_tgid() >> 32;
#if KERNEL_VIEW
	same = settle(flow);
#endif

	if (!set->active)
		return pass(flow, PASS_INACTIVE, size);
	/* What is sent after shutdown(2) is TCP's to refuse. */
	if (sk->state != TCP_ESTABLISHED_STATE && sk->state != TCP_CLOSE_WAIT_STATE)
		return pass(flow, PASS_CLOSING, size);
	if (!rule_holds(flow))
		return pass(flow, PASS_WITHDRAWN, size);
	if (find_peer(flow)) {
		if (flow->by_gateway && !flow->near_cookie)
			return pass(flow, PASS_NOT_PAIRED, size);
		if (is_left_out(&flow->peer_key))
			return pass(flow, PASS_EXCLUDED, size);
		return pass(flow, PASS_NO_PEER, size);
	}
#if KERNEL_VIEW
	if (upper_protocol(flow))
		return pass(flow, PASS_UPPER_PROTOCOL, size);
#endif
	unfit = unfit_ends(flow, set);
	if (unfit == PASS_SPLICE)
		return pass(flow, PASS_SPLICE, size);
	if (unfit == PASS_WAITALL)
		return pass(flow, PASS_WAITALL, size);
	if (unfit == PASS_ZEROCOPY)
		return pass(flow, PASS_ZEROCOPY, size);
	small = small_writes(flow, set, size, now);

	passed = flow->steer == STEER_PASS;
	if (small) {
		if (!passed)
			count_event(EVENT_GUARD_TRIPPED);
		return pass(flow, PASS_SMALL_WRITES, size);
	}
	if (passed && now < flow->pause_until_ns)
		return pass(flow, PASS_PAUSE, size);
#if KERNEL_VIEW
	/* The first message has to prove it too: data may have come with the handshake. */
	if ((passed || !same || !flow->redirected_messages) && !tcp_is_empty(flow))
		return pass(flow, PASS_QUEUES_NOT_EMPTY, size);
	if (passed) {
		flow->steer = STEER_REDIRECT;
		flow->returns++;
		count_event(EVENT_RETURNED);
	}
#else
	if (passed)
		return pass(flow, PASS_QUEUES_NOT_VISIBLE, size);
#endif

	if (!within_budget(flow, set, size, index)) {
		count_event(EVENT_BUDGET_SPENT);
		if (now - flow->pause_until_ns > set->pause_max_ns || !flow->pause_ns)
			flow->pause_ns = set->pause_ns;
		else
			flow->pause_ns *= 2;
		if (flow->pause_ns > set->pause_max_ns)
			flow->pause_ns = set->pause_max_ns;
		flow->pause_until_ns = now + flow->pause_ns;
		return pass(flow, PASS_BUDGET, size);
	}

	/* SK_PASS here means that the peer was found, and that the message goes to it. */
	if (sockets.msg_redirect_hash(msg, &flow->peer_key, BPF_F_INGRESS) != SK_PASS)
		return pass(flow, PASS_NO_PEER, size);
	flow->redirected_bytes += size;
	flow->redirected_messages++;
#if CAPTURE
	if (set->capture_ring)
		count_event(copy_message(msg, flow, set->capture_ring - 1, size)
				    ? EVENT_NOT_CAPTURED
				    : EVENT_CAPTURED);
#endif
	return SK_PASS;
}

/* sk_skb: pass ------------------------------------------------------------------------------- */

/*
 * On kernels whose FIONREAD forgets data that came by TCP, a verdict program that passes makes
 * the kernel count it again. But with a verdict program the kernel hands on whole segments
 * (tcp_read_skb), where plain TCP leaves out what a repeated segment has in common with the one
 * before. So that is done here. The sequence number of a segment is the first word of its control
 * block (struct tcp_skb_cb, include/net/tcp.h); the conformance check sees that it is there.
 */
int skb_pass(struct __sk_buff *skb)
{
	__u32 sequence = skb->cb[0], length = skb->len, overlap;
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct arrival *arrival = arrivals.lookup(&cookie);

	if (!arrival)
		return SK_PASS;
	overlap = arrival->next_sequence - sequence;
	arrival->next_sequence = sequence + length;
	if (!arrival->started)
		arrival->started = 1;
	else if (overlap)
		count_event(overlap < length && !cut_front(skb, overlap) ? EVENT_OVERLAP_TRIMMED
									 : EVENT_OVERLAP_KEPT);
	return SK_PASS;
}
