// SPDX-License-Identifier: Apache-2.0
/*
 * The proxy's kernel path: what one socket of a pair receives is sent on by the other, without a
 * process in between. User space pairs them, and puts both into the sockhashes.
 *
 * The program itself sees when that is safe. A segment may be redirected when all that came before
 * it is written to the other socket: nothing is queued for that one, and user space holds nothing.
 * It has to be granted, too: user space takes the grant back before it reads again, so that it
 * never reads what came after redirected bytes that are not written yet.
 *
 * From then on all that comes is redirected, as long as the kernel's worker, which writes it, is
 * not more than a budget behind. Then segments pass: user space reads them at the pace of a plain
 * proxy, so that TCP's back-pressure reaches the sender, until nothing is left again.
 *
 * Whole segments are handed to the program; what came before is cut off by its sequence number,
 * the first word of the segment's control block (struct tcp_skb_cb, include/net/tcp.h).
 *
 * Compiled by BCC. Definitions from the loader:
 *   MAX_SOCKETS        two for each connection
 *   OFFSET_COOKIE      where this kernel keeps a socket's cookie,
 *   OFFSET_WRITE_SEQ   and the sequence number that it writes next
 */
#include <uapi/linux/bpf.h>
#include "proxy_path.h"
#include "read_kernel.bpf.h"
#include "tcp_overlap.bpf.h"

/* As BCC's BPF_SOCKHASH, with a value that user space can read. */
struct proxy_sockets_t {
	__u64 key;
	__u64 leaf;
	int (*update)(__u64 *, __u64 *);
	int (*delete)(__u64 *);
	int (*sock_hash_update)(void *, void *, u64);
	int (*msg_redirect_hash)(void *, void *, u64);
	int (*sk_redirect_hash)(void *, void *, u64);
	__u32 max_entries;
};
/* The program is attached to this one. */
__attribute__((section("maps/sockhash"))) struct proxy_sockets_t proxy_sources = {
	.max_entries = MAX_SOCKETS};
/* Both sockets of a pair are here before one of them is there: what comes has where to go. */
__attribute__((section("maps/sockhash"))) struct proxy_sockets_t proxy_targets = {
	.max_entries = MAX_SOCKETS};

BPF_TABLE("hash", __u64, struct proxied, proxied, MAX_SOCKETS);
BPF_TABLE("percpu_array", __u32, struct proxy_totals, proxy_totals, 1);
/* Sockets that user space does not read at the moment, by cookie: not 0 while it does not. */
BPF_TABLE("hash", __u64, __u32, grants, MAX_SOCKETS);
/* Cookies of sockets whose segments are redirected from now on, or pass from now on. */
BPF_RINGBUF_OUTPUT(wake, 1);

static __always_inline void count_outcome(enum proxy_outcome outcome)
{
	__u32 zero = 0;
	struct proxy_totals *sums = proxy_totals.lookup(&zero);

	if (sums)
		sums->outcomes[outcome]++;
}

/*
 * Return how many of the bytes before `sequence` are not written to the other socket yet, or -1
 * where that cannot be seen. A cookie is never given twice: the same one before and after says
 * that what was read between is that socket's.
 */
static __always_inline __s64 not_written(const struct proxied *direction, __u32 sequence)
{
	__u64 before = 0, after = 0;
	__u32 written = 0;
	__s32 left;

	if (READ_KERNEL(before, direction->target_address + OFFSET_COOKIE) ||
	    READ_KERNEL(written, direction->target_address + OFFSET_WRITE_SEQ) ||
	    READ_KERNEL(after, direction->target_address + OFFSET_COOKIE))
		return -1;
	if (before != direction->other || after != direction->other)
		return -1;
	left = (sequence - direction->first_sequence) - (written - direction->target_base);
	return left;
}

static __always_inline int granted(__u64 cookie)
{
	__u32 *grant = grants.lookup(&cookie);

	return grant && *grant;
}

int skb_forward(struct __sk_buff *skb)
{
	__u32 sequence = skb->cb[0], length = skb->len, overlap, begin;
	__u64 cookie = bpf_get_socket_cookie(skb), other;
	struct proxied *direction = proxied.lookup(&cookie);
	__s64 left;

	if (!direction) {
		count_outcome(PROXY_NOT_PAIRED);
		return SK_PASS;
	}
	/*
	 * The end of a direction, which the socket knows without it. Queued behind what this
	 * socket is to send, the kernel's worker would take it for a failure of the socket.
	 */
	if (!length) {
		count_outcome(PROXY_END);
		return SK_DROP;
	}
	begin = direction->next_sequence;
	overlap = begin - sequence;
	direction->next_sequence = sequence + length;
	if (overlap) {
		if (overlap >= length || cut_front(skb, overlap)) {
			count_outcome(PROXY_OVERLAP_KEPT);
		} else {
			count_outcome(PROXY_OVERLAP_TRIMMED);
			length -= overlap;
		}
	}
	left = not_written(direction, begin);
	if (left < 0 || (!direction->redirecting && (left > 0 || !granted(cookie)))) {
		count_outcome(PROXY_NOT_EMPTY);
		goto pass;
	}
	if (left > direction->budget) {
		count_outcome(PROXY_BUDGET);
		goto pass;
	}
	other = direction->other;
	if (proxy_targets.sk_redirect_hash(skb, &other, 0) != SK_PASS) {
		count_outcome(PROXY_NO_TARGET);
		goto pass;
	}
	if (!direction->redirecting) {
		direction->redirecting = 1;
		wake.ringbuf_output(&cookie, sizeof(cookie), 0);
	}
	direction->bytes += length;
	direction->segments++;
	direction->last_ns = bpf_ktime_get_ns();
	count_outcome(PROXY_REDIRECTED);
	return SK_PASS;

pass:
	if (direction->redirecting) {
		__u32 none = 0;

		/* The next grant is for when user space has read what passes. */
		grants.update(&cookie, &none);
		direction->redirecting = 0;
		wake.ringbuf_output(&cookie, sizeof(cookie), 0);
	}
	return SK_PASS;
}
