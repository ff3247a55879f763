/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three small bodies of slots, each with one look-up in a hash of its own: what a packet costs
 * beside them is the array's. xdp_slot.bpf.h comes first.
 */
BPF_HASH(denied_ports, __u16, __u64, 256);
BPF_HASH(denied_sources, __u32, __u64, 256);
BPF_HASH(denied_services, __u32, __u64, 256);

static __always_inline int port_body(struct xdp_md *ctx, struct xdp_facts *facts)
{
	__u16 port = facts->destination_port;

	return denied_ports.lookup(&port) ? XDP_DROP : XDP_CONTINUE;
}

static __always_inline int source_body(struct xdp_md *ctx, struct xdp_facts *facts)
{
	__u32 words[4];

	if (source_address(ctx, facts, words))
		return XDP_CONTINUE;
	return denied_sources.lookup(&words[3]) ? XDP_DROP : XDP_CONTINUE;
}

static __always_inline int service_body(struct xdp_md *ctx, struct xdp_facts *facts)
{
	__u32 service = facts->protocol << 16 | facts->source_port;

	return denied_services.lookup(&service) ? XDP_DROP : XDP_CONTINUE;
}
