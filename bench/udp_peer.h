/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the sender and the reader of `ipc-bypass bench udp` have in common: options, the clock,
 * and datagrams whose every byte can be checked.
 *
 * Compiled at run time by ipc_bypass/bench/udp_peers.py. Options are NAME=NUMBER; one line of JSON
 * is printed at the end.
 */
#ifndef UDP_PEER_H
#define UDP_PEER_H

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LARGEST	     65507
#define MOST_SENDERS 4

/* At the head of each datagram. */
struct stamp {
	uint64_t sent_ns;
	uint32_t sender;
	uint32_t number; /* counted from 0, by sender */
};

static inline uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Return the value of an option, `otherwise` where it is not given. */
static inline long option(int argc, char **argv, const char *name, long otherwise)
{
	size_t length = strlen(name);
	int i;

	for (i = 1; i < argc; i++)
		if (!strncmp(argv[i], name, length) && argv[i][length] == '=')
			return atol(argv[i] + length + 1);
	return otherwise;
}

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline void stay_on(long cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static inline uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull; /* splitmix64 */
	value = (value ^ value >> 27) * 0x94d049bb133111ebull;
	return value ^ value >> 31;
}

/* Of one in 64 datagrams a large slot is needed, the others fit small ones. */
static inline uint32_t varied_size(uint32_t sender, uint32_t number)
{
	uint64_t chosen = mix((uint64_t)sender << 32 | number);

	if (chosen % 64 == 0)
		return 4097 + (chosen >> 8) % (LARGEST - 4096);
	if (chosen % 64 == 1)
		return 4096 - (chosen >> 8) % 16;
	return sizeof(struct stamp) + (chosen >> 8) % 1024;
}

/* Write what follows the stamp: words that no other datagram has there. */
static inline void write_content(uint8_t *datagram, uint32_t length, const struct stamp *stamp)
{
	uint64_t word = mix(~((uint64_t)stamp->sender << 32 | stamp->number));
	uint32_t at = sizeof(*stamp);

	for (; at + sizeof(word) <= length; at += sizeof(word), word += 0x9e3779b97f4a7c15ull)
		memcpy(datagram + at, &word, sizeof(word));
	memcpy(datagram + at, &word, length - at);
}

/* Return whether each byte is what its sender wrote, and the length is right. */
static inline int content_is_whole(const uint8_t *datagram, uint32_t length,
				   const struct stamp *stamp)
{
	uint64_t word = mix(~((uint64_t)stamp->sender << 32 | stamp->number)), found;
	uint32_t at = sizeof(*stamp);

	if (length != varied_size(stamp->sender, stamp->number))
		return 0;
	for (; at + sizeof(word) <= length; at += sizeof(word), word += 0x9e3779b97f4a7c15ull) {
		memcpy(&found, datagram + at, sizeof(found));
		if (found != word)
			return 0;
	}
	return !memcmp(datagram + at, &word, length - at);
}

static inline int compare(const void *one, const void *other)
{
	uint32_t first = *(const uint32_t *)one, second = *(const uint32_t *)other;

	return (first > second) - (first < second);
}

/* Print "name_us":{"p10":...} of `count` nanoseconds, which are sorted by it. */
static inline void print_times(const char *name, uint32_t *times, uint32_t count)
{
	qsort(times, count, sizeof(*times), compare);
	if (count)
		printf("\"%s_us\":{\"p10\":%.3f,\"p50\":%.3f,\"p99\":%.3f},", name,
		       times[count / 10] / 1e3, times[count / 2] / 1e3,
		       times[(uint64_t)count * 99 / 100] / 1e3);
}

#endif /* UDP_PEER_H */
