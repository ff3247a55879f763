/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Find the rule that decides about a packet: the classes of its fields, and the smallest choice of
 * them. The loader includes this file as text, for BCC rewrites map calls in the main file only;
 * the program declares the maps filter_ports, filter_classes, filter_groups, filter_combined,
 * filter_hosts4, filter_hosts6, filter_prefixes4 and filter_prefixes6.
 */

#define RTPS_MAGIC 0x52545053 /* 'RTPS' */

/* What is known of a packet when its rule is sought. */
struct judged {
	__u32 flags;
	__u32 generation;
	__u32 multiplier;
	__u32 kind; /* enum filter_payload */
	__u32 choice;
	/* Classes. */
	__u32 source;
	__u32 destination;
	__u32 source_port;
	__u32 service;
	/* Groups. */
	__u32 groups[4];
};

/* Classes of the addresses ------------------------------------------------------------------- */

/* Return the classes of an IPv4 host, 0 where it is none that a rule names. */
static __always_inline __u32 host_classes4(const struct judged *at, __u32 address)
{
	__u32 row = at->generation * FILTER_BUCKETS + (address * at->multiplier >> 20), i;
	struct filter_bucket *bucket = filter_hosts4.lookup(&row);

	if (!bucket)
		return 0;
#pragma unroll
	for (i = 0; i < FILTER_BUCKET_HOSTS; i++) {
		if (!bucket->classes[i])
			break;
		if (bucket->addresses[i] == address)
			return bucket->classes[i];
	}
	return 0;
}

static __always_inline __u32 address_class4(struct judged *at, __u32 address, int destination)
{
	__u32 hosts = destination ? FILTER_DESTINATION_HOSTS4 : FILTER_SOURCE_HOSTS4;
	__u32 prefixes = destination ? FILTER_DESTINATION_PREFIXES4 : FILTER_SOURCE_PREFIXES4;

	if (at->flags & hosts) {
		__u32 found = host_classes4(at, address);

		if (found)
			return destination ? found >> 16 : found & 0xffff;
	}
	if (at->flags & prefixes) {
		struct filter_prefix4 key = {
			.bits = 64, .generation = at->generation, .address = address};
		struct filter_address *found = filter_prefixes4.lookup(&key);

		if (found)
			return destination ? found->destination : found->source;
	}
	return 0;
}

static __always_inline __u32 address_class6(struct judged *at, const __u32 *address,
					    int destination)
{
	__u32 hosts = destination ? FILTER_DESTINATION_HOSTS6 : FILTER_SOURCE_HOSTS6;
	__u32 prefixes = destination ? FILTER_DESTINATION_PREFIXES6 : FILTER_SOURCE_PREFIXES6;

	if (at->flags & hosts) {
		struct filter_host6 key = {.generation = at->generation};
		struct filter_address *found;

		__builtin_memcpy(key.address, address, sizeof(key.address));
		found = filter_hosts6.lookup(&key);
		if (found)
			return destination ? found->destination : found->source;
	}
	if (at->flags & prefixes) {
		struct filter_prefix6 key = {.bits = 160, .generation = at->generation};
		struct filter_address *found;

		__builtin_memcpy(key.address, address, sizeof(key.address));
		found = filter_prefixes6.lookup(&key);
		if (found)
			return destination ? found->destination : found->source;
	}
	return 0;
}

/* Fill the classes of both addresses; 0 on success. */
static __always_inline int address_classes(struct xdp_md *ctx, const struct xdp_facts *facts,
					   struct judged *at)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 offset = facts->l3_offset;

	XDP_SMALL(offset);
	if (facts->family == 4) {
		struct iphdr *header = start + offset;

		if (!(at->flags & (FILTER_SOURCE_HOSTS4 | FILTER_SOURCE_PREFIXES4 |
				   FILTER_DESTINATION_HOSTS4 | FILTER_DESTINATION_PREFIXES4)))
			return 0;
		if ((void *)(header + 1) > end)
			return -1;
		at->source = address_class4(at, header->saddr, 0);
		at->destination = address_class4(at, header->daddr, 1);
	} else {
		struct ipv6hdr *header = start + offset;

		if (!(at->flags & (FILTER_SOURCE_HOSTS6 | FILTER_SOURCE_PREFIXES6 |
				   FILTER_DESTINATION_HOSTS6 | FILTER_DESTINATION_PREFIXES6)))
			return 0;
		if ((void *)(header + 1) > end)
			return -1;
		at->source = address_class6(at, header->saddr.in6_u.u6_addr32, 0);
		at->destination = address_class6(at, header->daddr.in6_u.u6_addr32, 1);
	}
	return 0;
}

/* Classes of the ports ----------------------------------------------------------------------- */

