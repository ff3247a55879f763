/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root of an interface's array: reads the headers once, leaves what it found for the slots on
 * this CPU, and calls the first slot that is loaded. Without one, and where a call fails, the
 * packet goes to the kernel.
 */
#define SLOT (-1)
#include "xdp_slot.bpf.h"

/* Leave facts so that nobody takes a half of them, or takes them for another packet's. */
static __always_inline void leave_facts(struct xdp_md *ctx, struct xdp_parsed *place,
					const struct xdp_facts *facts, __u32 trace)
{
	place->start = 0;
	XDP_IN_ORDER();
	place->facts = *facts;
	place->trace = trace;
	place->end = (__u64)(long)ctx->data_end;
	XDP_IN_ORDER();
	place->start = (__u64)(long)ctx->data;
}

int xdp_root(struct xdp_md *ctx)
{
	struct xdp_parsed *place = slot_parsed();
	struct xdp_switches *asked;
	struct xdp_facts facts;
	__u32 first = 0, trace;

	asked = switches.lookup(&first);
	trace = asked ? asked->trace : 0;
	xdp_parse(ctx, &facts);
	slot_count(&facts, XDP_CONTINUE, XDP_ROOT_ROW, trace);
	if (place)
		leave_facts(ctx, place, &facts, trace);
	return slot_continue(ctx);
}
