/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the TCP path does for a proxy of ours (a gateway): the two far ends of a connection that
 * goes through it are brought together, so that what one sends goes into the other's queue.
 *
 *   far end --- near | gateway | beyond --- peer
 *
 * The gateway's own two sockets are noted, never entered into the sockhash. They are known by the
 * port that it listens on and by the cookie of the socket with which it connects; the far ends by
 * being the true peers of those, sequence numbers and all. User space says which two belong
 * together. Part of tcp_path.bpf.c.
 */
#ifndef IPC_BYPASS_TCP_GATEWAY_H
#define IPC_BYPASS_TCP_GATEWAY_H

/*
 * Note a socket of the gateway. Those of ports with ACTION_NOTE are noted for what sequence
 * numbers they began with; their far ends stay as they are.
 */
static __always_inline void note_gateway_end(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					     const struct end_key *key, __u32 port)
{
	struct gateway_end end = {};
	struct socket_state *state;
	struct end_key own = *key;

	end.cookie = bpf_get_socket_cookie(ctx);
	end.socket_address = (__u64)sk;
	end.port = port;
	state = socket_states.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state || gateway_ends.insert(&own, &end)) {
		count_event(EVENT_GATEWAY_TABLE_FULL);
		return;
	}
	if (gateway_keys.insert(&end.cookie, &own)) {
		gateway_ends.delete(&own);
		count_event(EVENT_GATEWAY_TABLE_FULL);
		return;
	}
	state->cookie = end.cookie;
	state->gateway = 1;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	count_event(EVENT_GATEWAY_ENDS);
}

/* Forget a socket of the gateway that closes. */
static __always_inline void forget_gateway_end(struct socket_state *state)
{
	__u64 cookie = state->cookie;
	struct end_key *found = gateway_keys.lookup(&cookie), key;

	state->cookie = 0;
	gateway_sockets.delete(&cookie);
	if (!found)
		return;
	key = *found;
	gateway_ends.delete(&key);
	gateway_keys.delete(&cookie);
}

/*
 * Return the port that the gateway listens on for a connection whose other end is the gateway's,
 * or 0. An end that is the gateway's own is noted.
 */
static __always_inline __u32 beyond_gateway(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					    const struct end_key *key)
{
	int active = ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB;
	__u32 port = (active ? key->remote_port : key->local_port) & 0xffff;
	__u32 *action = tcp_rules.lookup(&port);
	__u64 cookie = bpf_get_socket_cookie(ctx), *connecting;
	struct gateway_end *near;
	struct end_key mirrored;

	if (active) {
		connecting = gateway_sockets.lookup(&cookie);
		if (connecting) {
			/* Also one that is not noted is the gateway's, and stays as it is. */
			if (*connecting)
				note_gateway_end(ctx, sk, key, *connecting);
			else
				gateway_sockets.delete(&cookie);
			return 0;
		}
		return action && *action == ACTION_GATEWAY ? port : 0;
	}
	if (action && (*action == ACTION_GATEWAY || *action == ACTION_NOTE)) {
		note_gateway_end(ctx, sk, key, port);
		return 0;
	}
	mirror_key(key, &mirrored);
	near = gateway_ends.lookup(&mirrored);
	if (!near)
		return 0;
	port = near->port & 0xffff;
	action = tcp_rules.lookup(&port);
	return action && *action == ACTION_GATEWAY ? port : 0;
}

/*
 * Find who is behind the gateway: `key`, that of the gateway's near end, becomes that of the peer.
 * Return 0 when the gateway has paired its ends.
 */
static __always_inline int see_through(struct flow *flow, struct end_key *key)
{
	struct gateway_end *near = gateway_ends.lookup(key), *beyond;
	struct end_key other;

	if (!near || !near->paired)
		return -1;
	other = near->other_key;
	beyond = gateway_ends.lookup(&other);
	if (!beyond)
		return -1;
	flow->near_base = key->received_sequence;
	flow->near_address = near->socket_address;
	flow->beyond_address = beyond->socket_address;
	flow->beyond_cookie = beyond->cookie;
	flow->beyond_base = other.sent_sequence + beyond->own_bytes;
	flow->near_cookie = near->cookie;
	mirror_key(&other, key);
	return 0;
}

/*
 * True when something of this direction is still on its way through the gateway, or may be. Else
 * all that this end wrote was read by the gateway and written to its other socket, up to
 * `written`, a sequence number of that connection. Nothing changes that while this end is locked:
 * where the gateway has nothing to read, it has nothing to write.
 */
static __always_inline int gateway_holds(const struct flow *flow, __u32 *written)
{
	__u64 cookies[4] = {};
	__u32 copied, received, sent;

	if (READ_KERNEL(cookies[0], flow->near_address + OFFSET_COOKIE) ||
	    READ_KERNEL(copied, flow->near_address + OFFSET_COPIED_SEQ) ||
	    READ_KERNEL(received, flow->near_address + OFFSET_RCV_NXT) ||
	    READ_KERNEL(cookies[1], flow->near_address + OFFSET_COOKIE) ||
	    READ_KERNEL(cookies[2], flow->beyond_address + OFFSET_COOKIE) ||
	    READ_KERNEL(sent, flow->beyond_address + OFFSET_WRITE_SEQ) ||
	    READ_KERNEL(cookies[3], flow->beyond_address + OFFSET_COOKIE))
		return 1;
	if (cookies[0] != flow->near_cookie || cookies[1] != flow->near_cookie ||
	    cookies[2] != flow->beyond_cookie || cookies[3] != flow->beyond_cookie) {
		count_event(EVENT_PEER_REUSED);
		return 1;
	}
	if (copied != *written || received != *written ||
	    copied - flow->near_base != sent - flow->beyond_base)
		return 1;
	*written = sent;
	return 0;
}

#endif
