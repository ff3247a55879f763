/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies the first bytes of some packets to ring buffers, and lets every packet go on.
 *
 * A reader is woken for every 64th sample, and else comes by itself: a wake-up takes longer than
 * everything else here.
 *
 * Nothing waits here: where a ring buffer is full or nobody reads it, the sample is left out and
 * counted. Which packets are taken stands in maps and changes while packets flow: the settings
 * are written beside those that hold, then the generation's number makes them valid.
 */
#include "xdp_slot.bpf.h"
#include "xdp_sampler.h"

#define SAMPLER_WAKE_EVERY 64

BPF_ARRAY(sampler_words, __u64, SAMPLER_WORDS);
BPF_ARRAY(sampler_settings, struct sampler_settings, 2);
BPF_PERCPU_ARRAY(sampler_state, struct sampler_state, 1);
BPF_PERCPU_ARRAY(sampler_scratch, struct sampler_sample, 1);
BPF_TABLE("hash", struct sampler_lease_key, struct sampler_lease, sampler_leases, 16);
BPF_RINGBUF_OUTPUT(sampler_samples, 64); /* pages of 4 KB, as the next one */
BPF_RINGBUF_OUTPUT(sampler_captures, 256);

/* Return 1 where a number is not 0, without a branch: each would cost the verifier a path. */
static __always_inline __u32 sampler_bit(__u32 number)
{
	return (number | -number) >> 31;
}

/* Return 1 where a port is outside of `first` to `first + span`. */
static __always_inline __u32 sampler_outside(__u32 port, __u32 first, __u32 span)
{
	return (span - ((port - first) & 0xffff)) >> 31;
}

/* Return the place of the first rule that the packet matches, 0 for none. */
static __always_inline __u32 sampler_match(struct xdp_md *ctx, const struct xdp_facts *facts,
					   const struct sampler_settings *set)
{
	__u32 source[4] = {}, destination[4] = {}, place;
	__u32 unknown = sampler_bit(facts->flags & FACT_PORTS) ^ 1;

	if (set->flags & SAMPLER_ADDRESSES && facts->family) {
		source_address(ctx, facts, source);
		destination_address(ctx, facts, destination);
	}
	for (place = 1; place < SAMPLER_PLACES; place++) {
		const struct sampler_rule *rule = &set->rule[place];
		__u32 first = rule->port_first, span = rule->port_span, differs, i;

		if (place > set->rules)
			break;
		differs = (facts->protocol & rule->protocol_mask) ^ rule->protocol;
		differs |= (facts->family & rule->family_mask) ^ rule->family;
		differs |= unknown & sampler_bit(span ^ 0xffff);
		differs |= sampler_outside(facts->source_port, first, span) &
			   sampler_outside(facts->destination_port, first, span);
#pragma unroll
		for (i = 0; i < 4; i++)
			differs |= ((source[i] & rule->source_mask[i]) ^ rule->source[i]) |
				   ((destination[i] & rule->destination_mask[i]) ^
				    rule->destination[i]);
		if (!differs)
			return place;
	}
	return 0;
}

/* Return whether this is the packet of a place that is taken; 1 in `every` is. */
static __always_inline int sampler_due(struct sampler_state *state, __u32 place, __u32 every,
				       __u32 flags)
{
	__u32 left;

	if (!every)
		return 0;
	left = state->left[place];
	if (!left) {
		left = every;
		if (flags & SAMPLER_RANDOM)
			left = 1 + bpf_get_prandom_u32() % (2 * every - 1);
	}
	state->left[place] = --left;
	return !left;
}

/* Copy the packet's beginning; return how many bytes that are, or -1. */
static __always_inline int sampler_copy(struct xdp_md *ctx, __u32 length, __u32 snap, void *to)
{
	__u64 last = (length < snap ? length : snap) - 1;

	if (!length || !snap)
		return 0;
	asm volatile("%0 &= 0xff" : "+r"(last));
	return bpf_xdp_load_bytes(ctx, 0, to, last + 1) ? -1 : last + 1;
}

