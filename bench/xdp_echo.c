/* SPDX-License-Identifier: Apache-2.0 */
/* Send each IPv4 UDP packet back that AF_XDP brings. Options: see xdp_socket.h. */
#include "xdp_socket.h"

static void swap(uint8_t *one, uint8_t *other, size_t size)
{
	uint8_t kept[8];

	memcpy(kept, one, size);
	memcpy(one, other, size);
	memcpy(other, kept, size);
}

int main(int argc, char **argv)
{
	struct xdp_socket xdp = {};
	struct xdp_desc *packet, *sent;
	uint32_t count, done, i;
	uint64_t began;
	uint8_t *frame;

	open_socket(&xdp, argc, argv);
	began = now_ns();
	while (!ended) {
		count = wait_packets(&xdp);
		/* What was sent goes back into the fill ring, which so never overflows. */
		done = load_acquire(xdp.completion.producer);
		for (; xdp.completion.place != done; xdp.completion.place++)
			recycle(&xdp, ((uint64_t *)xdp.completion.entries)[xdp.completion.place &
									   xdp.completion.mask]);
		store_release(xdp.completion.consumer, done);
		for (i = 0; i < count; i++) {
			packet = packet_at(&xdp, i);
			frame = xdp.umem + packet->addr;
			swap(frame, frame + 6, 6);
			swap(frame + 26, frame + 30, 4);
			swap(frame + 34, frame + 36, 2);
			sent = &((struct xdp_desc *)xdp.tx.entries)[xdp.tx.place++ & xdp.tx.mask];
			*sent = *packet;
		}
		end_batch(&xdp, count);
		if (count) {
			store_release(xdp.tx.producer, xdp.tx.place);
			while (load_acquire(xdp.tx.consumer) != xdp.tx.place && !ended)
				sendto(xdp.fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		}
	}
	print_result(&xdp, began);
	return 0;
}
