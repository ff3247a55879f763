/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An AF_XDP socket by plain system calls, for the sink and the echo of `ipc-bypass bench xdp`.
 *
 * Options of both: interface (index), queue, map (descriptor of the XSKMAP), entries (of each
 * ring), batch, spin (1: never sleep), rest (microseconds of rest in a busy spell, as in
 * ipc_bypass/xdp/af_xdp/settings.py), cpu. They print "ready", and one line of JSON at SIGTERM.
 */
#ifndef XDP_SOCKET_H
#define XDP_SOCKET_H

#include "udp_peer.h"
#include <linux/bpf.h>
#include <linux/if_xdp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FRAME_SIZE 2048
#define BUSY	   8 /* packets without a pause that make a spell a busy one */

struct ring {
	uint32_t *producer, *consumer, *flags;
	void *entries;
	uint32_t mask, place; /* how far this side has come */
};

struct xdp_socket {
	struct ring rx, tx, fill, completion;
	uint8_t *umem;
	int fd;
	uint32_t entries, batch, spin, rest, spell;
	uint64_t packets, bytes;
};

static volatile sig_atomic_t ended;

static inline void end_it(int number)
{
	(void)number;
	ended = 1;
}

static inline uint32_t load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void store_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void map_ring(struct ring *ring, int fd, uint64_t page_offset,
			    const struct xdp_ring_offset *offsets, uint32_t entries, size_t size)
{
	uint8_t *memory = mmap(NULL, offsets->desc + entries * size, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_POPULATE, fd, page_offset);

	if (memory == MAP_FAILED)
		die("mmap of a ring");
	ring->producer = (uint32_t *)(memory + offsets->producer);
	ring->consumer = (uint32_t *)(memory + offsets->consumer);
	ring->flags = (uint32_t *)(memory + offsets->flags);
	ring->entries = memory + offsets->desc;
	ring->mask = entries - 1;
}

static inline void set_option(int fd, int option, const void *value, size_t size)
{
	if (setsockopt(fd, SOL_XDP, option, value, size))
		die("setsockopt of AF_XDP");
}

/* Bind the socket, with half of its frames in the fill ring, and enter it into the map. */
static inline void open_socket(struct xdp_socket *xdp, int argc, char **argv)
{
	struct xdp_umem_reg umem = {.chunk_size = FRAME_SIZE};
	struct sockaddr_xdp address = {.sxdp_family = AF_XDP};
	struct sigaction action = {.sa_handler = end_it}; /* no SA_RESTART: poll() ends */
	struct xdp_mmap_offsets offsets;
	socklen_t size = sizeof(offsets);
	union bpf_attr attr = {};
	uint32_t entries = option(argc, argv, "entries", 4096), key, i;

	xdp->entries = entries;
	xdp->batch = option(argc, argv, "batch", 256);
	xdp->spin = option(argc, argv, "spin", 0);
	xdp->rest = option(argc, argv, "rest", 250);
	stay_on(option(argc, argv, "cpu", -1));
	sigaction(SIGTERM, &action, NULL);
	xdp->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	umem.len = 2ull * entries * FRAME_SIZE;
	xdp->umem = mmap(NULL, umem.len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (xdp->fd < 0 || xdp->umem == MAP_FAILED)
		die("make an AF_XDP socket");
	umem.addr = (uintptr_t)xdp->umem;
	/* The first three fields and the headroom: what every kernel knows. */
	set_option(xdp->fd, XDP_UMEM_REG, &umem, 24);
	set_option(xdp->fd, XDP_UMEM_FILL_RING, &entries, sizeof(entries));
	set_option(xdp->fd, XDP_UMEM_COMPLETION_RING, &entries, sizeof(entries));
	set_option(xdp->fd, XDP_RX_RING, &entries, sizeof(entries));
	set_option(xdp->fd, XDP_TX_RING, &entries, sizeof(entries));
	if (getsockopt(xdp->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size))
		die("getsockopt of AF_XDP");
	map_ring(&xdp->rx, xdp->fd, XDP_PGOFF_RX_RING, &offsets.rx, entries,
		 sizeof(struct xdp_desc));
	map_ring(&xdp->tx, xdp->fd, XDP_PGOFF_TX_RING, &offsets.tx, entries,
		 sizeof(struct xdp_desc));
	map_ring(&xdp->fill, xdp->fd, XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, entries, 8);
	map_ring(&xdp->completion, xdp->fd, XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, entries,
		 8);
	for (i = 0; i < entries; i++)
		((uint64_t *)xdp->fill.entries)[i] = (uint64_t)i * FRAME_SIZE;
	xdp->fill.place = entries;
	store_release(xdp->fill.producer, entries);

	address.sxdp_flags = XDP_USE_NEED_WAKEUP;
	address.sxdp_ifindex = option(argc, argv, "interface", 0);
	address.sxdp_queue_id = key = option(argc, argv, "queue", 0);
	/* A socket that was closed gives its queue back a moment later. */
	for (i = 0; bind(xdp->fd, (struct sockaddr *)&address, sizeof(address)); i++) {
		if (errno != EBUSY || i == 200)
			die("bind an AF_XDP socket");
		usleep(5000);
	}
	attr.map_fd = option(argc, argv, "map", -1);
	attr.key = (uintptr_t)&key;
	attr.value = (uintptr_t)&xdp->fd;
	if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)))
		die("enter a socket into the XSKMAP");
	printf("ready\n");
	fflush(stdout);
}

