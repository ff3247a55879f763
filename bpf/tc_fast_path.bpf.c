// SPDX-License-Identifier: Apache-2.0
/*
 * The container fast path: at the ingress of a bridge's ports, frames of enrolled flows to a
 * container of the same bridge are handed to its interface at once, by bpf_redirect_peer.
 *
 * What keeps frames from a wrong place:
 *  - both the MAC and the address have to be those that user space read inside the container's
 *    own namespace, and no other port of the bridge may have that MAC;
 *  - a source MAC that is seen at another port than the tables say ends its entry, here, before
 *    the bridge learns the same;
 *  - user space ends entries when the kernel tells of a change, and says all the while that it
 *    is there; without that, everything goes by the bridge after `fresh_until_ns`;
 *  - what the bridge would have to decide about (tags, groups, hairpin, what is too big) is left
 *    to the bridge, under a reason.
 *
 * Compiled by BCC. Definitions from the loader:
 *   PORTS  ports of bridges, one more than can be in use
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>
#include "tc_fast_path.h"

#define ETHERNET_IPV4	0x0800
#define ETHERNET_IPV6	0x86dd
#define ETHERNET_HEADER 14
#define PROTOCOL_TCP	6
#define PROTOCOL_UDP	17
#define FRAGMENT_HEADER 44
#define TO_THIS_HOST	0	   /* PACKET_HOST of linux/if_packet.h */
#define MAPPED_PREFIX	0xffff0000 /* ::ffff:0:0 as the third word, in network byte order */

BPF_F_TABLE("array", __u32, struct fast_settings, fast_settings, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct fast_state, fast_states, PORTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u32, fast_ports, 65536, BPF_F_MMAPABLE);
BPF_TABLE("hash", __u32, struct fast_port, bridge_ports, PORTS);
BPF_TABLE("hash", struct fast_station_key, struct fast_station, stations, PORTS);
BPF_TABLE("percpu_array", __u32, struct fast_totals, fast_totals, PORTS);

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
};

struct ipv4 {
	__u8 version_length;
	__u8 service;
	__be16 total;
	__be16 identification;
	__be16 fragment;
	__u8 lifetime;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct ipv6 {
	__be32 version;
	__be16 payload;
	__u8 next;
	__u8 hops;
	__u32 source[4];
	__u32 destination[4];
};

struct transport {
	__be16 source;
	__be16 destination;
};

static __always_inline int same_mac(const __u8 *one, const __u8 *other)
{
	return *(__u32 *)one == *(__u32 *)other && *(__u16 *)(one + 4) == *(__u16 *)(other + 4);
}

/* True while a port's entries are those that user space let in, and nothing spoke against them. */
static __always_inline int in_use(__u32 number, __u32 generation)
{
	struct fast_state *state = fast_states.lookup(&number);

	return state && state->activated == generation && state->moved != generation;
}

/* Look at where a frame came from; end the entry of a MAC that belongs elsewhere. */
static __always_inline __u32 look_at_source(struct __sk_buff *ctx, const struct ethernet *frame,
					    const struct fast_port *port,
					    struct fast_totals *totals)
{
	struct fast_station_key key = {.bridge = port->bridge};
	struct fast_station *station;
	struct fast_state *state;
	__u32 number;

