/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the headers of a datagram that leaves, IPv4 or IPv6. Part of udp_path.bpf.c. */
#ifndef IPC_BYPASS_UDP_HEADERS_BPF_H
#define IPC_BYPASS_UDP_HEADERS_BPF_H

#define PROTOCOL_UDP	  17
#define HOP_BY_HOP	  0
#define ROUTING		  43
#define FRAGMENT	  44
#define DESTINATION	  60
#define EXTENSION_HEADERS 8	     /* more than this are not followed */
#define MAPPED_PREFIX	  0xffff0000 /* ::ffff:0:0 as the third word, in network byte order */

/* What was read of a datagram's headers. */
struct datagram {
	__u32 source_address[4];
	__u32 destination_address[4];
	__u32 family;
	__u32 source_port;
	__u32 destination_port;
	__u32 payload_offset;
	__u32 length;
	__u32 reason; /* enum udp_pass_reason, where it is not to be captured at all */
};

struct udp_ports {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
};

/*
 * Read the ports and the length at `offset`. Return 0 where this is not a datagram to a port that
 * may be enrolled. Lengths are those of the UDP header, held against the packet's.
 */
static __always_inline int read_udp(struct __sk_buff *ctx, __u32 offset, struct datagram *found)
{
	struct udp_ports ports;
	__u32 length;

	if (bpf_skb_load_bytes(ctx, offset, &ports, sizeof(ports)))
		return 0;
	found->source_port = bpf_ntohs(ports.source);
	found->destination_port = bpf_ntohs(ports.destination);
	found->payload_offset = offset + sizeof(ports);
	length = bpf_ntohs(ports.length);
	if (ctx->gso_size)
		found->reason = UDP_PASS_SEGMENTED;
	else if (length == 0)
		found->reason = UDP_PASS_TOO_LARGE;
	else if (length < sizeof(ports) || offset + length > ctx->len)
		found->reason = UDP_PASS_HEADERS;
	/* For the count of bytes alone where there is a reason. */
	found->length = (found->reason ? ctx->len - offset : length) - sizeof(ports);
	return 1;
}

static __always_inline int read_ipv4(struct __sk_buff *ctx, struct datagram *found)
{
	struct {
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
	} header;

	if (bpf_skb_load_bytes(ctx, 0, &header, sizeof(header)) || header.protocol != PROTOCOL_UDP)
		return 0;
	if (header.fragment & bpf_htons(0x1fff))
		return 0; /* a later fragment has no ports: nobody can say what rule it obeys */
	found->family = 4;
	found->source_address[2] = MAPPED_PREFIX;
	found->source_address[3] = header.source;
	found->destination_address[2] = MAPPED_PREFIX;
	found->destination_address[3] = header.destination;
	if (!read_udp(ctx, (header.version_length & 0xf) * 4, found))
		return 0;
	if (header.fragment & bpf_htons(0x2000))
		found->reason = UDP_PASS_FRAGMENT;
	return 1;
}

static __always_inline int read_ipv6(struct __sk_buff *ctx, struct datagram *found)
{
	struct {
		__be32 version;
		__be16 payload;
		__u8 next;
		__u8 hops;
		__u32 source[4];
		__u32 destination[4];
	} header;
	__u32 offset = sizeof(header), reason = UDP_PASS_NONE;
	__u8 next, extension[4];
	int i;

	if (bpf_skb_load_bytes(ctx, 0, &header, sizeof(header)))
		return 0;
	next = header.next;
#pragma unroll
	for (i = 0; i < EXTENSION_HEADERS; i++) {
		if (next != HOP_BY_HOP && next != ROUTING && next != DESTINATION &&
		    next != FRAGMENT)
			break;
		if (bpf_skb_load_bytes(ctx, offset, extension, sizeof(extension)))
			return 0;
		if (next == FRAGMENT) {
			if (extension[2] || extension[3] & 0xf8)
				return 0;
			if (extension[3] & 1)
				reason = UDP_PASS_FRAGMENT;
			offset += 8;
		} else {
			/* What stands in the header is not the last destination. */
			if (next == ROUTING && extension[3])
				reason = UDP_PASS_HEADERS;
			offset += (extension[1] + 1) * 8;
		}
		next = extension[0];
	}
	if (next != PROTOCOL_UDP)
		return 0;
	found->family = 6;
	__builtin_memcpy(found->source_address, header.source, sizeof(header.source));
	__builtin_memcpy(found->destination_address, header.destination,
			 sizeof(header.destination));
	if (!read_udp(ctx, offset, found))
		return 0;
	if (reason)
		found->reason = reason;
	return 1;
}

#endif
