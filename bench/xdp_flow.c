/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Datagrams from one container to another, sent and read by plain sockets.
 *
 * Options: read (0: send, 1: read until SIGTERM), address (IPv4 as a number, to send to), port,
 * count, size (bytes, 16 at least), gap (nanoseconds between two, 0: as fast as it can), cpu (-1:
 * any). The reader prints `ready` first, and never sleeps.
 */
#include "udp_peer.h"
#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>

#define BUFFER (8 << 20)

static volatile sig_atomic_t ended;
static uint8_t datagram[LARGEST + 1];

static void end(int number)
{
	(void)number;
	ended = 1;
}

static int send_all(int fd, struct sockaddr_in *to, uint32_t count, uint32_t size, uint64_t gap)
{
	struct stamp stamp = {};
	uint64_t begin, first = now_ns();
	uint32_t sent = 0;

	for (; stamp.number < count && !ended; stamp.number++) {
		stamp.sent_ns = begin = now_ns();
		memcpy(datagram, &stamp, sizeof(stamp));
		sent += sendto(fd, datagram, size, 0, (struct sockaddr *)to, sizeof(*to)) ==
			(ssize_t)size;
		while (gap && now_ns() - begin < gap)
			;
	}
	printf("{\"sent\":%u,\"seconds\":%.6f}\n", sent, (now_ns() - first) / 1e9);
	return 0;
}

static int read_all(int fd, uint32_t count)
{
	uint32_t *times = calloc(count ? count : 1, sizeof(*times)), received = 0;
	uint64_t now, first = 0, last = 0;
	struct stamp stamp;

	if (!times)
		die("calloc");
	puts("ready");
	fflush(stdout);
	while (!ended && received < count) {
		if (recv(fd, datagram, sizeof(datagram), MSG_DONTWAIT) < (ssize_t)sizeof(stamp))
			continue;
		now = now_ns();
		memcpy(&stamp, datagram, sizeof(stamp));
		times[received++] = now - stamp.sent_ns;
		first = first ? first : now;
		last = now;
	}
	printf("{");
	print_times("latency", times, received);
	printf("\"received\":%u,\"seconds\":%.6f}\n", received, (last - first) / 1e9);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	long reading = option(argc, argv, "read", 0), size = option(argc, argv, "size", 64);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), buffer = BUFFER;
	uint32_t count = option(argc, argv, "count", 10000);

	signal(SIGTERM, end);
	stay_on(option(argc, argv, "cpu", -1));
	address.sin_port = htons(option(argc, argv, "port", 0));
	address.sin_addr.s_addr = htonl(option(argc, argv, "address", INADDR_ANY));
	if (fd < 0 || size < (long)sizeof(struct stamp) || size > LARGEST ||
	    setsockopt(fd, SOL_SOCKET, reading ? SO_RCVBUFFORCE : SO_SNDBUFFORCE, &buffer,
		       sizeof(buffer)))
		die("prepare");
	if (!reading)
		return send_all(fd, &address, count, size, option(argc, argv, "gap", 0));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	return read_all(fd, count);
}