/* Return whether a reader has looked a short while ago. */
static __always_inline int sampler_is_read(__u32 reader, __u64 now, __u64 fresh_ns)
{
	__u32 place = SAMPLER_WORD_HEARTBEAT + reader;
	__u64 *heartbeat = sampler_words.lookup(&place);

	/* It may have been written after this program looked at the clock. */
	return heartbeat && *heartbeat && now + fresh_ns - *heartbeat < 2 * fresh_ns;
}

/* Return whether to wake the reader of a ring buffer that so many samples were written to. */
static __always_inline __u64 sampler_flags(__u64 written)
{
	return written % SAMPLER_WAKE_EVERY ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
}

/* Give the packet to those who read. */
static __always_inline void sampler_take(struct xdp_md *ctx, const struct xdp_facts *facts,
					 const struct sampler_settings *set,
					 struct sampler_state *state,
					 struct sampler_sample *sample, __u32 place, __u32 every)
{
	__u64 now = bpf_ktime_get_ns(), size, flags;
	__u32 node, capture;
	int captured;

	node = sampler_is_read(SAMPLER_READER_NODE, now, set->heartbeat_ns);
	capture = sampler_is_read(SAMPLER_READER_CAPTURE, now, set->heartbeat_ns);
	if (!node)
		state->unread[SAMPLER_READER_NODE]++;
	if (!capture)
		state->unread[SAMPLER_READER_CAPTURE]++;
	if (!(node | capture))
		return;
	captured = sampler_copy(ctx, facts->length, set->snap, sample->data);
	if (captured < 0) {
		state->not_copied++;
		captured = 0;
	}
	sample->time_ns = now;
	sample->interface = ctx->ingress_ifindex;
	sample->queue = ctx->rx_queue_index;
	sample->captured = captured;
	sample->every = every;
	sample->place = place;
	sample->facts = *facts;
	size = captured;
	asm volatile("%0 &= 0x1ff" : "+r"(size));
	if (size > SAMPLER_SNAP)
		return;
	size += offsetof(struct sampler_sample, data);
	if (node) {
		flags = sampler_flags(state->written[SAMPLER_READER_NODE]);
		if (sampler_samples.ringbuf_output(sample, size, flags))
			state->full[SAMPLER_READER_NODE]++;
		else
			state->written[SAMPLER_READER_NODE]++;
	}
	if (capture) {
		flags = sampler_flags(state->written[SAMPLER_READER_CAPTURE]);
		if (sampler_captures.ringbuf_output(sample, size, flags))
			state->full[SAMPLER_READER_CAPTURE]++;
		else
			state->written[SAMPLER_READER_CAPTURE]++;
	}
}

XDP_SLOT(xdp_sampler)
{
	__u32 zero = 0, which = SAMPLER_WORD_GENERATION, place = 0, every;
	struct sampler_state *state = sampler_state.lookup(&zero);
	struct sampler_sample *sample = sampler_scratch.lookup(&zero);
	__u64 *word = sampler_words.lookup(&which), generation;
	struct sampler_settings *set;

	if (!state || !word || !sample)
		return XDP_CONTINUE;
	state->seen++;
	generation = *(volatile __u64 *)word;
	which = generation & 1;
	set = sampler_settings.lookup(&which);
	if (!set)
		return XDP_CONTINUE;
	if (state->generation != generation) {
		state->generation = generation;
		__builtin_memset(state->left, 0, sizeof(state->left));
	}
	every = set->every;
	if (set->rules) {
		/*
		 * By way of memory: old verifiers (6.1) walk all that follows once for each place
		 * that they know, and come near their limit.
		 */
		sample->place = sampler_match(ctx, facts, set);
		place = *(volatile __u32 *)&sample->place & (SAMPLER_PLACES - 1);
		if (place)
			every = set->rule[place].every;
	}
	if (!sampler_due(state, place, every, set->flags))
		return XDP_CONTINUE;
	state->selected[place]++;
	sampler_take(ctx, facts, set, state, sample, place, every);
	return XDP_CONTINUE;
}
