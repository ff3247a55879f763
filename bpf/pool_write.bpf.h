/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Put a payload into the pool. The loader includes this file as text, for BCC rewrites map calls
 * in the main file only.
 *
 * The program that includes it declares the maps rings, allocator, claims, released, small_slots,
 * large_slots, descriptors and wakes; the loader defines SMALL_SLOTS, LARGE_SLOTS, RINGS,
 * RING_ENTRIES and ORDERED_STORES.
 */

#define TRIES	  8  /* slots looked at before a payload is left out */
#define HOT_TRIES 2  /* of these, among the hot ones */
#define HOT_SMALL 64 /* how many there are; no pool has fewer slots */
#define HOT_LARGE 8

/*
 * A store that is seen in the order of the program. x86 has no others; elsewhere it takes an
 * atomic (ORDERED_STORES is 0 there).
 */
#if ORDERED_STORES
#define ORDERED_STORE(place, value)                   \
	do {                                          \
		asm volatile("" : : : "memory");      \
		*(volatile __u64 *)(place) = (value); \
		asm volatile("" : : : "memory");      \
	} while (0)
#else
#define ORDERED_STORE(place, value) __sync_lock_test_and_set(place, value)
#endif

#define RING_MARGIN 64 /* places that processors may be about to reserve */

/* A slot that is being written. */
struct reservation {
	__u64 sequence;
	__u64 now;
	__u32 class;
	__u32 slot;
};

/* How many slots of a class are in use; the sum over the rings is made where it matters. */
static __always_inline __s64 slots_in_use(struct allocator *all, __u32 class, __u64 limit)
{
	__s64 taken = all->claimed[class] - all->freed[class];
	__u64 sum = 0;
	__u32 i;

	if (taken - (__s64)all->released[class] <= (__s64)(limit / 2))
		return 0;
#pragma unroll
	for (i = 0; i < RINGS; i++) {
		__u32 number = i;
		struct ring *ring = rings.lookup(&number);

		if (ring)
			sum += ring->released[class];
	}
	all->released[class] = sum;
	return taken - (__s64)sum;
}

/*
 * Claim a free slot; return its index among all slots, or -1.
 *
 * `hot`: try a few slots first that were used a moment ago, and are in the processor's caches.
 * That is for what has one reader: an observer has the more time the later a slot is used again.
 */
static __always_inline int claim_slot(struct allocator *all, __u32 class, __u32 hot,
				      __u64 *sequence, __u64 *contended)
{
	__u64 ticket = __sync_fetch_and_add(&all->next[class], 1), claim;
	__u64 *owned, *given_back;
	__u32 slot, i;

#pragma unroll
	for (i = 0; i < TRIES; i++) {
		if (hot && i < HOT_TRIES)
			slot = class == SMALL_SLOT
				       ? (ticket + i * (HOT_SMALL / HOT_TRIES)) % HOT_SMALL
				       : SMALL_SLOTS + (ticket + i * (HOT_LARGE / HOT_TRIES)) %
							       HOT_LARGE;
		else if (class == SMALL_SLOT)
			slot = (ticket + i * (SMALL_SLOTS / TRIES)) % SMALL_SLOTS;
		else
			slot = SMALL_SLOTS + (ticket + i * (LARGE_SLOTS / TRIES)) % LARGE_SLOTS;
		owned = claims.lookup(&slot);
		given_back = released.lookup(&slot);
		if (!owned || !given_back)
			return -1;
		claim = *(volatile __u64 *)owned;
		if (claim & 1 || *(volatile __u64 *)given_back != claim >> 1)
			continue;
		/* Others were faster by a whole life of the slot: its numbers never go back. */
		if (ticket + 1 <= claim >> 1)
			continue;
		if (__sync_val_compare_and_swap(owned, claim, (ticket + 1) << 1 | 1) == claim) {
			*sequence = ticket + 1;
			return slot;
		}
		__sync_fetch_and_add(contended, 1);
	}
	return -1;
}

/*
 * Tell those who sleep; return 1 where somebody was told, -1 where there was no room for it. To be
 * called after the descriptor's number was published by an atomic.
 */
static __always_inline int wake(struct ring *ring, __u32 number, __u64 ready)
{
	__u64 owner = ring->owner_wake, told = number;
	void *buffer;

	if (owner && ready >= owner)
		ring->owner_wake = 0;
	else if (!ring->observer_wake)
		return 0;
	ring->observer_wake = 0;
	buffer = wakes.lookup(&number);
	if (buffer && !bpf_ringbuf_output(buffer, &told, sizeof(told), BPF_RB_FORCE_WAKEUP))
		return 1;
	return -1;
}

