/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program in a slot of the root array includes, a user's own as well:
 *
 *	#include "xdp_slot.bpf.h"
 *
 *	XDP_SLOT(count_telnet)
 *	{
 *		return facts->destination_port == 23 ? XDP_DROP : XDP_CONTINUE;
 *	}
 *
 * `ctx` is the struct xdp_md, `facts` what the root found in the headers. XDP_CONTINUE passes the
 * chain on to the next loaded slot, and behind the last one the packet goes to the kernel; any
 * other answer ends the chain. Both are counted here. SLOT, the number of the slot, is defined by
 * the loader.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>
#include "xdp_common.h"
#include "xdp_parse.h"

BPF_PROG_ARRAY(slots, XDP_SLOTS);
BPF_PERCPU_ARRAY(counters, struct xdp_slot_counters, XDP_SLOTS + 1);
BPF_ARRAY(switches, struct xdp_switches, 1);
BPF_PERCPU_ARRAY(parsed, struct xdp_parsed, 1);

/* Keep what the compiler wrote before from what it writes behind. */
#define XDP_IN_ORDER() asm volatile("" ::: "memory")

static __always_inline struct xdp_parsed *slot_parsed(void)
{
	__u32 first = 0;

	return parsed.lookup(&first);
}

/* Count an answer, and print it where that is asked for. */
static __always_inline void slot_count(const struct xdp_facts *facts, int answer, __u32 row,
				       __u32 trace)
{
	struct xdp_slot_counters *mine = counters.lookup(&row);
	__u64 verdict = (__u32)answer;

	if (mine && answer == XDP_CONTINUE) {
		mine->packets[VERDICT_PASS]++;
	} else if (mine) {
		if (verdict > XDP_REDIRECT)
			verdict = VERDICT_INVALID;
		asm volatile("%0 &= 7" : "+r"(verdict));
		if (verdict < VERDICTS)
			mine->packets[verdict]++;
	}
	if (trace)
		bpf_trace_printk("ipc_bypass xdp: slot %d answers %d, %d bytes", row, answer,
				 facts->length);
}

/* Go on with the next slot that is loaded; a literal index becomes a direct jump. */
static __always_inline int slot_continue(struct xdp_md *ctx)
{
#if SLOT < 0
	slots.call(ctx, 0);
#endif
#if SLOT < 1
	slots.call(ctx, 1);
#endif
#if SLOT < 2
	slots.call(ctx, 2);
#endif
#if SLOT < 3
	slots.call(ctx, 3);
#endif
#if SLOT < 4
	slots.call(ctx, 4);
#endif
#if SLOT < 5
	slots.call(ctx, 5);
#endif
#if SLOT < 6
	slots.call(ctx, 6);
#endif
#if SLOT < 7
	slots.call(ctx, 7);
#endif
	return XDP_PASS;
}

/* Fill in what the root found, where that is of this packet; else read the headers again. */
static __always_inline void slot_facts(struct xdp_md *ctx, const struct xdp_parsed *left,
				       struct xdp_facts *facts)
{
	__u64 start = (__u64)(long)ctx->data, end = (__u64)(long)ctx->data_end;

	/* The compiler may not take a number from the map for the packet's address. */
	asm volatile("" : "+r"(start), "+r"(end));
	if (left && left->start == start && left->end == end) {
		*facts = left->facts;
		XDP_IN_ORDER();
		if (left->start == start)
			return;
	}
	xdp_parse(ctx, facts);
}

static __always_inline int slot_end(struct xdp_md *ctx, struct xdp_parsed *left,
				    const struct xdp_facts *facts, int answer)
{
	slot_count(facts, answer, SLOT, left ? left->trace : 0);
	if (answer == XDP_CONTINUE)
		answer = slot_continue(ctx);
	if (left)
		left->start = 0;
	return answer;
}

#define XDP_SLOT(name)                                                                         \
	static __always_inline int name##_decide(struct xdp_md *ctx, struct xdp_facts *facts); \
	int name(struct xdp_md *ctx)                                                           \
	{                                                                                      \
		struct xdp_parsed *left = slot_parsed();                                       \
		struct xdp_facts facts;                                                        \
		slot_facts(ctx, left, &facts);                                                 \
		return slot_end(ctx, left, &facts, name##_decide(ctx, &facts));                \
	}                                                                                      \
	static __always_inline int name##_decide(struct xdp_md *ctx, struct xdp_facts *facts)