static __always_inline void port_classes(const struct xdp_facts *facts, struct judged *at)
{
	__u32 tcp = facts->protocol == IPPROTO_TCP, row;
	struct filter_port *found;

	if (!(facts->flags & FACT_PORTS)) {
		if (!(at->flags & FILTER_BY_PROTOCOL))
			return;
		row = 2 * FILTER_PORTS + at->generation * FILTER_PROTOCOLS + facts->protocol;
		found = filter_ports.lookup(&row);
		if (found)
			at->service = found->classes[PLACE_PROTOCOL];
		return;
	}
	if (at->flags & FILTER_DESTINATION_PORTS) {
		row = at->generation * FILTER_PORTS + facts->destination_port;
		found = filter_ports.lookup(&row);
		if (found)
			at->service = tcp ? found->classes[PLACE_TCP_DESTINATION]
					  : found->classes[PLACE_UDP_DESTINATION];
	}
	if (at->flags & FILTER_SOURCE_PORTS) {
		row = at->generation * FILTER_PORTS + facts->source_port;
		found = filter_ports.lookup(&row);
		if (found)
			at->source_port = tcp ? found->classes[PLACE_TCP_SOURCE]
					      : found->classes[PLACE_UDP_SOURCE];
	}
}

/* A UDP payload is RTPS when it begins so (RTPS 2.5, 8.3.3.1), within the datagram's length. */
static __always_inline __u32 payload_kind(struct xdp_md *ctx, const struct xdp_facts *facts)
{
	void *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 offset = facts->l4_offset;
	struct {
		struct udphdr header;
		__be32 magic;
	} __attribute__((packed)) * found;

	if (facts->protocol != IPPROTO_UDP || !(facts->flags & FACT_PORTS))
		return PAYLOAD_OTHER;
	XDP_SMALL(offset);
	found = start + offset;
	if ((void *)(found + 1) > end || bpf_ntohs(found->header.len) < sizeof(*found))
		return PAYLOAD_OTHER;
	return found->magic == bpf_htonl(RTPS_MAGIC) ? PAYLOAD_RTPS : PAYLOAD_OTHER;
}

/* The rule ----------------------------------------------------------------------------------- */

/* Take the rule of a class when it is more specific than the one so far. */
static __always_inline __u32 weigh(struct judged *at, __u32 class)
{
	__u32 row = at->generation * FILTER_CLASSES + class;
	struct filter_class *found = filter_classes.lookup(&row);
	__u32 choice;

	if (!found)
		return 0;
	choice = at->kind == PAYLOAD_RTPS ? found->choices[PAYLOAD_RTPS]
					  : found->choices[PAYLOAD_OTHER];
	if (choice < at->choice)
		at->choice = choice;
	return found->group;
}

static __always_inline struct filter_group *group_of(struct judged *at, __u32 number)
{
	__u32 row = at->generation * FILTER_GROUPS + number;

	return filter_groups.lookup(&row);
}

/* Return the number of the lowest bit; the compiler's own way of it does not know this machine. */
static __always_inline __u32 lowest_bit(__u64 word)
{
	__u32 number = 0;

	if (!(word & 0xffffffff)) {
		word >>= 32;
		number = 32;
	}
	if (!(word & 0xffff)) {
		word >>= 16;
		number += 16;
	}
	if (!(word & 0xff)) {
		word >>= 8;
		number += 8;
	}
	if (!(word & 0xf)) {
		word >>= 4;
		number += 4;
	}
	if (!(word & 3)) {
		word >>= 2;
		number += 2;
	}
	return number + !(word & 1);
}

/* Take the first of the combined rules that every field allows, when it is the more specific. */
static __always_inline void weigh_combined(struct judged *at)
{
	struct filter_group *source, *destination, *source_port, *service, *payload;
	struct filter_combined *found;
	__u32 row, i;

	source = group_of(at, at->groups[0] ? at->groups[0] : GROUP_ANY_SOURCE);
	destination = group_of(at, at->groups[1] ? at->groups[1] : GROUP_ANY_DESTINATION);
	source_port = group_of(at, at->groups[2] ? at->groups[2] : GROUP_ANY_SOURCE_PORT);
	service = group_of(at, at->groups[3] ? at->groups[3] : GROUP_ANY_SERVICE);
	payload = group_of(at, GROUP_PAYLOAD_OTHER + at->kind);
	if (!source || !destination || !source_port || !service || !payload)
		return;
#pragma unroll
	for (i = 0; i < FILTER_GROUP_WORDS; i++) {
		__u64 word = source->words[i] & destination->words[i] & source_port->words[i] &
			     service->words[i] & payload->words[i];

		if (word) {
			row = at->generation * FILTER_COMBINED_RULES + i * 64 + lowest_bit(word);
			found = filter_combined.lookup(&row);
			if (found && found->choice < at->choice)
				at->choice = found->choice;
			return;
		}
	}
}

/* Find the rule that decides; CHOICE_NONE where no rule matches. */
static __always_inline __u32 choose(struct xdp_md *ctx, const struct xdp_facts *facts,
				    const struct filter_settings *set, __u32 flags)
{
	struct judged at = {.flags = flags, .generation = flags >> 31, .choice = CHOICE_NONE};

	at.multiplier = at.generation ? set->multipliers[1] : set->multipliers[0];

	if (address_classes(ctx, facts, &at))
		return CHOICE_NONE;
	port_classes(facts, &at);
	if (flags & FILTER_PAYLOAD)
		at.kind = payload_kind(ctx, facts);
	if (at.source)
		at.groups[0] = weigh(&at, at.source);
	if (at.destination)
		at.groups[1] = weigh(&at, at.destination);
	if (at.source_port)
		at.groups[2] = weigh(&at, at.source_port);
	if (at.service)
		at.groups[3] = weigh(&at, at.service);
	if (flags & FILTER_COMBINED)
		weigh_combined(&at);
	return at.choice;
}
