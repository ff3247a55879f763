/* SPDX-License-Identifier: Apache-2.0 */
/* Each of the three bodies as a slot of its own. */
#include "xdp_slot.bpf.h"
#include "xdp_bodies.bpf.h"

XDP_SLOT(port_slot)
{
	return port_body(ctx, facts);
}

XDP_SLOT(source_slot)
{
	return source_body(ctx, facts);
}

XDP_SLOT(service_slot)
{
	return service_body(ctx, facts);
}
