/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turn a packet that is too big into the answer that says so: ICMP 3/4 (RFC 1191) or ICMPv6 type 2
 * (RFC 4443, 3.2), sent back by XDP_TX. The loader includes this file as text, for BCC rewrites
 * map calls in the main file only; the program declares filter_bucket.
 *
 * The answer's source is the address that the packet was sent to: XDP does not know those of this
 * host. Path MTU discovery takes it (RFC 1191, 6.3 and RFC 8201, 4 look at the packet quoted).
 */

#define ANSWER4_QUOTE  548  /* RFC 1812, 4.3.2.3: no answer is longer than 576 bytes */
#define ANSWER6_QUOTE  1232 /* RFC 4443, 2.4 (c): ... than 1,280 bytes */
#define ANSWER4_HEADER 28   /* IPv4 and ICMP */
#define ANSWER6_HEADER 48   /* IPv6 and ICMPv6 */
#define CONTROL	       0xc0 /* precedence of internetwork control, RFC 1812, 4.3.2.5 */
#define LONGEST_LINK   22   /* Ethernet with two tags */

/* Older kernels sum at most 512 bytes a call. */
#define SUM_BYTES 512

struct too_big4 {
	struct iphdr ip;
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 unused;
	__be16 mtu;
} __attribute__((packed));

struct too_big6 {
	struct ipv6hdr ip;
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 mtu;
} __attribute__((packed));

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * True when one more answer may go out now: a token bucket, as the time when it is full again. Two
 * processors at once may both take the last token: before 5.12 programs have no compare and
 * exchange, and an answer too many does no harm.
 */
static __always_inline int may_answer(const struct filter_settings *set)
{
	__u64 now = bpf_ktime_get_ns(), interval = set->ptb_interval_ns, full;
	__u32 first = 0;
	__u64 *bucket = filter_bucket.lookup(&first);

	if (!bucket || !interval)
		return 0;
	full = *(volatile __u64 *)bucket;
	if (full < now)
		full = now;
	if (full - now > set->ptb_tolerance_ns)
		return 0;
	*(volatile __u64 *)bucket = full + interval;
	return 1;
}

static __always_inline int is_icmp_error(const struct xdp_facts *facts, void *start, void *end)
{
	__u64 offset = facts->l4_offset;
	__u8 *type;

	XDP_SMALL(offset);
	type = start + offset;
	/* What cannot be read may be one. */
	if (!facts->l4_offset || (void *)(type + 1) > end)
		return 1;
	if (facts->protocol == IPPROTO_ICMP)
		return *type == 3 || *type == 4 || *type == 5 || *type == 11 || *type == 12;
	return *type < 128 || *type == 137; /* errors, and redirect */
}

/* May a packet be answered at all? RFC 1122, 3.2.2; RFC 4443, 2.4 (e). */
static __always_inline int answerable(const struct xdp_facts *facts, void *start, void *end)
{
	__u64 offset = facts->l3_offset;
	struct ethhdr *link = start;

	if ((void *)(link + 1) > end || link->h_source[0] & 1 || facts->flags & FACT_MULTICAST)
		return 0;
	if (facts->flags & FACT_FRAGMENT && !(facts->flags & FACT_FIRST_FRAGMENT))
		return 0;
	XDP_SMALL(offset);
	if (facts->family == 4) {
		struct iphdr *header = start + offset;
		__u32 source, destination;

		if ((void *)(header + 1) > end)
			return 0;
		source = bpf_ntohl(header->saddr);
		destination = bpf_ntohl(header->daddr);
		/* Not one host: 0/8, 127/8, 224/4, 240/4, of which broadcast is one. */
		if (source >> 24 == 0 || source >> 24 == 127 || source >> 28 >= 14 ||
		    destination >> 24 == 0 || destination >> 24 == 127 || destination >> 28 >= 14)
			return 0;
	} else {
		struct ipv6hdr *header = start + offset;
		__u32 *source = header->saddr.in6_u.u6_addr32;

		if ((void *)(header + 1) > end)
			return 0;
		/* Unspecified and loopback, and multicast. */
		if (!(source[0] | source[1] | source[2] | (source[3] & bpf_htonl(~1u))) ||
		    header->saddr.in6_u.u6_addr8[0] == 0xff ||
		    header->daddr.in6_u.u6_addr8[0] == 0xff)
			return 0;
	}
	if (facts->protocol == IPPROTO_ICMP || facts->protocol == IPPROTO_ICMPV6)
		return !is_icmp_error(facts, start, end);
	return 1;
}

/* Make room for an answer: cut the packet to the quote, and put the Ethernet header before it. */
static __always_inline int make_room(struct xdp_md *ctx, const struct xdp_facts *facts,
				     __u32 quote, __u32 header)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u16 *to, words[12];

	if (start + LONGEST_LINK > end)
		return -1;
	__builtin_memcpy(words, start, LONGEST_LINK);
	if (bpf_xdp_adjust_tail(ctx, (int)(facts->l3_offset + quote) - (int)facts->length))
		return -1;
	if (bpf_xdp_adjust_head(ctx, -(int)header))
		return -1;
	start = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (start + LONGEST_LINK > end)
		return -1;
	to = start;
	/* Back to where it came from. */
	to[0] = words[3];
	to[1] = words[4];
	to[2] = words[5];
	to[3] = words[0];
	to[4] = words[1];
	to[5] = words[2];
	/* Tags and the type; what comes too much is written over with the IP header. */
#pragma unroll
	for (int i = 6; i < LONGEST_LINK / 2; i++)
		to[i] = words[i];
	return 0;
}

