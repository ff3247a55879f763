/* SPDX-License-Identifier: Apache-2.0 */
/* Receive by AF_XDP and forget: what the socket can take. Options: see xdp_socket.h. */
#include "xdp_socket.h"

int main(int argc, char **argv)
{
	struct xdp_socket xdp = {};
	uint64_t began;
	uint32_t count, i;

	open_socket(&xdp, argc, argv);
	began = now_ns();
	while (!ended) {
		count = wait_packets(&xdp);
		for (i = 0; i < count; i++)
			recycle(&xdp, packet_at(&xdp, i)->addr);
		if (count)
			end_batch(&xdp, count);
	}
	print_result(&xdp, began);
	return 0;
}
