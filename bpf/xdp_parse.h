/* SPDX-License-Identifier: Apache-2.0 */
/* Read a frame's headers once: struct xdp_facts, and the addresses. No map is used here. */
#ifndef IPC_BYPASS_XDP_PARSE_H
#define IPC_BYPASS_XDP_PARSE_H

/* VLAN tags that are read, extension headers that are walked. */
#define XDP_MOST_TAGS	    2
#define XDP_MOST_EXTENSIONS 6

/* Bits of the fragment field, host order (net/ip.h, RFC 8200 section 4.5). */
#define XDP_IP_DF      0x4000
#define XDP_IP_MORE    0x2000
#define XDP_IP_OFFSET  0x1fff
#define XDP_IP6_OFFSET 0xfff8

struct xdp_vlan_tag {
	__be16 identifier;
	__be16 ethertype;
};

struct xdp_ip6_extension {
	__u8 next_header;
	__u8 length;
	__be16 fragment;
};

/*
 * The verifier takes a packet's offset only when it is small: keep it as a number of its own. No
 * header is read that begins behind XDP_FURTHEST, bytes from the start of the frame.
 */
#define XDP_FURTHEST	  0x3ff
#define XDP_SMALL(number) asm volatile("%0 &= 0x3ff" : "+r"(number))

/* What stands behind `limit`, bytes from the start of the frame, is padding and no header. */
static __always_inline void xdp_parse_ports(void *start, void *end, __u32 limit,
					    struct xdp_facts *facts)
{
	__u64 offset = facts->l4_offset;
	__u32 header, whole;
	__be16 *ports;

	if (facts->protocol != IPPROTO_UDP && facts->protocol != IPPROTO_TCP)
		return;
	XDP_SMALL(offset);
	ports = start + offset;
	/* One pointer, not several of the same value: the verifier checks each for itself. */
	asm volatile("" : "+r"(ports));
	if (facts->protocol == IPPROTO_UDP) {
		if ((void *)ports + sizeof(struct udphdr) > end)
			goto wrong;
		header = sizeof(struct udphdr);
		whole = bpf_ntohs(ports[2]);
		/* The first fragment has the length of all of them. */
		if (whole < header || (!(facts->flags & FACT_FRAGMENT) && offset + whole > limit))
			goto wrong;
	} else {
		if ((void *)ports + sizeof(struct tcphdr) > end)
			goto wrong;
		header = (((__u8 *)ports)[12] >> 4) * 4;
		if (header < sizeof(struct tcphdr))
			goto wrong;
	}
	if (offset + header > limit)
		goto wrong;
	facts->source_port = bpf_ntohs(ports[0]);
	facts->destination_port = bpf_ntohs(ports[1]);
	facts->payload_offset = offset + header;
	facts->flags |= FACT_PORTS;
	return;
wrong:
	facts->flags |= FACT_TRANSPORT_ERROR;
}

static __always_inline void xdp_parse_ip4(void *start, void *end, struct xdp_facts *facts)
{
	__u64 offset = facts->l3_offset;
	struct iphdr *header;
	__u32 length, fragment, total;

	XDP_SMALL(offset);
	header = start + offset;
	if ((void *)(header + 1) > end) {
		facts->flags |= FACT_IP_ERROR;
		return;
	}
	length = header->ihl * 4;
	total = bpf_ntohs(header->tot_len);
	fragment = bpf_ntohs(header->frag_off);
	if (header->version != 4 || length < sizeof(*header) || total < length ||
	    offset + total > facts->length) {
		facts->flags |= FACT_IP_ERROR;
		return;
	}
	facts->family = 4;
	facts->protocol = header->protocol;
	facts->l4_offset = offset + length;
	if (length > sizeof(*header))
		facts->flags |= FACT_OPTIONS;
	if (fragment & XDP_IP_DF)
		facts->flags |= FACT_DONT_FRAGMENT;
	if (fragment & (XDP_IP_MORE | XDP_IP_OFFSET)) {
		facts->flags |= FACT_FRAGMENT;
		if (fragment & XDP_IP_OFFSET)
			return;
		facts->flags |= FACT_FIRST_FRAGMENT;
	}
	xdp_parse_ports(start, end, offset + total, facts);
}

static __always_inline int xdp_is_extension(__u32 header)
{
	return header == IPPROTO_HOPOPTS || header == IPPROTO_ROUTING ||
	       header == IPPROTO_DSTOPTS || header == IPPROTO_FRAGMENT || header == IPPROTO_AH;
}

