// SPDX-License-Identifier: Apache-2.0
/*
 * The far ends of a TCP proxy under test: servers, and clients that measure.
 *
 *   proxy_peer echo  ADDRESS PORT SIZE
 *       answers every SIZE bytes of a connection with as many
 *   proxy_peer sink  ADDRESS PORT
 *       reads, and at the end of a connection answers how many bytes it read (8 bytes)
 *   proxy_peer ask   ADDRESS PORT SIZE CONNECTIONS SECONDS
 *       on each connection one request of SIZE bytes after the other, for so long
 *   proxy_peer bulk  ADDRESS PORT SIZE CONNECTIONS SECONDS
 *       writes blocks of SIZE bytes on each, for so long
 *
 * A server prints "ready" when it listens. A client prints one line of JSON: what it did, and what
 * the whole machine did meanwhile (processor seconds that were not idle, context switches).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH	   256
#define MOST_FDS   65536
#define STEPS	   64  /* of a histogram, for each power of two */
#define WARM_UP	   0.3 /* of the time, at most half a second */
#define PATIENCE   20  /* seconds */
#define WAVE	   100 /* connections that are made at once */
#define NANOSECOND 1e-9

struct connection {
	uint64_t done;	/* bytes of this request or, in a sink, of all */
	uint64_t begun; /* when the request was sent, in ns */
	uint32_t owed;	/* bytes of an answer that are still to be written */
};

struct machine {
	double busy; /* seconds, of all processors */
	uint64_t switches;
	double own; /* seconds of this process */
};

static struct connection *connections;
static char *block;
static size_t block_size;
static uint64_t histogram[64 * STEPS], remembered;

static void fail(const char *what)
{
	fprintf(stderr, "proxy_peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

static struct machine machine_now(void)
{
	unsigned long long user, nice, system, idle, wait, irq, soft, steal;
	struct machine found = {};
	struct rusage usage;
	char line[4096];
	FILE *stat = fopen("/proc/stat", "r");

	if (!stat)
		fail("/proc/stat");
	while (fgets(line, sizeof(line), stat)) {
		/* The first line is the sum of all processors. */
		if (!strncmp(line, "cpu ", 4) &&
		    sscanf(line, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice,
			   &system, &idle, &wait, &irq, &soft, &steal) == 8)
			found.busy =
				(double)(user + nice + system + irq + soft) / sysconf(_SC_CLK_TCK);
		sscanf(line, "ctxt %lu", &found.switches);
	}
	fclose(stat);
	getrusage(RUSAGE_SELF, &usage);
	found.own = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
		    (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
	return found;
}

static void remember(uint64_t took)
{
	int power = 63 - __builtin_clzll(took | STEPS);
	/* The first powers of two are counted one by one. */
	uint64_t step = (took >> (power - 6)) & (STEPS - 1);

	histogram[power * STEPS + step]++;
	remembered++;
}

static double percentile(double share)
{
	uint64_t seen = 0, wanted = share * remembered;
	int i;

	for (i = 0; i < 64 * STEPS; i++) {
		seen += histogram[i];
		if (seen > wanted) {
			int power = i / STEPS;

			return ((1ULL << power) + ((uint64_t)(i % STEPS) << (power - 6))) * 1e-3;
		}
	}
	return 0;
}

static socklen_t parse_address(const char *text, const char *port,
			       struct sockaddr_storage *address)
{
	struct sockaddr_in *four = (void *)address;
	struct sockaddr_in6 *six = (void *)address;

	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(atoi(port));
		return sizeof(*four);
	}
	if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
		fail(text);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(atoi(port));
	return sizeof(*six);
}

static void watch(int epoll, int fd, uint32_t events, int operation)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	if (epoll_ctl(epoll, operation, fd, &event))
		fail("epoll_ctl");
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Write what is owed; return -1 when the connection ended. */
static int pay(int fd, int epoll)
{
	struct connection *it = &connections[fd];
	uint32_t before = it->owed;
	ssize_t sent;

	while (it->owed) {
		sent = send(fd, block, it->owed < block_size ? it->owed : block_size,
			    MSG_NOSIGNAL);
		if (sent < 0)
			break;
		it->owed -= sent;
	}
	if (it->owed && errno != EAGAIN)
		return -1;
	if (it->owed && before)
		watch(epoll, fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
	return 0;
}

static int serve(int fd, int epoll, int echo, uint32_t size, uint32_t events)
{
	struct connection *it = &connections[fd];
	ssize_t got;

	if (events & EPOLLOUT) {
		watch(epoll, fd, EPOLLIN, EPOLL_CTL_MOD);
		if (pay(fd, epoll))
			return -1;
	}
	for (;;) {
		got = recv(fd, block, block_size, 0);
		if (got < 0)
			return errno == EAGAIN ? 0 : -1;
		if (!got) {
			if (!echo)
				send(fd, &it->done, sizeof(it->done), MSG_NOSIGNAL);
			return -1;
		}
		it->done += got;
		if (echo) {
			it->owed += it->done / size * size;
			it->done %= size;
			if (pay(fd, epoll))
				return -1;
		}
		if ((size_t)got < block_size)
			return 0;
	}
}

static void serve_all(char **arguments, int echo)
{
	struct sockaddr_storage address;
	socklen_t length = parse_address(arguments[0], arguments[1], &address);
	int listener = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	uint32_t size = echo ? atoi(arguments[2]) : 1;
	struct epoll_event events[BATCH];
	int one = 1, epoll = epoll_create1(0), i, count, fd;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 16384))
		fail("listen");
	watch(epoll, listener, EPOLLIN, EPOLL_CTL_ADD);
	puts("ready");
	fflush(stdout);
	for (;;) {
		count = epoll_wait(epoll, events, BATCH, -1);
		for (i = 0; i < count; i++) {
			fd = events[i].data.fd;
			if (fd != listener) {
				if (serve(fd, epoll, echo, size, events[i].events))
					close(fd);
				continue;
			}
			while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
				if (fd >= MOST_FDS) {
					close(fd);
					continue;
				}
				memset(&connections[fd], 0, sizeof(*connections));
				no_delay(fd);
				watch(epoll, fd, EPOLLIN, EPOLL_CTL_ADD);
			}
		}
	}
}

