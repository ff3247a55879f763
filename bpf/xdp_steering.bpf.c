/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steering to AF_XDP: packets to enrolled ports go to the socket that has their receive queue,
 * all others to the next slot.
 *
 * What is enrolled for a queue without a socket passes, too: a process that ended leaves the
 * traffic to the kernel.
 */
#include "xdp_slot.bpf.h"
#include "xdp_steering.h"

#define ICMP_REQUEST	   8
#define ICMP6_REQUEST	   128
#define ICMP6_SOLICITATION 135
#define ARP_OPERATION_BYTE 7 /* the lower byte of the operation */
#define ARP_REQUEST	   1

BPF_XSKMAP(xsks, STEERING_QUEUES);
/* A byte for each enum steering_holder, the first one the lowest. */
BPF_F_TABLE("array", __u32, __u32, steering_ports, STEERING_PORTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, __u32, steering_switches, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(steering_counts, struct steering_counts, 1);

/* Return what any holder asks for. */
static __always_inline __u32 steering_joined(__u32 word)
{
	return (word | word >> 8) & 0xff;
}

/* Return a byte of the packet, -1 where it has none there. */
static __always_inline int steering_byte(struct xdp_md *ctx, __u64 offset)
{
	void *end = (void *)(long)ctx->data_end;
	__u8 *place = (void *)(long)ctx->data;

	asm volatile("%0 &= 0x7ff" : "+r"(offset));
	place += offset;
	if ((void *)(place + 1) > end)
		return -1;
	return *place;
}

/* Return whether one of the switches asks for a packet that has no port. */
static __always_inline int steering_wants(struct xdp_md *ctx, const struct xdp_facts *facts,
					  __u32 switches)
{
	int type;

	if (facts->ethertype == ETH_P_ARP && switches & STEERING_NEIGHBOURS)
		return steering_byte(ctx, facts->l3_offset + ARP_OPERATION_BYTE) == ARP_REQUEST;
	if (facts->flags & (FACT_FRAGMENT | FACT_IP_ERROR))
		return 0;
	if (facts->family == 4 && facts->protocol == IPPROTO_ICMP) {
		type = steering_byte(ctx, facts->l4_offset);
		return switches & STEERING_ECHO && type == ICMP_REQUEST;
	}
	if (facts->family == 6 && facts->protocol == IPPROTO_ICMPV6) {
		type = steering_byte(ctx, facts->l4_offset);
		return (switches & STEERING_ECHO && type == ICMP6_REQUEST) ||
		       (switches & STEERING_NEIGHBOURS && type == ICMP6_SOLICITATION);
	}
	return 0;
}

XDP_SLOT(xdp_steering)
{
	__u32 zero = 0, port, outcome, asked;
	__u32 *switches = steering_switches.lookup(&zero);
	struct steering_counts *counts = steering_counts.lookup(&zero);
	__u32 *enrolled;
	int wanted = 0, answer = XDP_CONTINUE;

	if (!counts || !switches)
		return XDP_CONTINUE;
	outcome = STEERING_NOT_ENROLLED;
	asked = steering_joined(*switches);
	if (asked & STEERING_ALL) {
		wanted = 1;
	} else if (facts->flags & FACT_FRAGMENT) {
		outcome = STEERING_FRAGMENT;
	} else if (facts->flags & FACT_PORTS) {
		port = facts->destination_port;
		enrolled = steering_ports.lookup(&port);
		if (enrolled)
			wanted = steering_joined(*enrolled) &
				 (facts->protocol == IPPROTO_UDP   ? STEERING_UDP
				  : facts->protocol == IPPROTO_TCP ? STEERING_TCP
								   : 0);
	} else if (asked) {
		wanted = steering_wants(ctx, facts, asked);
	}
	if (wanted) {
		answer = xsks.redirect_map(ctx->rx_queue_index, XDP_PASS);
		outcome = STEERING_REDIRECTED;
		if (answer != XDP_REDIRECT) {
			outcome = STEERING_NO_SOCKET;
			answer = XDP_CONTINUE;
		}
	}
	asm volatile("%0 &= 3" : "+r"(outcome));
	counts->packets[outcome]++;
	return answer;
}
