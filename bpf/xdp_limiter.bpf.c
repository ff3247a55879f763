/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drops what a source sends beyond its share: a token bucket of packets and one of bytes for each
 * source prefix, kept as one time each (generic cell rate algorithm), without locks.
 *
 * Limits stand in a trie and change while packets flow. A doubtful packet passes: where the table
 * of buckets is full, or other processors are faster again and again. The loader may define
 * LIMITER_CLOCK_MAP, for tests: time is then what stands in a map.
 */
#include "xdp_slot.bpf.h"
#include "xdp_limiter.h"

#define LIMITER_TRIES 4
#define LIMITER_SLACK (100000000ULL << LIMITER_TIME_SHIFT)

BPF_ARRAY(limiter_words, __u64, LIMITER_WORDS);
BPF_F_TABLE("lpm_trie", struct limiter_prefix, struct limiter_limit, limiter_limits,
	    LIMITER_LIMITS, BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct limiter_bucket_key, struct limiter_bucket, limiter_buckets, 16384);
BPF_PERCPU_ARRAY(limiter_counts, struct limiter_counts, LIMITER_LIMITS);
BPF_PERCPU_ARRAY(limiter_totals, struct limiter_totals, 1);

enum decision {
	DECISION_PASS,
	DECISION_PACKETS,
	DECISION_BYTES,
	DECISION_CONTENDED,
	DECISION_TABLE_FULL,
};

/* Return the time in 1/256 ns. */
static __always_inline __u64 limiter_now(void)
{
#ifdef LIMITER_CLOCK_MAP
	__u32 place = LIMITER_WORD_CLOCK;
	__u64 *clock = limiter_words.lookup(&place);

	return clock ? *clock << LIMITER_TIME_SHIFT : 0;
#else
	return bpf_ktime_get_ns() << LIMITER_TIME_SHIFT;
#endif
}

/* Return whether one of the limit's ranges holds a port. */
static __always_inline int limiter_in_ranges(const struct limiter_limit *limit, __u32 port)
{
#pragma unroll
	for (int i = 0; i < LIMITER_RANGES; i++) {
		if (!limit->range[i].last)
			return 0;
		if (port >= limit->range[i].first && port <= limit->range[i].last)
			return 1;
	}
	return 0;
}

/* Return whether the packet is a DDS participant's announcement to everybody. */
static __always_inline int limiter_is_discovery(const struct xdp_facts *facts)
{
	return facts->flags & FACT_MULTICAST && facts->flags & FACT_PORTS &&
	       facts->protocol == IPPROTO_UDP && facts->destination_port >= 7400 &&
	       (facts->destination_port - 7400) % 250 == 0;
}

/* Return the limit that holds for the packet, and its source in `key`. */
static __always_inline struct limiter_limit *limiter_find(struct xdp_md *ctx,
							  const struct xdp_facts *facts,
							  __u64 kinds, struct limiter_prefix *key)
{
	struct limiter_limit *limit;
	__u32 words[4];

	if (source_address(ctx, facts, words))
		return 0;
	key->family = facts->family;
	key->prefix_bits = 32 + (facts->family == 4 ? 32 : 128);
	if (facts->family == 4) {
		key->address[0] = words[3];
	} else {
		key->address[0] = words[0];
		key->address[1] = words[1];
		key->address[2] = words[2];
		key->address[3] = words[3];
	}
	if (kinds & 1 << LIMITER_DISCOVERY && limiter_is_discovery(facts)) {
		key->kind = LIMITER_DISCOVERY;
		limit = limiter_limits.lookup(key);
		if (limit &&
		    (!limit->range[0].last || limiter_in_ranges(limit, facts->destination_port)))
			return limit;
	}
	if (kinds & 1 << LIMITER_PORTS && facts->flags & FACT_PORTS) {
		key->kind = LIMITER_PORTS;
		limit = limiter_limits.lookup(key);
		if (limit && limiter_in_ranges(limit, facts->destination_port))
			return limit;
	}
	if (!(kinds & 1 << LIMITER_ALL))
		return 0;
	key->kind = LIMITER_ALL;
	return limiter_limits.lookup(key);
}

/* Return when a bucket would be full again after `cost` was taken out of it. */
static __always_inline __u64 limiter_after(__u64 full_at, __u64 now, __u64 cost)
{
	return ((__s64)(full_at - now) > 0 ? full_at : now) + cost;
}

/*
 * Make a bucket empty that is less than that: a limit before this one was slower, or the time is
 * of more than a year ago. No processor's look at the clock is older than the slack.
 */
static __always_inline void limiter_mend(__u64 *bucket, __u64 now, __u64 capacity)
{
	__u64 before = *(volatile __u64 *)bucket;

	if ((__s64)(before - now) > (__s64)(capacity + LIMITER_SLACK))
		__sync_val_compare_and_swap(bucket, before, now + capacity);
}

/* Take a packet out of its buckets, or out of none. */
static __always_inline __u32 limiter_charge(const struct limiter_limit *limit,
					    struct limiter_bucket *bucket, __u64 now, __u32 length)
{
	__u64 packet_cost = limit->packet_cost >> (LIMITER_COST_SHIFT - LIMITER_TIME_SHIFT);
	__u64 byte_cost = limit->byte_cost * length >> (LIMITER_COST_SHIFT - LIMITER_TIME_SHIFT);
	__u32 charged = 0, i;
	__u64 before, after;