static void receive(int fd, void *to, size_t size)
{
	struct pollfd wanted = {.fd = fd, .events = POLLIN};
	size_t done = 0;
	ssize_t got;

	while (done < size) {
		/* A redirected socket may be woken without data, and not wait again. */
		errno = ETIMEDOUT;
		if (poll(&wanted, 1, PATIENCE * 1000) <= 0)
			fail("no answer");
		got = recv(fd, (char *)to + done, size - done, MSG_DONTWAIT);
		if (!got)
			errno = ECONNRESET;
		if (!got || (got < 0 && errno != EAGAIN))
			fail("recv");
		done += got > 0 ? got : 0;
	}
}

/* Connect, and where a size is given have one request of it answered on each. */
static int *connect_all(char **arguments, int count, uint32_t size)
{
	struct sockaddr_storage address;
	socklen_t length = parse_address(arguments[0], arguments[1], &address);
	int *fds = calloc(count, sizeof(*fds)), i, asked = 0;

	for (i = 0; i < count; i++) {
		fds[i] = socket(address.ss_family, SOCK_STREAM, 0);
		if (fds[i] < 0 || fds[i] >= MOST_FDS ||
		    connect(fds[i], (struct sockaddr *)&address, length))
			fail("connect");
		no_delay(fds[i]);
		if (size && send(fds[i], block, size, MSG_NOSIGNAL) != size)
			fail("send");
		/* A proxy that is busy may take no new connections for long: those that are
		 * there wait for the others. */
		if (size && (i == count - 1 || i - asked == WAVE))
			for (; asked <= i; asked++)
				receive(fds[asked], block, size);
	}
	return fds;
}

static void report(struct machine before, uint64_t began, uint64_t count, double bytes)
{
	struct machine after = machine_now();
	double seconds = (now_ns() - began) * NANOSECOND;

	printf("{\"seconds\": %.6f, \"requests\": %lu, \"bytes\": %.0f, \"p50_us\": %.3f, "
	       "\"p99_us\": %.3f, \"busy_seconds\": %.3f, \"switches\": %lu, "
	       "\"client_seconds\": %.3f}\n",
	       seconds, count, bytes, percentile(0.5), percentile(0.99), after.busy - before.busy,
	       after.switches - before.switches, after.own - before.own);
}

