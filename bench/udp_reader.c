/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read datagrams from a port of 127.0.0.1, or from the pool, until SIGTERM or the last one.
 *
 * Options: port, count (of the one sender; it ends with that number), source (0: the socket; 1:
 * the pool), block (1: sleep instead of looking again at once), drain (when to empty the socket
 * beside the pool: 0 never, 1 after each datagram of the pool, 2 at each look), check (1: every
 * byte, order by sender, and the slot's header), cpu, and for the pool ring, generation and the
 * descriptors by name.
 */
#include "udp_peer.h"
#include "udp_pool.h"
#include <arpa/inet.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define LOOKS 1024 /* between two looks at the clock */

static volatile sig_atomic_t ended;
static uint8_t buffer[LARGEST + 1];
static uint32_t *times, received, expected, wrong, disordered, stale;
static int64_t last[MOST_SENDERS] = {-1, -1, -1, -1};
static int checking;

static void end(int number)
{
	(void)number;
	ended = 1;
}

/* Take note of one datagram; the clock is looked at when its first bytes were read. */
static uint64_t note(const uint8_t *datagram, uint32_t length)
{
	struct stamp stamp;
	uint64_t now;

	if (length < sizeof(stamp)) {
		wrong++;
		return now_ns();
	}
	memcpy(&stamp, datagram, sizeof(stamp));
	atomic_signal_fence(memory_order_seq_cst);
	now = now_ns();
	if (received < expected && times)
		times[received] = now - stamp.sent_ns;
	received++;
	if (stamp.sender >= MOST_SENDERS) {
		wrong++;
		return now;
	}
	if (checking) {
		wrong += !content_is_whole(datagram, length, &stamp);
		disordered += (int64_t)stamp.number <= last[stamp.sender];
	} else if (stamp.number + 1 == expected) {
		ended = 1;
	}
	last[stamp.sender] = stamp.number;
	return now;
}

static int bound_socket(int port, int size)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)))
		die("bind");
	return fd;
}

static void read_socket(int fd, int flags)
{
	ssize_t length;

	while (!ended) {
		length = recv(fd, buffer, sizeof(buffer), flags);
		if (length >= 0)
			note(buffer, length);
	}
}

static void take(struct pool *pool, const struct descriptor *next)
{
	struct descriptor found = *next;
	struct slot_header *header;
	const uint8_t *datagram = payload(pool, &found, &header);

	go_past(pool);
	/* The watchdog may have given a slot of ours back that stood too long. */
	if (__atomic_load_n(&pool->released[found.slot], __ATOMIC_ACQUIRE) >= found.sequence) {
		stale++;
		beat(pool, now_ns());
		return;
	}
	beat(pool, note(datagram, found.length));
	if (checking)
		wrong += header->sequence != found.sequence || header->length != found.length;
	give_back(pool, &found);
}

static void empty(int fd)
{
	while (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) >= 0)
		;
}

static void read_pool(struct pool *pool, int fd, int block, int drain)
{
	struct descriptor *next;
	uint32_t looks = 0;

	while (!ended) {
		next = ready(pool);
		if (next)
			take(pool, next);
		if (drain == 2 || (drain && next))
			empty(fd);
		if (next) {
			continue;
		} else if (block) {
			sleep_until_ready(pool, 100);
			make_room(pool);
			if (!ready(pool))
				beat(pool, now_ns());
		} else if (++looks % LOOKS == 0) {
			beat(pool, now_ns());
		}
	}
	while (checking && (next = ready(pool)))
		take(pool, next);
}

int main(int argc, char **argv)
{
	int block = option(argc, argv, "block", 0), source = option(argc, argv, "source", 0), fd;
	struct sigaction action = {.sa_handler = end};
	struct pool pool = {};

	expected = option(argc, argv, "count", 0);
	checking = option(argc, argv, "check", 0);
	times = calloc(expected ? expected : 1, sizeof(*times));
	if (!times)
		die("calloc");
	sigaction(SIGTERM, &action, NULL);
	stay_on(option(argc, argv, "cpu", -1));
	fd = bound_socket(option(argc, argv, "port", 0), option(argc, argv, "buffer", 1 << 20));
	if (source) {
		open_pool(&pool, argc, argv);
		beat(&pool, now_ns());
	}
	printf("ready\n");
	fflush(stdout);
	if (source)
		read_pool(&pool, fd, block, option(argc, argv, "drain", 0));
	else
		read_socket(fd, block ? 0 : MSG_DONTWAIT);

	printf("{");
	if (!checking)
		print_times("latency", times, received < expected ? received : expected);
	printf("\"received\":%u,\"wrong\":%u,\"disordered\":%u,\"stale\":%u,\"held\":%d}\n",
	       received, wrong, disordered, stale,
	       source && __atomic_load_n(&pool.ring->generation, __ATOMIC_ACQUIRE) ==
				 pool.generation);
	return 0;
}