	if (port->flags & FAST_PORT_CONTAINER && same_mac(frame->source, port->mac))
		return in_use(port->number, port->generation) ? FAST_PASS_NONE : FAST_PASS_SOURCE;
	__builtin_memcpy(key.mac, frame->source, sizeof(key.mac));
	station = stations.lookup(&key);
	if (!station || station->ifindex == ctx->ifindex)
		return FAST_PASS_SOURCE;
	number = station->number;
	state = fast_states.lookup(&number);
	if (state && state->moved != station->generation) {
		state->moved = station->generation;
		totals->moves++;
	}
	return FAST_PASS_MOVED;
}

/* Look whether a flow is enrolled; `ports` stand behind the IP header. */
static __always_inline int enrolled(__u8 protocol, const struct transport *ports)
{
	__u32 source = bpf_ntohs(ports->source), destination = bpf_ntohs(ports->destination);
	__u32 *to = fast_ports.lookup(&destination), *from;

	if (protocol == PROTOCOL_UDP)
		return to && *to & FAST_UDP;
	if (protocol != PROTOCOL_TCP)
		return 0;
	if (to && *to & FAST_TCP)
		return 1;
	from = fast_ports.lookup(&source);
	return from && *from & FAST_TCP;
}

/* Return why a frame is not to be handed over; else its destination's address is filled in. */
static __always_inline __u32 look_at_headers(struct __sk_buff *ctx, const struct ethernet *frame,
					     void *end, __u32 *address)
{
	if (frame->type == bpf_htons(ETHERNET_IPV4)) {
		struct ipv4 *header = (void *)(frame + 1);
		struct transport *ports = (void *)(header + 1);

		if ((void *)(header + 1) > end)
			return FAST_PASS_HEADERS;
		if (header->protocol != PROTOCOL_UDP && header->protocol != PROTOCOL_TCP)
			return FAST_PASS_NOT_ENROLLED;
		if (header->fragment & bpf_htons(0x3fff))
			return FAST_PASS_FRAGMENT;
		if (header->version_length != 0x45)
			return FAST_PASS_OPTIONS;
		if ((void *)(ports + 1) > end)
			return FAST_PASS_HEADERS;
		if (!enrolled(header->protocol, ports))
			return FAST_PASS_NOT_ENROLLED;
		address[2] = MAPPED_PREFIX;
		address[3] = header->destination;
	} else if (frame->type == bpf_htons(ETHERNET_IPV6)) {
		struct ipv6 *header = (void *)(frame + 1);
		struct transport *ports = (void *)(header + 1);

		if ((void *)(header + 1) > end)
			return FAST_PASS_HEADERS;
		if (header->next == FRAGMENT_HEADER)
			return FAST_PASS_FRAGMENT;
		if (header->next == 0 || header->next == 43 || header->next == 60)
			return FAST_PASS_OPTIONS;
		if (header->next != PROTOCOL_UDP && header->next != PROTOCOL_TCP)
			return FAST_PASS_NOT_ENROLLED;
		if ((void *)(ports + 1) > end)
			return FAST_PASS_HEADERS;
		if (!enrolled(header->next, ports))
			return FAST_PASS_NOT_ENROLLED;
		__builtin_memcpy(address, header->destination, sizeof(header->destination));
	} else {
		return FAST_PASS_NOT_ENROLLED;
	}
	return FAST_PASS_NONE;
}

/* Return why a frame cannot go to its destination at once; else `target` is where to. */
static __always_inline __u32 look_at_target(struct __sk_buff *ctx, const struct ethernet *frame,
					    const struct fast_port *port, const __u32 *address,
					    __u32 *target)
{
	struct fast_station_key key = {.bridge = port->bridge};
	struct fast_station *station;
	__u32 i;

	__builtin_memcpy(key.mac, frame->destination, sizeof(key.mac));
	station = stations.lookup(&key);
	if (!station || !in_use(station->number, station->generation))
		return FAST_PASS_NO_ENTRY;
	if (station->ifindex == ctx->ifindex)
		return FAST_PASS_SAME_PORT;
	/* Segments that are still in one buffer are no matter for the bridge either. */
	if (!ctx->gso_size && ctx->len > station->mtu + ETHERNET_HEADER)
		return FAST_PASS_TOO_BIG;
	*target = station->ifindex;
#pragma unroll
	for (i = 0; i < FAST_ADDRESSES; i++) {
		if (i >= station->addresses)
			return FAST_PASS_ADDRESS;
		if (station->address[i][3] == address[3] && station->address[i][2] == address[2] &&
		    station->address[i][1] == address[1] && station->address[i][0] == address[0])
			return FAST_PASS_NONE;
	}
	return FAST_PASS_ADDRESS;
}

static __always_inline __u32 is_active(void)
{
	__u32 first = 0;
	struct fast_settings *settings = fast_settings.lookup(&first);

	if (!settings || !settings->active)
		return FAST_PASS_INACTIVE;
	return bpf_ktime_get_ns() < settings->fresh_until_ns ? FAST_PASS_NONE : FAST_PASS_STALE;
}

static __always_inline __u32 look(struct __sk_buff *ctx, const struct fast_port *port,
				  struct fast_totals *totals, __u32 *target)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *frame = (void *)(long)ctx->data;
	__u32 address[4] = {}, reason;

	if ((void *)(frame + 1) > end)
		return FAST_PASS_HEADERS;
	/* Of every frame, whatever it carries. */
	reason = look_at_source(ctx, frame, port, totals);
	if (reason)
		return reason;
	if (ctx->vlan_present)
		return FAST_PASS_VLAN;
	if (frame->destination[0] & 1)
		return FAST_PASS_MULTICAST;
	reason = look_at_headers(ctx, frame, end, address);
	if (reason)
		return reason;
	reason = is_active();
	return reason ? reason : look_at_target(ctx, frame, port, address, target);
}

int tc_fast_path(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex, number = 0, target = 0, reason = FAST_PASS_UNKNOWN_PORT;
	struct fast_port *port = bridge_ports.lookup(&ifindex);
	struct fast_totals *totals;

	if (port)
		number = port->number;
	totals = fast_totals.lookup(&number);
	if (!totals)
		return TC_ACT_UNSPEC;
	if (port)
		reason = look(ctx, port, totals, &target);
	/*
	 * For the port that it came by, the frame is another host's: where the kernel does not
	 * forget that on the way to the container (old ones do not), the stack there drops it.
	 */
	if (!reason && ctx->pkt_type != TO_THIS_HOST && bpf_skb_change_type(ctx, TO_THIS_HOST))
		reason = FAST_PASS_HEADERS;
	if (!reason) {
		totals->packets++;
		totals->bytes += ctx->len;
		return bpf_redirect_peer(target, 0);
	}
	asm volatile("%0 &= 15" : "+r"(reason));
	totals->passed[reason]++;
	/* The next program, if there is one, and then the bridge. */
	return TC_ACT_UNSPEC;
}
