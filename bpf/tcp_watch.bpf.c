// SPDX-License-Identifier: Apache-2.0
/*
 * Sees who relies on what a redirected socket does not have (docs/semantics.md), and has them left
 * out. Beside tcp_path.bpf.c, with maps of that program:
 *  - watch_receive, at the end of each receive: one with MSG_WAITALL, and a blocking one that
 *    answered EAGAIN;
 *  - watch_read, at each look into TCP's own receive queue: one that splice(2) makes;
 *  - mark_socket, where a socket is made: puts a mark on it when its maker is excluded.
 * The first two are raw tracepoints: unlike those of system calls they cost nothing where nobody
 * receives by a socket.
 *
 * Definitions from the loader: offsets of this kernel, OFFSET_SYSCALL that of the number of the
 * system call from the foot of the task's stack, and NUMBER_SPLICE, that of splice(2).
 */
#include <uapi/linux/bpf.h>
#include "ipc_bypass_common.h"
#include "read_kernel.bpf.h"
#include "tcp_exclusion_maps.bpf.h"

#define MSG_PEEK_FLAG	  0x02 /* include/linux/socket.h */
#define MSG_DONTWAIT_FLAG 0x40
#define MSG_WAITALL_FLAG  0x100
#define TRY_AGAIN	  11		       /* EAGAIN */
#define ENTRY_EXISTS	  17		       /* EEXIST */
#define FOR_EVER	  0x7fffffffffffffffLL /* MAX_SCHEDULE_TIMEOUT */
#define STREAM_SOCKET	  1
#define TCP_PROTOCOL	  6
#define FIRST_READS	  256
#define LATER_READS	  15 /* one of sixteen */

/* Stand-ins as well. */
BPF_TABLE("hash", __u64, struct arrival, arrivals, 2);
BPF_F_TABLE("array", __u32, struct flow, flows, 2, BPF_F_MMAPABLE);
BPF_F_TABLE("array", __u32, struct totals, totals, 1, BPF_F_MMAPABLE);

static __always_inline void count_event(enum total_event event)
{
	__u32 zero = 0;
	struct totals *sums = totals.lookup(&zero);

	if (sums)
		__sync_fetch_and_add(&sums->events[event], 1);
}

/* Have it passed what is sent to a socket, and its owner left out of connections to come. */
static __always_inline void unfit(__u64 cookie, struct arrival *arrival, enum unfit reason)
{
	struct exclusion_key key = {};
	struct exclusion found = {};
	__u32 index = arrival->flow_index, one = 1;
	struct flow *flow;
	int error;

	if (arrival->unfit)
		return;
	arrival->unfit = reason;
	flow = flows.lookup(&index);
	if (!flow || flow->cookie != cookie)
		return;
	flow->unfit = reason;
	count_event(EVENT_UNFIT_SOCKETS);
	bpf_get_current_comm(&key.name, sizeof(key.name));
	key.port = flow->rule_port;
	found.found_ns = bpf_ktime_get_ns();
	found.pid = bpf_get_current_pid_tgid() >> 32;
	found.reason = reason;
	error = exclusions.insert(&key, &found);
	if (error == -ENTRY_EXISTS)
		error = 0;
	if (!error)
		error = excluded_names.update(&key.name, &one);
	if (error)
		count_event(EVENT_EXCLUSIONS_FULL);
}

/* sock_recv_length(sk, ret, flags), from 6.3 */
int watch_receive(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 socket = ctx->args[0], cookie = 0;
	int answer = (int)ctx->args[1];
	__u32 flags = (__u32)ctx->args[2];
	struct arrival *arrival;
	__s64 patience = 0;

	if (flags & (MSG_DONTWAIT_FLAG | MSG_PEEK_FLAG))
		return 0;
	if (!(flags & MSG_WAITALL_FLAG) && answer != -TRY_AGAIN)
		return 0;
	if (READ_KERNEL(cookie, socket + OFFSET_COOKIE))
		return 0;
	arrival = arrivals.lookup(&cookie);
	if (!arrival)
		return 0;
	/* With SO_RCVTIMEO it is what a plain socket answers, too. */
	if (answer == -TRY_AGAIN && !READ_KERNEL(patience, socket + OFFSET_RCVTIMEO) &&
	    patience == FOR_EVER)
		count_event(EVENT_READS_INTERRUPTED);
	if (flags & MSG_WAITALL_FLAG)
		unfit(cookie, arrival, UNFIT_WAITALL);
	return 0;
}

/* True when the current task is in splice(2). */
static __always_inline int in_splice(void)
{
	__u64 stack = 0;
	__u32 number = 0;

	return !READ_KERNEL(stack, bpf_get_current_task() + OFFSET_STACK) &&
	       !READ_KERNEL(number, stack + OFFSET_SYSCALL) && number == NUMBER_SPLICE;
}

/*
 * tcp_rcv_space_adjust(sk), from 4.17: at the end of each read of TCP's queue, by whatever call.
 * A program reads in one way, so that its first reads tell; later ones are looked at now and then.
 */
int watch_read(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 socket = ctx->args[0], cookie = 0;
	struct arrival *arrival;
#if OFFSET_OWNED != OFFSET_UNKNOWN
	int owned = 0;
#endif

	if (READ_KERNEL(cookie, socket + OFFSET_COOKIE))
		return 0;
	arrival = arrivals.lookup(&cookie);
	if (!arrival)
		return 0;
#if OFFSET_OWNED != OFFSET_UNKNOWN
	/* Before 6.0 skb_pass reads the queue too, on arrival: the task is the sender then. */
	if (!READ_KERNEL(owned, socket + OFFSET_OWNED) && !owned)
		return 0;
#endif
	arrival->reads++;
	if (arrival->reads > FIRST_READS && arrival->reads & LATER_READS)
		return 0;
	if (!in_splice())
		return 0;
	arrival->splices++;
	unfit(cookie, arrival, UNFIT_SPLICE);
	return 0;
}

/* cgroup/sock_create */
int mark_socket(struct bpf_sock *ctx)
{
	__u32 user = bpf_get_current_uid_gid();
	struct exclusion_mark mark = {}, *kept;

	if (ctx->type != STREAM_SOCKET || ctx->protocol != TCP_PROTOCOL)
		return 1;
	bpf_get_current_comm(&mark.name, sizeof(mark.name));
	mark.user = user;
	if (excluded_users.lookup(&user) || excluded_names.lookup(&mark.name)) {
		kept = exclusion_marks.sk_storage_get(ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (kept)
			*kept = mark;
	}
	return 1;
}
