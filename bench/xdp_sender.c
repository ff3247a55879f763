/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Send UDP frames out of an interface by a packet socket, at a rate or as fast as it can, or one
 * at a time and wait for each to come back.
 *
 * Options: interface (index), to (MAC as a number), port, size (bytes of a frame, 64 at least),
 * rate (packets a second, 0: as fast as it can), milliseconds, cpu, count (round trips; then it
 * waits for answers), spin (1: never sleep while it waits).
 */
#include "udp_peer.h"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/socket.h>

#define BATCH	   32
#define MOST_BYTES 1514
#define HEADERS	   42 /* Ethernet, IPv4, UDP */
#define LOST_MS	   100

static uint8_t frames[BATCH][MOST_BYTES];

/* Fill the headers: 198.18.0.1 port 40000 to 198.18.0.2, without a UDP checksum. */
static void write_headers(uint8_t *frame, uint64_t to, uint32_t port, uint32_t size)
{
	uint8_t headers[HEADERS] = {
		[6] = 2,   [11] = 1,   [12] = 8,	  [14] = 0x45,	     [22] = 64,
		[23] = 17, [26] = 198, [27] = 18,	  [29] = 1,	     [30] = 198,
		[31] = 18, [33] = 2,   [34] = 40000 >> 8, [35] = 40000 & 255};
	uint32_t sum = 0, i;

	for (i = 0; i < 6; i++)
		headers[i] = to >> (40 - 8 * i);
	headers[16] = (size - 14) >> 8;
	headers[17] = (size - 14) & 255;
	headers[36] = port >> 8;
	headers[37] = port & 255;
	headers[38] = (size - 34) >> 8;
	headers[39] = (size - 34) & 255;
	for (i = 14; i < 34; i += 2)
		sum += headers[i] << 8 | headers[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	headers[24] = ~sum >> 8;
	headers[25] = ~sum & 255;
	memcpy(frame, headers, sizeof(headers));
}

/* Send until the time is over; return how many the interface took. */
static uint64_t flood(int fd, uint32_t size, uint64_t rate, uint64_t milliseconds)
{
	struct mmsghdr messages[BATCH] = {};
	struct iovec parts[BATCH];
	uint64_t began = now_ns(), end = began + milliseconds * 1000000, sent = 0, due;
	uint32_t i, count = BATCH;
	int taken;

	for (i = 0; i < BATCH; i++) {
		parts[i].iov_base = frames[i];
		parts[i].iov_len = size;
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while (now_ns() < end) {
		if (rate) {
			due = (now_ns() - began) * rate / 1000000000;
			if (due <= sent)
				continue;
			count = due - sent < BATCH ? due - sent : BATCH;
		}
		taken = sendmmsg(fd, messages, count, 0);
		if (taken > 0)
			sent += taken;
		else if (errno != ENOBUFS && errno != EAGAIN)
			die("sendmmsg");
	}
	return sent;
}

/* Send one, wait for it, and so on; return how many came back, their times in `times`. */
static uint32_t round_trips(int fd, uint32_t size, uint32_t count, int spin, uint32_t *times)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN};
	uint8_t answer[MOST_BYTES];
	uint32_t number, back = 0;
	uint64_t began, end;
	ssize_t length;

	for (number = 1; number <= count; number++) {
		memcpy(frames[0] + HEADERS, &number, sizeof(number));
		began = now_ns();
		if (send(fd, frames[0], size, 0) < 0)
			die("send");
		for (;;) {
			end = now_ns();
			if (end - began > LOST_MS * 1000000ull)
				break;
			if (!spin)
				poll(&poller, 1, LOST_MS);
			length = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
			if (length == size && answer[23] == 17 &&
			    !memcmp(answer + HEADERS, &number, sizeof(number))) {
				times[back++] = now_ns() - began;
				break;
			}
		}
	}
	return back;
}

int main(int argc, char **argv)
{
	struct sockaddr_ll address = {.sll_family = AF_PACKET};
	uint32_t size = option(argc, argv, "size", 64), count = option(argc, argv, "count", 0);
	uint32_t *times = calloc(count ? count : 1, sizeof(*times)), back, i;
	uint64_t sent, began;
	int fd, yes = 1;

	if (size < 64 || size > MOST_BYTES || !times)
		die("options");
	stay_on(option(argc, argv, "cpu", -1));
	for (i = 0; i < BATCH; i++)
		write_headers(frames[i], option(argc, argv, "to", 0),
			      option(argc, argv, "port", 4242), size);
	/* Protocol 0 receives nothing, which costs the least. */
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, count ? htons(ETH_P_IP) : 0);
	address.sll_protocol = count ? htons(ETH_P_IP) : 0;
	address.sll_ifindex = option(argc, argv, "interface", 0);
	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("make a packet socket");
	printf("ready\n");
	fflush(stdout);
	began = now_ns();
	if (count) {
		back = round_trips(fd, size, count, option(argc, argv, "spin", 0), times);
		printf("{");
		print_times("roundtrip", times, back);
		printf("\"sent\":%u,\"back\":%u}\n", count, back);
		return 0;
	}
	sent = flood(fd, size, option(argc, argv, "rate", 0),
		     option(argc, argv, "milliseconds", 1000));
	printf("{\"sent\":%llu,\"seconds\":%.6f}\n", (unsigned long long)sent,
	       (now_ns() - began) / 1e9);
	return 0;
}
