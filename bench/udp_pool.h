/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The owner's side of the pool, as ipc_bypass/pool/reader.py has it: map it, take a descriptor,
 * give its slot back, sleep.
 */
#ifndef UDP_POOL_H
#define UDP_POOL_H

#include "udp_peer.h"
#include <linux/types.h>
#include "pool_layout.h"
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

struct pool {
	struct pool_header header;
	struct small_slot *small;
	struct large_slot *large;
	struct descriptor *descriptors; /* of our ring */
	struct ring *ring;
	__u64 *released;
	__u64 cursor;
	__u64 generation;
	int epoll;
	__u64 *consumed, *produced; /* of the ring buffer that wakes us */
};

static inline void *map_part(int fd, size_t size, int protection, off_t offset)
{
	void *part = mmap(NULL, size, protection, MAP_SHARED, fd, offset);

	if (part == MAP_FAILED)
		die("map the pool");
	return part;
}

/* Map the inherited descriptors that the options name; the lease is the parent's. */
static inline void open_pool(struct pool *pool, int argc, char **argv)
{
	const int both = PROT_READ | PROT_WRITE;
	long page = sysconf(_SC_PAGESIZE), number = option(argc, argv, "ring", 0);
	int wake = option(argc, argv, "wake", -1);
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	struct pool_header *header;
	struct ring *rings;

	header = map_part(option(argc, argv, "pool_header", -1), page, both, 0);
	pool->header = *header;
	if (header->magic != POOL_MAGIC || header->version != POOL_VERSION)
		die("the pool is of another version");
	pool->small = map_part(option(argc, argv, "small_slots", -1),
			       sizeof(*pool->small) * header->slots[SMALL_SLOT], both, 0);
	pool->large = map_part(option(argc, argv, "large_slots", -1),
			       sizeof(*pool->large) * header->slots[LARGE_SLOT], both, 0);
	pool->released = map_part(
		option(argc, argv, "released", -1),
		sizeof(__u64) * (header->slots[SMALL_SLOT] + header->slots[LARGE_SLOT]), both, 0);
	rings = map_part(option(argc, argv, "rings", -1), sizeof(*rings) * header->rings, both, 0);
	pool->ring = rings + number;
	pool->descriptors =
		(struct descriptor *)map_part(option(argc, argv, "descriptors", -1),
					      sizeof(struct descriptor) * header->rings *
						      header->ring_entries,
					      both, 0) +
		number * header->ring_entries;
	pool->cursor = option(argc, argv, "cursor", 0);
	__atomic_store_n(&pool->ring->cursor, pool->cursor, __ATOMIC_RELEASE);
	pool->generation = option(argc, argv, "generation", 0);
	pool->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (pool->epoll < 0 || epoll_ctl(pool->epoll, EPOLL_CTL_ADD, wake, &event))
		die("epoll");
	pool->consumed = map_part(wake, page, both, 0);
	pool->produced = map_part(wake, page, PROT_READ, page);
}

static inline void beat(struct pool *pool, __u64 now)
{
	__atomic_store_n(&pool->ring->heartbeat_ns, now, __ATOMIC_RELAXED);
}

/* Return the next descriptor where it stands, or NULL. */
static inline struct descriptor *ready(struct pool *pool)
{
	struct descriptor *next =
		pool->descriptors + (pool->cursor & (pool->header.ring_entries - 1));

	return __atomic_load_n(&next->number, __ATOMIC_ACQUIRE) == pool->cursor + 1 ? next : NULL;
}

static inline void go_past(struct pool *pool)
{
	__atomic_store_n(&pool->ring->cursor, ++pool->cursor, __ATOMIC_RELEASE);
}

/* Return the payload of a descriptor, and its slot's header in `header`. */
static inline const uint8_t *payload(struct pool *pool, const struct descriptor *found,
				     struct slot_header **header)
{
	__u32 small = pool->header.slots[SMALL_SLOT];

	if (found->slot < small) {
		*header = &pool->small[found->slot].header;
		return pool->small[found->slot].data;
	}
	*header = &pool->large[found->slot - small].header;
	return pool->large[found->slot - small].data;
}

static inline void give_back(struct pool *pool, const struct descriptor *found)
{
	__u64 *sum = &pool->ring->released[found->slot >= pool->header.slots[SMALL_SLOT]];

	__atomic_store_n(sum, *sum + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&pool->released[found->slot], found->sequence, __ATOMIC_RELEASE);
}

/* Sleep until the program says that there is something; at most `milliseconds`. */
static inline void sleep_until_ready(struct pool *pool, int milliseconds)
{
	struct epoll_event event;

	__atomic_store_n(&pool->ring->owner_wake, 1, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!ready(pool))
		epoll_wait(pool->epoll, &event, 1, milliseconds);
	__atomic_store_n(&pool->ring->owner_wake, 0, __ATOMIC_RELAXED);
}

/* One record is left in the ring buffer always: one that seems empty ends no wait. */
static inline void make_room(struct pool *pool)
{
	__u64 produced = __atomic_load_n(pool->produced, __ATOMIC_ACQUIRE);

	if (produced - *pool->consumed > 2048)
		__atomic_store_n(pool->consumed, produced - 16, __ATOMIC_RELEASE);
}

#endif /* UDP_POOL_H */