	if (limit->flags & LIMITER_PACKETS)
		limiter_mend(&bucket->packets, now, limit->packet_capacity);
	if (limit->flags & LIMITER_BYTES) {
		limiter_mend(&bucket->bytes, now, limit->byte_capacity);
		/* A look first: a packet that this refuses shall not touch the other bucket. */
		after = limiter_after(*(volatile __u64 *)&bucket->bytes, now, byte_cost);
		if (after - now > limit->byte_capacity) {
			if (!(limit->flags & LIMITER_PACKETS))
				return DECISION_BYTES;
			after = limiter_after(*(volatile __u64 *)&bucket->packets, now,
					      packet_cost);
			return after - now > limit->packet_capacity ? DECISION_PACKETS
								    : DECISION_BYTES;
		}
	}
	if (limit->flags & LIMITER_PACKETS) {
#pragma unroll
		for (i = 0; i < LIMITER_TRIES && !charged; i++) {
			before = *(volatile __u64 *)&bucket->packets;
			after = limiter_after(before, now, packet_cost);
			if (after - now > limit->packet_capacity)
				return DECISION_PACKETS;
			charged = __sync_val_compare_and_swap(&bucket->packets, before, after) ==
				  before;
		}
		if (!charged)
			return DECISION_CONTENDED;
	}
	if (!(limit->flags & LIMITER_BYTES))
		return DECISION_PASS;
#pragma unroll
	for (i = 0; i < LIMITER_TRIES; i++) {
		before = *(volatile __u64 *)&bucket->bytes;
		after = limiter_after(before, now, byte_cost);
		if (after - now > limit->byte_capacity) {
			/* Others took the bytes since the look: give the packet back. */
			if (charged)
				__sync_fetch_and_add(&bucket->packets, -packet_cost);
			return DECISION_BYTES;
		}
		if (__sync_val_compare_and_swap(&bucket->bytes, before, after) == before)
			return DECISION_PASS;
	}
	return DECISION_CONTENDED;
}

/* Count a decision; return whether the packet passes. */
static __always_inline int limiter_count(struct limiter_counts *counts, __u32 decision,
					 __u32 length, __u32 dry_run)
{
	if (decision == DECISION_PASS) {
		counts->passed++;
		counts->passed_bytes += length;
	} else if (decision == DECISION_CONTENDED) {
		counts->contended++;
	} else if (decision == DECISION_TABLE_FULL) {
		counts->table_full++;
	} else if (dry_run) {
		counts->would_drop_bytes += length;
		if (decision == DECISION_PACKETS)
			counts->would_drop_by_packets++;
		else
			counts->would_drop_by_bytes++;
	} else {
		counts->dropped_bytes += length;
		if (decision == DECISION_PACKETS)
			counts->dropped_by_packets++;
		else
			counts->dropped_by_bytes++;
		return 0;
	}
	return 1;
}

XDP_SLOT(xdp_limiter)
{
	__u32 zero = 0, word = LIMITER_WORD_KINDS, place, decision, dry_run;
	struct limiter_totals *totals = limiter_totals.lookup(&zero);
	__u64 *kinds = limiter_words.lookup(&word), *all_dry, now;
	struct limiter_prefix source = {};
	struct limiter_bucket_key key = {};
	struct limiter_bucket *bucket;
	struct limiter_counts *counts;
	struct limiter_limit *limit;

	if (!totals || !kinds)
		return XDP_CONTINUE;
	if (!*kinds) {
		totals->off++;
		return XDP_CONTINUE;
	}
	if (!facts->family) {
		totals->not_ip++;
		return XDP_CONTINUE;
	}
	limit = limiter_find(ctx, facts, *kinds, &source);
	if (!limit) {
		totals->unlimited++;
		return XDP_CONTINUE;
	}
	now = limiter_now();
	key.identity = limit->identity;
	key.address[0] = source.address[0] & limit->mask[0];
	key.address[1] = source.address[1] & limit->mask[1];
	key.address[2] = source.address[2] & limit->mask[2];
	key.address[3] = source.address[3] & limit->mask[3];
	bucket = limiter_buckets.lookup(&key);
	if (!bucket) {
		struct limiter_bucket fresh = {.packets = now, .bytes = now};

		/* Where another processor made it meanwhile, theirs is used. */
		if (!limiter_buckets.insert(&key, &fresh))
			totals->buckets_made++;
		bucket = limiter_buckets.lookup(&key);
	}
	decision =
		bucket ? limiter_charge(limit, bucket, now, facts->length) : DECISION_TABLE_FULL;
	word = LIMITER_WORD_DRY_RUN;
	all_dry = limiter_words.lookup(&word);
	dry_run = limit->flags & LIMITER_DRY_RUN || (all_dry && *all_dry);
	place = limit->place;
	counts = limiter_counts.lookup(&place);
	if (counts)
		limiter_count(counts, decision, facts->length, dry_run);
	return limiter_count(&totals->limited, decision, facts->length, dry_run) ? XDP_CONTINUE
										 : XDP_DROP;
}
