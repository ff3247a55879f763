/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With a verdict program the kernel hands on whole segments (tcp_read_skb), where plain TCP leaves
 * out what a repeated segment has in common with the one before. Programs do it by this.
 */
#ifndef IPC_BYPASS_TCP_OVERLAP_H
#define IPC_BYPASS_TCP_OVERLAP_H

#define LARGEST_CUT 4095 /* of bpf_skb_adjust_room() for sk_skb */
#define CUTS	    17	 /* of the largest segment */

/* Cut `overlap` bytes off the front; return what could not be cut. */
static __always_inline __u32 cut_front(struct __sk_buff *skb, __u32 overlap)
{
	__u32 step;
	int i;

#pragma unroll
	for (i = 0; i < CUTS; i++) {
		if (!overlap)
			break;
		step = overlap > LARGEST_CUT ? LARGEST_CUT : overlap;
		if (bpf_skb_adjust_room(skb, -(__s32)step, BPF_ADJ_ROOM_NET, 0))
			break;
		overlap -= step;
	}
	return overlap;
}

#endif
