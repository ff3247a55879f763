// SPDX-License-Identifier: Apache-2.0
/*
 * Bypass: packets of enrolled flows leave the array here, with other MACs, straight to their next
 * hop. What the kernel would have to answer or to cut (TTL, MTU, fragments, options) is left to
 * it, as is everything while the next hop is not known.
 */
#include "xdp_slot.bpf.h"
#include "xdp_bypass.h"

BPF_F_TABLE("array", __u32, struct bypass_settings, bypass_settings, 1, BPF_F_MMAPABLE);
/* By destination port, which flows may be meant. */
BPF_F_TABLE("array", __u32, __u32, bypass_ports, 65536, BPF_F_MMAPABLE);
/*
 * A hash, since its entries change as a whole. What an entry replaces is used again by the next
 * one, so that user space waits for programs between the two.
 */
BPF_TABLE("hash", __u32, struct bypass_flow, bypass_flows, BYPASS_FLOWS);
BPF_PERCPU_ARRAY(bypass_totals, struct bypass_totals, 1);
BPF_PERCPU_ARRAY(bypass_flow_totals, struct bypass_flow_totals, BYPASS_FLOWS);

struct bypass_addresses {
	__u32 source[4];
	__u32 destination[4];
};

static __always_inline int bypass_within(const __u32 *address, const __u32 *prefix,
					 const __u32 *mask)
{
	return !(((address[0] ^ prefix[0]) & mask[0]) | ((address[1] ^ prefix[1]) & mask[1]) |
		 ((address[2] ^ prefix[2]) & mask[2]) | ((address[3] ^ prefix[3]) & mask[3]));
}

static __always_inline int bypass_matches(const struct xdp_facts *facts,
					  const struct bypass_addresses *addresses,
					  const struct bypass_flow *flow)
{
	return (!flow->protocol || flow->protocol == facts->protocol) &&
	       (!flow->family || flow->family == facts->family) &&
	       facts->source_port >= flow->source_first &&
	       facts->source_port <= flow->source_last &&
	       facts->destination_port >= flow->destination_first &&
	       facts->destination_port <= flow->destination_last &&
	       bypass_within(addresses->source, flow->source, flow->source_mask) &&
	       bypass_within(addresses->destination, flow->destination, flow->destination_mask);
}

static __always_inline int bypass_same_mac(const __u8 *one, const __u8 *other)
{
	return *(__u16 *)one == *(__u16 *)other && *(__u16 *)(one + 2) == *(__u16 *)(other + 2) &&
	       *(__u16 *)(one + 4) == *(__u16 *)(other + 4);
}

/* Return why a packet of a flow cannot leave here. */
static __always_inline __u32 bypass_obstacle(struct xdp_md *ctx, const struct xdp_facts *facts,
					     const struct bypass_flow *flow)
{
	struct ethhdr *frame = (void *)(long)ctx->data;
	struct bypass_settings *settings;
	__u32 first = 0;

	settings = bypass_settings.lookup(&first);
	if (!settings || !settings->active)
		return BYPASS_PASS_INACTIVE;
	if (bpf_ktime_get_ns() >= settings->fresh_until_ns)
		return BYPASS_PASS_STALE;
	if (facts->flags & FACT_FRAGMENT)
		return BYPASS_PASS_FRAGMENT;
	if (facts->flags & FACT_VLAN)
		return BYPASS_PASS_VLAN;
	if (facts->flags & FACT_OPTIONS)
		return BYPASS_PASS_OPTIONS;
	if (!(flow->flags & BYPASS_RESOLVED))
		return BYPASS_PASS_UNRESOLVED;
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return BYPASS_PASS_HEADERS;
	if (facts->flags & FACT_MULTICAST ||
	    (flow->flags & BYPASS_ROUTED && !bypass_same_mac(frame->h_dest, flow->arrival_mac)))
		return BYPASS_PASS_ADDRESSEE;
	if (facts->length - facts->l3_offset > flow->mtu)
		return BYPASS_PASS_TOO_BIG;
	return BYPASS_PASS_NONE;
}

/* Take one off the lifetime, and write the MACs. */
static __always_inline __u32 bypass_rewrite(struct xdp_md *ctx, const struct xdp_facts *facts,
					    const struct bypass_flow *flow)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *frame = (void *)(long)ctx->data;

	/* Without a tag, the IP header is where it always is. */
	if (facts->family == 4) {
		struct iphdr *header = (void *)(frame + 1);
		__u32 sum;

		if ((void *)(header + 1) > end)
			return BYPASS_PASS_HEADERS;
		if (flow->flags & BYPASS_ROUTED) {
			if (header->ttl <= 1)
				return BYPASS_PASS_LIFETIME;
			/* RFC 1624: what is taken off the TTL is added to the checksum. */
			sum = header->check + bpf_htons(0x0100);
			header->check = sum + (sum >= 0xffff);
			header->ttl--;
		}
	} else {
		struct ipv6hdr *header = (void *)(frame + 1);

		if ((void *)(header + 1) > end)
			return BYPASS_PASS_HEADERS;
		if (flow->flags & BYPASS_ROUTED) {
			if (header->hop_limit <= 1)
				return BYPASS_PASS_LIFETIME;
			header->hop_limit--;
		}
	}
	__builtin_memcpy(frame->h_dest, flow->next_mac, sizeof(frame->h_dest));
	__builtin_memcpy(frame->h_source, flow->source_mac, sizeof(frame->h_source));
	return BYPASS_PASS_NONE;
}

/* Return the number of the first flow that a packet is of, BYPASS_FLOWS for none. */
static __always_inline __u32 bypass_find(struct xdp_md *ctx, const struct xdp_facts *facts)
{
	struct bypass_addresses addresses;
	__u32 number, port = facts->destination_port, *asked = bypass_ports.lookup(&port), bits;
	struct bypass_flow *flow;

	if (!(facts->flags & FACT_PORTS) || !asked || !*asked)
		return BYPASS_FLOWS;
	bits = *asked;
	if (source_address(ctx, facts, addresses.source) ||
	    destination_address(ctx, facts, addresses.destination))
		return BYPASS_FLOWS;
#pragma unroll
	for (number = 0; number < BYPASS_FLOWS; number++) {
		__u32 key = number;

		if (!(bits & (1 << number)))
			continue;
		flow = bypass_flows.lookup(&key);
		if (flow && bypass_matches(facts, &addresses, flow))
			return number;
	}
	return BYPASS_FLOWS;
}

XDP_SLOT(xdp_bypass)
{
	__u32 first = 0, number = bypass_find(ctx, facts), reason = BYPASS_PASS_NOT_ENROLLED;
	struct bypass_totals *totals = bypass_totals.lookup(&first);
	struct bypass_flow_totals *of_flow;
	struct bypass_flow *flow;

	if (!totals)
		return XDP_CONTINUE;
	of_flow = bypass_flow_totals.lookup(&number);
	flow = bypass_flows.lookup(&number);
	if (of_flow && flow) {
		reason = bypass_obstacle(ctx, facts, flow);
		if (!reason)
			reason = bypass_rewrite(ctx, facts, flow);
		if (!reason) {
			totals->packets++;
			totals->bytes += facts->length;
			of_flow->packets++;
			of_flow->bytes += facts->length;
			return flow->ifindex ? bpf_redirect(flow->ifindex, 0) : XDP_TX;
		}
		of_flow->passed++;
	}
	asm volatile("%0 &= 15" : "+r"(reason));
	totals->passed[reason]++;
	return XDP_CONTINUE;
}
