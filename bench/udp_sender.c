/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Send datagrams to a port of 127.0.0.1, one each `gap` nanoseconds, and time each sendto().
 *
 * Options: port, count, size (bytes, 16 at least; 0: varied, every byte to be checked), gap (0: as
 * fast as it can), sender (0 to 3), cpu (-1: any).
 */
#include "udp_peer.h"
#include <arpa/inet.h>
#include <sys/socket.h>

static uint8_t datagram[LARGEST];

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	uint64_t gap, begin, end, first;
	uint32_t count, size, length, i, sent = 0, *times;
	struct stamp stamp = {};
	int fd;

	count = option(argc, argv, "count", 10000);
	size = option(argc, argv, "size", 64);
	gap = option(argc, argv, "gap", 0);
	stamp.sender = option(argc, argv, "sender", 0);
	to.sin_port = htons(option(argc, argv, "port", 0));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	stay_on(option(argc, argv, "cpu", -1));
	times = calloc(count ? count : 1, sizeof(*times));
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || !times || size > LARGEST || (size && size < sizeof(stamp)))
		die("prepare");

	first = now_ns();
	for (i = 0; i < count; i++) {
		stamp.number = i;
		length = size ? size : varied_size(stamp.sender, i);
		if (!size)
			write_content(datagram, length, &stamp);
		stamp.sent_ns = begin = now_ns();
		memcpy(datagram, &stamp, sizeof(stamp));
		if (sendto(fd, datagram, length, 0, (struct sockaddr *)&to, sizeof(to)) == length)
			sent++;
		end = now_ns();
		times[i] = end - begin;
		if (gap)
			while (now_ns() - begin < gap)
				;
	}
	printf("{");
	print_times("send", times, count);
	printf("\"sent\":%u,\"refused\":%u,\"seconds\":%.6f}\n", sent, count - sent,
	       (now_ns() - first) / 1e9);
	return 0;
}
