/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filter slot: which packets of an interface go on, by ports, addresses, protocol and payload.
 *
 * Every value of a field (source address, destination address, source port, destination port or
 * protocol) has a class: the set of rules that ask for it. A class names the most specific of the
 * rules that ask for nothing else, as a number in which the rank comes first (enum filter_choice),
 * so that the smallest of four numbers is the rule that decides. Rules with conditions on several
 * fields are bits of a vector by class; the first bit that all vectors have is the best of them.
 *
 * User space writes the generation that is not in force, then turns FILTER_GENERATION by one store
 * (ipc_bypass/xdp/filter/tables.py): a packet is judged by one set of rules, never by parts of
 * two.
 */
#include "xdp_slot.bpf.h"
#include "xdp_filter.h"

#define OUTCOMES_PASSED                                                                    \
	(1u << OUTCOME_RULE_PASS | 1u << OUTCOME_DEFAULT_PASS | 1u << OUTCOME_OTHER_PASS | \
	 1u << OUTCOME_PTB_SUPPRESSED)
#define OUTCOMES_MALFORMED                                           \
	(1u << OUTCOME_ETH_FRAME_ERR | 1u << OUTCOME_IP_HEADER_ERR | \
	 1u << OUTCOME_IP6_HEADER_ERR | 1u << OUTCOME_TRANSPORT_ERR)

BPF_F_TABLE("array", __u32, struct filter_settings, filter_settings, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct filter_port, filter_ports, 131584, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct filter_class, filter_classes, 32768, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct filter_group, filter_groups, 8192, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct filter_combined, filter_combined, 1024, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct filter_bucket, filter_hosts4, 8192, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", struct filter_host6, struct filter_address, filter_hosts6, 8192,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct filter_prefix4, struct filter_address, filter_prefixes4, 8192,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct filter_prefix6, struct filter_address, filter_prefixes6, 8192,
	    BPF_F_NO_PREALLOC);
BPF_PERCPU_ARRAY(filter_counters, struct filter_counters, 1);
BPF_PERCPU_ARRAY(filter_rules, struct filter_rule_counters, 4096);
BPF_ARRAY(filter_bucket, __u64, 1);

#include "xdp_filter_rules.bpf.h"
#include "xdp_too_big.bpf.h"

static __always_inline __u32 malformed(const struct xdp_facts *facts)
{
	if (facts->flags & FACT_FRAME_ERROR)
		return OUTCOME_ETH_FRAME_ERR;
	if (facts->flags & FACT_TRANSPORT_ERROR)
		return OUTCOME_TRANSPORT_ERR;
	return facts->ethertype == ETH_P_IP ? OUTCOME_IP_HEADER_ERR : OUTCOME_IP6_HEADER_ERR;
}

/* Judge a packet by the rules: return an outcome. */
static __always_inline __u32 judge(struct xdp_md *ctx, const struct xdp_facts *facts,
				   const struct filter_settings *set, __u32 flags)
{
	struct filter_rule_counters *sums;
	__u32 choice, index;

	if (facts->flags & (FACT_FRAME_ERROR | FACT_IP_ERROR | FACT_TRANSPORT_ERROR))
		return malformed(facts);
	if (facts->family != 4 && facts->family != 6)
		return flags & FILTER_DROP_OTHER ? OUTCOME_OTHER_DROP : OUTCOME_OTHER_PASS;
	if (flags & FILTER_DROP_FRAGMENTS && facts->flags & FACT_FRAGMENT)
		return facts->family == 4 ? OUTCOME_IP_FRAG_DROP : OUTCOME_IP6_FRAG_DROP;
	choice = choose(ctx, facts, set, flags);
	if (choice == CHOICE_NONE)
		return flags & FILTER_DEFAULT_DENY ? OUTCOME_DEFAULT_DROP : OUTCOME_DEFAULT_PASS;
	index = choice >> CHOICE_INDEX_SHIFT & CHOICE_INDEX_MASK;
	sums = filter_rules.lookup(&index);
	if (sums) {
		sums->packets++;
		sums->bytes += facts->length;
	}
	if (!(choice & CHOICE_DENY))
		return OUTCOME_RULE_PASS;
	if (choice & CHOICE_NOT_RTPS)
		return OUTCOME_NOT_RTPS;
	return facts->family == 4 ? OUTCOME_IP_DROP : OUTCOME_IP6_DROP;
}

/* What an outcome means for the packet. */
static __always_inline int answer_of(__u32 outcome, __u32 flags)
{
	if (outcome == OUTCOME_PTB_SENT)
		return XDP_TX;
	if (1u << outcome & OUTCOMES_PASSED)
		return XDP_CONTINUE;
	if (1u << outcome & OUTCOMES_MALFORMED && !(flags & FILTER_DROP_MALFORMED))
		return XDP_CONTINUE;
	return XDP_DROP;
}

XDP_SLOT(xdp_filter)
{
	__u32 first = 0, outcome;
	struct filter_counters *sums;
	struct filter_settings *set;
	union {
		__u64 word;
		struct {
			__u32 flags;
			__u32 ptb_mtu;
		};
	} now;

	set = filter_settings.lookup(&first);
	if (!set)
		return XDP_CONTINUE;
	now.word = *(volatile __u64 *)set; /* at once: user space may be changing it */
	outcome = judge(ctx, facts, set, now.flags);
	if (now.flags & FILTER_ANSWER_TOO_BIG && outcome <= OUTCOME_DEFAULT_PASS &&
	    facts->flags & FACT_DONT_FRAGMENT && facts->length > facts->l3_offset + now.ptb_mtu)
		outcome = answer_too_big(ctx, facts, set, now.ptb_mtu, outcome);
	sums = filter_counters.lookup(&first);
	if (sums && outcome < FILTER_OUTCOMES)
		sums->packets[outcome]++;
	return answer_of(outcome, now.flags);
}