static __always_inline __u32 answer_too_big4(struct xdp_md *ctx, const struct xdp_facts *facts,
					     __u32 mtu)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 offset = facts->l3_offset;
	struct too_big4 *answer;
	__be32 from, to;
	__s64 sum;

	XDP_SMALL(offset);
	answer = start + offset;
	if ((void *)answer + ANSWER4_QUOTE > end)
		return OUTCOME_PTB_ERR;
	from = answer->ip.daddr;
	to = answer->ip.saddr;
	if (make_room(ctx, facts, ANSWER4_QUOTE, ANSWER4_HEADER))
		return OUTCOME_PTB_MEM_ERR;
	start = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	answer = start + offset;
	if ((void *)answer + ANSWER4_HEADER + ANSWER4_QUOTE > end)
		return OUTCOME_PTB_MEM_ERR;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->ip.version = 4;
	answer->ip.ihl = 5;
	answer->ip.tos = CONTROL;
	answer->ip.tot_len = bpf_htons(ANSWER4_HEADER + ANSWER4_QUOTE);
	answer->ip.frag_off = bpf_htons(XDP_IP_DF);
	answer->ip.ttl = 64;
	answer->ip.protocol = IPPROTO_ICMP;
	answer->ip.saddr = from;
	answer->ip.daddr = to;
	answer->type = 3; /* destination unreachable: fragmentation needed and DF set */
	answer->code = 4;
	answer->mtu = bpf_htons(mtu);
	sum = bpf_csum_diff(0, 0, (void *)answer, sizeof(answer->ip), 0);
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	answer->ip.check = fold(sum);
	sum = bpf_csum_diff(0, 0, (void *)answer + sizeof(answer->ip), SUM_BYTES, 0);
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	sum = bpf_csum_diff(0, 0, (void *)answer + sizeof(answer->ip) + SUM_BYTES,
			    8 + ANSWER4_QUOTE - SUM_BYTES, sum);
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	answer->checksum = fold(sum);
	return OUTCOME_PTB_SENT;
}

static __always_inline __u32 answer_too_big6(struct xdp_md *ctx, const struct xdp_facts *facts,
					     __u32 mtu)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 offset = facts->l3_offset;
	struct in6_addr from, to;
	struct too_big6 *answer;
	__s64 sum;

	XDP_SMALL(offset);
	answer = start + offset;
	if ((void *)answer + ANSWER6_QUOTE > end)
		return OUTCOME_PTB_ERR;
	from = answer->ip.daddr;
	to = answer->ip.saddr;
	if (make_room(ctx, facts, ANSWER6_QUOTE, ANSWER6_HEADER))
		return OUTCOME_PTB_MEM_ERR;
	start = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	answer = start + offset;
	if ((void *)answer + ANSWER6_HEADER + ANSWER6_QUOTE > end)
		return OUTCOME_PTB_MEM_ERR;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->ip.version = 6;
	answer->ip.payload_len = bpf_htons(8 + ANSWER6_QUOTE);
	answer->ip.nexthdr = IPPROTO_ICMPV6;
	answer->ip.hop_limit = 64;
	answer->ip.saddr = from;
	answer->ip.daddr = to;
	answer->type = 2;
	answer->mtu = bpf_htonl(mtu);
	/* Addresses, then the length and the next header of the pseudo-header (RFC 8200, 8.1). */
	sum = bpf_csum_diff(0, 0, (void *)&answer->ip.saddr, 32,
			    bpf_htons(8 + ANSWER6_QUOTE) + bpf_htons(IPPROTO_ICMPV6));
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	sum = bpf_csum_diff(0, 0, (void *)answer + sizeof(answer->ip), SUM_BYTES, sum);
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	sum = bpf_csum_diff(0, 0, (void *)answer + sizeof(answer->ip) + SUM_BYTES, SUM_BYTES, sum);
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	sum = bpf_csum_diff(0, 0, (void *)answer + sizeof(answer->ip) + 2 * SUM_BYTES,
			    8 + ANSWER6_QUOTE - 2 * SUM_BYTES, sum);
	if (sum < 0)
		return OUTCOME_PTB_ERR;
	answer->checksum = fold(sum);
	return OUTCOME_PTB_SENT;
}

/* Bytes of an IP packet, by its own header: a frame may be padded. */
static __always_inline __u32 packet_length(struct xdp_md *ctx, const struct xdp_facts *facts)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 offset = facts->l3_offset;

	XDP_SMALL(offset);
	if (facts->family == 4) {
		struct iphdr *header = start + offset;

		return (void *)(header + 1) > end ? 0 : bpf_ntohs(header->tot_len);
	} else {
		struct ipv6hdr *header = start + offset;

		if ((void *)(header + 1) > end)
			return 0;
		if (!header->payload_len)
			return facts->length - facts->l3_offset; /* a jumbogram, RFC 2675 */
		return sizeof(*header) + bpf_ntohs(header->payload_len);
	}
}

/* Answer a packet that passes the rules, if it is too big; return what became of it. */
static __always_inline __u32 answer_too_big(struct xdp_md *ctx, const struct xdp_facts *facts,
					    const struct filter_settings *set, __u32 mtu,
					    __u32 outcome)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (packet_length(ctx, facts) <= mtu)
		return outcome;
	if (!answerable(facts, start, end))
		return OUTCOME_PTB_SUPPRESSED;
	if (!may_answer(set))
		return OUTCOME_PTB_RATE_LIMITED;
	if (facts->family == 4)
		return answer_too_big4(ctx, facts, mtu);
	return answer_too_big6(ctx, facts, mtu);
}