/* Return how many packets there are, a batch at most; sleep where there is none. */
static inline uint32_t wait_packets(struct xdp_socket *xdp)
{
	struct pollfd poller = {.fd = xdp->fd, .events = POLLIN};
	uint32_t count = load_acquire(xdp->rx.producer) - xdp->rx.place;

	xdp->spell = count ? xdp->spell + count : 0;
	if (!count && !xdp->spin)
		poll(&poller, 1, 1000);
	return count < xdp->batch ? count : xdp->batch;
}

static inline struct xdp_desc *packet_at(struct xdp_socket *xdp, uint32_t place)
{
	struct xdp_desc *found =
		&((struct xdp_desc *)xdp->rx.entries)[(xdp->rx.place + place) & xdp->rx.mask];

	xdp->packets++;
	xdp->bytes += found->len;
	return found;
}

/* Put a frame back into the fill ring; shown to the kernel by `end_batch`. */
static inline void recycle(struct xdp_socket *xdp, uint64_t address)
{
	((uint64_t *)xdp->fill.entries)[xdp->fill.place++ & xdp->fill.mask] =
		address & ~(uint64_t)(FRAME_SIZE - 1);
}

static inline void end_batch(struct xdp_socket *xdp, uint32_t count)
{
	xdp->rx.place += count;
	store_release(xdp->rx.consumer, xdp->rx.place);
	store_release(xdp->fill.producer, xdp->fill.place);
	if (xdp->spell >= BUSY && count < xdp->batch && xdp->rest && !xdp->spin) {
		xdp->spell = 0;
		usleep(xdp->rest);
	}
}

static inline double processor_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Print what was received, what the kernel dropped, and what it took of the processor. */
static inline void print_result(struct xdp_socket *xdp, uint64_t began)
{
	struct xdp_statistics lost = {};
	socklen_t size = sizeof(lost);

	getsockopt(xdp->fd, SOL_XDP, XDP_STATISTICS, &lost, &size);
	printf("{\"received\":%llu,\"bytes\":%llu,\"dropped\":%llu,\"ring_full\":%llu,"
	       "\"seconds\":%.6f,\"cpu_seconds\":%.6f}\n",
	       (unsigned long long)xdp->packets, (unsigned long long)xdp->bytes,
	       (unsigned long long)lost.rx_dropped, (unsigned long long)lost.rx_ring_full,
	       (now_ns() - began) / 1e9, processor_seconds());
}

#endif /* XDP_SOCKET_H */
