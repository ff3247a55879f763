// SPDX-License-Identifier: Apache-2.0
/*
 * Forward enrolled flows between the veths of one bridge: to the port of the container that has
 * both the MAC and the address, and so into its own receive queue. Since 5.6 the kernel gathers
 * frames that bpf_redirect() sends into the same bulks as those of a device map, which would
 * need a number for each port beside its ifindex.
 *
 * Frames keep what they are addressed to, so that a container drops what has another MAC than
 * its own, as it does with frames of the bridge. User space enters only targets whose far end
 * takes frames in this way; else the kernel would drop them after this program has ended.
 */
#include "xdp_slot.bpf.h"
#include "xdp_devmap.h"

BPF_F_TABLE("array", __u32, struct devmap_settings, devmap_settings, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u32, devmap_ports, 65536, BPF_F_MMAPABLE);
BPF_TABLE("hash", struct devmap_station_key, struct devmap_station, devmap_stations,
	  DEVMAP_STATIONS);
BPF_PERCPU_ARRAY(devmap_totals, struct devmap_totals, 1);

static __always_inline int devmap_enrolled(const struct xdp_facts *facts)
{
	__u32 port = facts->destination_port;
	__u32 *bits = devmap_ports.lookup(&port);

	if (facts->protocol == IPPROTO_UDP)
		return bits && *bits & DEVMAP_UDP;
	if (bits && *bits & DEVMAP_TCP)
		return 1;
	port = facts->source_port;
	bits = devmap_ports.lookup(&port);
	return bits && *bits & DEVMAP_TCP;
}

static __always_inline __u32 devmap_look(struct xdp_md *ctx, const struct xdp_facts *facts,
					 __u32 *target)
{
	struct ethhdr *frame = (void *)(long)ctx->data;
	struct devmap_station_key key = {};
	struct devmap_settings *settings;
	struct devmap_station *station;
	__u32 i, first = 0, address[4];

	settings = devmap_settings.lookup(&first);
	if (!settings || !settings->active || !settings->known)
		return DEVMAP_PASS_INACTIVE;
	if (facts->flags & FACT_FRAGMENT)
		return DEVMAP_PASS_FRAGMENT;
	if (!(facts->flags & FACT_PORTS) || (void *)(frame + 1) > (void *)(long)ctx->data_end ||
	    !devmap_enrolled(facts))
		return DEVMAP_PASS_NOT_ENROLLED;
	if (facts->flags & FACT_VLAN)
		return DEVMAP_PASS_VLAN;
	if (facts->flags & FACT_MULTICAST)
		return DEVMAP_PASS_MULTICAST;
	if (facts->flags & FACT_OPTIONS)
		return DEVMAP_PASS_OPTIONS;
	if (*(__u32 *)frame->h_source != *(__u32 *)settings->mac ||
	    *(__u16 *)(frame->h_source + 4) != *(__u16 *)(settings->mac + 4))
		return DEVMAP_PASS_SOURCE;
	if (bpf_ktime_get_ns() >= settings->fresh_until_ns)
		return DEVMAP_PASS_STALE;
	__builtin_memcpy(key.mac, frame->h_dest, sizeof(key.mac));
	station = devmap_stations.lookup(&key);
	if (!station || destination_address(ctx, facts, address))
		return DEVMAP_PASS_NO_ENTRY;
	if (facts->length > station->mtu + sizeof(*frame))
		return DEVMAP_PASS_TOO_BIG;
	*target = station->ifindex;
#pragma unroll
	for (i = 0; i < DEVMAP_ADDRESSES; i++) {
		if (i >= station->addresses)
			return DEVMAP_PASS_ADDRESS;
		if (station->address[i][3] == address[3] && station->address[i][2] == address[2] &&
		    station->address[i][1] == address[1] && station->address[i][0] == address[0])
			return DEVMAP_PASS_NONE;
	}
	return DEVMAP_PASS_ADDRESS;
}

XDP_SLOT(xdp_devmap)
{
	__u32 target = 0, first = 0, reason = devmap_look(ctx, facts, &target);
	struct devmap_totals *totals = devmap_totals.lookup(&first);

	if (!totals)
		return XDP_CONTINUE;
	if (!reason) {
		totals->packets++;
		totals->bytes += facts->length;
		return bpf_redirect(target, 0);
	}
	asm volatile("%0 &= 15" : "+r"(reason));
	totals->passed[reason]++;
	return XDP_CONTINUE;
}