static __always_inline void xdp_parse_ip6(void *start, void *end, struct xdp_facts *facts)
{
	__u64 offset = facts->l3_offset;
	struct ipv6hdr *header;
	__u32 next, limit;

	XDP_SMALL(offset);
	header = start + offset;
	if ((void *)(header + 1) > end || header->version != 6)
		goto wrong;
	limit = offset + sizeof(*header) + bpf_ntohs(header->payload_len);
	next = header->nexthdr;
	/* A length of 0 before hop-by-hop options is a jumbogram's (RFC 2675). */
	if (!header->payload_len && next == IPPROTO_HOPOPTS)
		limit = facts->length;
	if (limit > facts->length)
		goto wrong;
	facts->flags |= FACT_DONT_FRAGMENT;
	offset += sizeof(*header);
#pragma unroll
	for (int walked = 0; walked < XDP_MOST_EXTENSIONS; walked++) {
		struct xdp_ip6_extension *extension;
		__u32 fragment, later = 0;

		if (!xdp_is_extension(next))
			break;
		facts->flags |= FACT_OPTIONS;
		XDP_SMALL(offset);
		extension = start + offset;
		if ((void *)(extension + 1) + 4 > end)
			goto wrong;
		if (next == IPPROTO_FRAGMENT) {
			fragment = bpf_ntohs(extension->fragment);
			next = extension->next_header;
			offset += 8;
			later = fragment & XDP_IP6_OFFSET;
			/* An atomic fragment (RFC 6946) is a whole packet. */
			if (later)
				facts->flags |= FACT_FRAGMENT;
			else if (fragment & 1)
				facts->flags |= FACT_FRAGMENT | FACT_FIRST_FRAGMENT;
		} else if (next == IPPROTO_AH) {
			next = extension->next_header;
			offset += (extension->length + 2) * 4;
		} else {
			next = extension->next_header;
			offset += (extension->length + 1) * 8;
		}
		if (offset > limit || offset > XDP_FURTHEST)
			goto wrong;
		if (later) {
			facts->family = 6;
			facts->protocol = next;
			facts->l4_offset = offset;
			return;
		}
	}
	/* More headers, or longer ones, than we walk: nobody may hide ports behind them. */
	if (xdp_is_extension(next))
		goto wrong;
	facts->family = 6;
	facts->protocol = next;
	facts->l4_offset = offset;
	xdp_parse_ports(start, end, limit, facts);
	return;
wrong:
	facts->flags |= FACT_IP_ERROR;
}

/* Fill `facts` from the headers of the frame. */
static __always_inline void xdp_parse(struct xdp_md *ctx, struct xdp_facts *facts)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = start;
	__u64 offset = sizeof(*ethernet);
	__be16 type;

	__builtin_memset(facts, 0, sizeof(*facts));
	facts->magic = XDP_FACTS_MAGIC;
#ifdef XDP_FRAGS
	facts->length = bpf_xdp_get_buff_len(ctx);
#else
	facts->length = end - start;
#endif
	if ((void *)(ethernet + 1) > end) {
		facts->flags |= FACT_FRAME_ERROR;
		return;
	}
	if (ethernet->h_dest[0] & 1)
		facts->flags |= FACT_MULTICAST;
	type = ethernet->h_proto;
#pragma unroll
	for (int walked = 0; walked < XDP_MOST_TAGS; walked++) {
		struct xdp_vlan_tag *tag = start + offset;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end) {
			facts->flags |= FACT_FRAME_ERROR;
			return;
		}
		if (!(facts->flags & FACT_VLAN))
			facts->vlan = bpf_ntohs(tag->identifier) & 0xfff;
		facts->flags |= FACT_VLAN;
		type = tag->ethertype;
		offset += sizeof(*tag);
	}
	facts->ethertype = bpf_ntohs(type);
	facts->l3_offset = offset;
	if (type == bpf_htons(ETH_P_IP))
		xdp_parse_ip4(start, end, facts);
	else if (type == bpf_htons(ETH_P_IPV6))
		xdp_parse_ip6(start, end, facts);
}

/* Write an address of the packet, IPv4 as ::ffff:a.b.c.d; 0 on success. */
static __always_inline int xdp_address(struct xdp_md *ctx, const struct xdp_facts *facts,
				       __u32 words[4], int destination)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 offset = facts->l3_offset;

	XDP_SMALL(offset);
	if (facts->family == 4) {
		struct iphdr *header = start + offset;

		if ((void *)(header + 1) > end)
			return -1;
		words[0] = words[1] = 0;
		words[2] = bpf_htonl(0xffff);
		words[3] = destination ? header->daddr : header->saddr;
		return 0;
	}
	if (facts->family == 6) {
		struct ipv6hdr *header = start + offset;
		__u32 *from;

		if ((void *)(header + 1) > end)
			return -1;
		from = destination ? header->daddr.in6_u.u6_addr32 : header->saddr.in6_u.u6_addr32;
		words[0] = from[0];
		words[1] = from[1];
		words[2] = from[2];
		words[3] = from[3];
		return 0;
	}
	return -1;
}

static __always_inline int source_address(struct xdp_md *ctx, const struct xdp_facts *facts,
					  __u32 words[4])
{
	return xdp_address(ctx, facts, words, 0);
}

static __always_inline int destination_address(struct xdp_md *ctx, const struct xdp_facts *facts,
					       __u32 words[4])
{
	return xdp_address(ctx, facts, words, 1);
}

#endif
