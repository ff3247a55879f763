/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the root array is measured against: one program that reads the headers once and calls the
 * same three bodies in a row, with the same counters and without any; and a program that does
 * nothing, for the cost of the measuring.
 */
#define SLOT 7
#include "xdp_slot.bpf.h"
#include "xdp_bodies.bpf.h"

static __always_inline int row(struct xdp_md *ctx, int counted)
{
	struct xdp_facts facts;
	int answer;

	xdp_parse(ctx, &facts);
	if (counted)
		slot_count(&facts, XDP_CONTINUE, XDP_ROOT_ROW, 0);
	answer = port_body(ctx, &facts);
	if (counted)
		slot_count(&facts, answer, 1, 0);
	if (answer != XDP_CONTINUE)
		return answer;
	answer = source_body(ctx, &facts);
	if (counted)
		slot_count(&facts, answer, 2, 0);
	if (answer != XDP_CONTINUE)
		return answer;
	answer = service_body(ctx, &facts);
	if (counted)
		slot_count(&facts, answer, 3, 0);
	return answer == XDP_CONTINUE ? XDP_PASS : answer;
}

int row_counted(struct xdp_md *ctx)
{
	return row(ctx, 1);
}

int row_plain(struct xdp_md *ctx)
{
	return row(ctx, 0);
}

int nothing(struct xdp_md *ctx)
{
	return XDP_PASS;
}