static void ask(char **arguments)
{
	uint32_t size = atoi(arguments[2]);
	int count = atoi(arguments[3]), epoll = epoll_create1(0), i, ready, fd;
	double seconds = atof(arguments[4]),
	       warm = seconds * WARM_UP < 0.5 ? seconds * WARM_UP : 0.5;
	int *fds = connect_all(arguments, count, size);
	struct epoll_event events[BATCH];
	uint64_t began = now_ns(), end, now, answered = 0;
	struct machine before = {};
	int measuring = 0;
	ssize_t got;

	end = began + warm * 1e9;
	for (i = 0; i < count; i++) {
		watch(epoll, fds[i], EPOLLIN, EPOLL_CTL_ADD);
		connections[fds[i]].begun = now_ns();
		if (send(fds[i], block, size, MSG_NOSIGNAL) != size)
			fail("send");
	}
	for (;;) {
		ready = epoll_wait(epoll, events, BATCH, 10000);
		now = now_ns();
		if (ready <= 0) {
			errno = ETIMEDOUT;
			fail("no answer");
		}
		if (now >= end) {
			if (measuring)
				break;
			measuring = 1;
			began = now;
			end = now + seconds * 1e9;
			before = machine_now();
		}
		for (i = 0; i < ready; i++) {
			struct connection *it;

			fd = events[i].data.fd;
			it = &connections[fd];
			got = recv(fd, block, size - it->done, 0);
			if (got <= 0)
				fail("recv");
			it->done += got;
			if (it->done < size)
				continue;
			now = now_ns();
			if (measuring) {
				remember(now - it->begun);
				answered++;
			}
			it->done = 0;
			it->begun = now;
			if (send(fd, block, size, MSG_NOSIGNAL) != size)
				fail("send");
		}
	}
	/* One that had to wait all the time has waited for so long at least. */
	for (i = 0; i < count; i++)
		if (connections[fds[i]].begun < began)
			remember(now - connections[fds[i]].begun);
	report(before, began, answered, 2.0 * size * answered);
}

static void bulk(char **arguments)
{
	uint32_t size = atoi(arguments[2]);
	int count = atoi(arguments[3]), epoll = epoll_create1(0), i, ready;
	double seconds = atof(arguments[4]);
	int *fds = connect_all(arguments, count, 0);
	struct epoll_event events[BATCH];
	uint64_t began, end, total = 0, part;
	struct machine before;
	ssize_t sent;

	before = machine_now();
	began = now_ns();
	end = began + seconds * 1e9;
	if (count == 1) {
		while (now_ns() < end)
			if (send(fds[0], block, size, MSG_NOSIGNAL) < 0)
				fail("send");
	} else {
		for (i = 0; i < count; i++)
			watch(epoll, fds[i], EPOLLOUT, EPOLL_CTL_ADD);
		while (now_ns() < end) {
			ready = epoll_wait(epoll, events, BATCH, 10000);
			for (i = 0; i < ready; i++) {
				sent = send(events[i].data.fd, block, size,
					    MSG_NOSIGNAL | MSG_DONTWAIT);
				if (sent < 0 && errno != EAGAIN)
					fail("send");
			}
		}
	}
	for (i = 0; i < count; i++) {
		shutdown(fds[i], SHUT_WR);
		receive(fds[i], &part, sizeof(part));
		total += part;
	}
	report(before, began, total / size, total);
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	const char *role = argc > 1 ? argv[1] : "";
	int client = !strcmp(role, "ask") || !strcmp(role, "bulk");
	int echo = !strcmp(role, "echo");

	if (argc != (client ? 7 : echo ? 5 : 4) || !(client || echo || !strcmp(role, "sink"))) {
		fprintf(stderr, "usage: proxy_peer echo|sink|ask|bulk ADDRESS PORT ...\n");
		return 2;
	}
	/* More than the limit is not needed, and may not be had. */
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	block_size = client || echo ? atoi(argv[4]) : 0;
	if (block_size < 1 << 20)
		block_size = 1 << 20;
	block = malloc(block_size);
	connections = calloc(MOST_FDS, sizeof(*connections));
	if (!block || !connections)
		fail("memory");
	memset(block, 'b', block_size);
	if (client && role[0] == 'a')
		ask(argv + 2);
	else if (client)
		bulk(argv + 2);
	else
		serve_all(argv + 2, echo);
	return 0;
}