/* Find a slot for a payload; return why there is none, or UDP_PASS_NONE. */
static __always_inline __u32 reserve_slot(struct ring *ring, __u32 length, __u32 hot,
					  const struct udp_settings *set, __u64 *contended,
					  struct reservation *got)
{
	__u32 class = length > SMALL_SLOT_DATA, zero = 0;
	struct allocator *all = allocator.lookup(&zero);
	int slot;

	if (!all)
		return UDP_PASS_NO_CONSUMER;
	got->now = bpf_ktime_get_ns();
	got->class = class;
	/* The consumer may have written it after this program looked at the clock. */
	if (got->now + set->heartbeat_ns - ring->heartbeat_ns > 2 * set->heartbeat_ns)
		return UDP_PASS_STALE_HEARTBEAT;
	if (*(volatile __u64 *)&ring->head - ring->cursor >= RING_ENTRIES - RING_MARGIN)
		return UDP_PASS_RING_FULL;
	if (slots_in_use(all, class, set->use_limit[class]) >= (__s64)set->use_limit[class])
		return UDP_PASS_POOL_FULL;
	slot = claim_slot(all, class, hot, &got->sequence, contended);
	if (slot < 0)
		return UDP_PASS_NO_SLOT;
	got->slot = slot;
	return UDP_PASS_NONE;
}

static __always_inline struct small_slot *small_slot_of(const struct reservation *got)
{
	__u32 index = got->slot;
	struct small_slot *slot = small_slots.lookup(&index);

	/* Observers read without asking: no payload stands in the slot until the end. */
	if (slot)
		ORDERED_STORE(&slot->header.sequence, 0);
	return slot;
}

static __always_inline struct large_slot *large_slot_of(const struct reservation *got)
{
	__u32 index = got->slot - SMALL_SLOTS;
	struct large_slot *slot = large_slots.lookup(&index);

	if (slot)
		ORDERED_STORE(&slot->header.sequence, 0);
	return slot;
}

/* Give a slot back that nothing was put into. */
static __always_inline void cancel_slot(const struct reservation *got)
{
	__u32 index = got->slot;
	__u64 *owned = claims.lookup(&index), *given_back = released.lookup(&index);

	if (!owned || !given_back)
		return;
	*(volatile __u64 *)given_back = got->sequence;
	ORDERED_STORE(owned, got->sequence << 1);
}

/* Say that a slot is whole; the other fields of its header are written by then. */
static __always_inline void commit_slot(const struct reservation *got, struct slot_header *header,
					__u32 ring_number)
{
	__u32 index = got->slot, zero = 0;
	struct allocator *all = allocator.lookup(&zero);
	__u64 *owned = claims.lookup(&index);

	if (!owned || !all)
		return;
	header->capture_ns = got->now;
	header->ring = ring_number;
	ORDERED_STORE(&header->sequence, got->sequence);
	ORDERED_STORE(owned, got->sequence << 1);
	__sync_fetch_and_add(&all->claimed[got->class], 1);
}

/* Reserve the next descriptor of a ring, for a slot that is committed. */
static __always_inline struct descriptor *
next_descriptor(const struct reservation *got, struct ring *ring, __u32 ring_number, __u64 *place)
{
	struct descriptor *descriptor;
	__u32 index;

	*place = __sync_fetch_and_add(&ring->head, 1);
	index = ring_number * RING_ENTRIES + (*place & (RING_ENTRIES - 1));
	descriptor = descriptors.lookup(&index);
	if (!descriptor)
		return 0;
	ORDERED_STORE(&descriptor->number, 0);
	descriptor->sequence = got->sequence;
	descriptor->capture_ns = got->now;
	descriptor->slot = got->slot;
	return descriptor;
}

/* Show a descriptor to those who read the ring; return what wake() says. */
static __always_inline int publish(struct ring *ring, __u32 ring_number,
				   struct descriptor *descriptor, __u64 place)
{
	__sync_lock_test_and_set(&descriptor->number, place + 1);
	/* Counted to the head: of two that publish at once, the later one sees both. */
	return wake(ring, ring_number, *(volatile __u64 *)&ring->head - ring->cursor);
}
