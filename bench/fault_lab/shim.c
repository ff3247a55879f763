/*
 * Faults for one process and its children, by LD_PRELOAD: calls of bpf(2) that fail, and a wall
 * clock that has jumped. What is to happen stands in a file that the tester has mapped, too
 * (fault_lab/shim.py has the same struct), so that it changes while the process runs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define CALLS 65536

struct shim {
	_Atomic uint64_t calls; /* of bpf(2), since the tester wrote 0 */
	uint64_t fail_at;	/* the first of them that fails, from 1; 0: none */
	uint64_t times;		/* how many fail */
	uint64_t error;		/* errno of those */
	_Atomic uint64_t failed;
	int64_t wall_clock_s;	 /* what is added to CLOCK_REALTIME */
	uint8_t commands[CALLS]; /* of each call, enum bpf_cmd */
};

static struct shim nothing, *shim = &nothing;

__attribute__((constructor)) static void map_shim(void)
{
	const char *path = getenv("IPC_BYPASS_FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *place;

	if (fd < 0)
		return;
	place = mmap(NULL, sizeof(struct shim), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (place != MAP_FAILED)
		shim = place;
}

/* Python by ctypes, and libbpf, call bpf(2) by this function: the C library has none of its own.
 */
long syscall(long number, ...)
{
	static long (*next)(long, ...);
	long word[6];
	va_list list;

	if (!next)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		word[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_bpf) {
		uint64_t call = atomic_fetch_add(&shim->calls, 1) + 1, first = shim->fail_at;

		if (call <= CALLS)
			shim->commands[call - 1] = (uint8_t)word[0];
		if (first && call >= first && call - first < shim->times) {
			atomic_fetch_add(&shim->failed, 1);
			errno = (int)shim->error;
			return -1;
		}
	}
	return next(number, word[0], word[1], word[2], word[3], word[4], word[5]);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	static int (*next)(clockid_t, struct timespec *);
	int result;

	if (!next)
		next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	result = next(clock, now);
	if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += shim->wall_clock_s;
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *place)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (place)
		*place = now.tv_sec;
	return now.tv_sec;
}

/*
 * A deadline by the wall clock, which the kernel compares with its own. A condition may be of
 * CLOCK_MONOTONIC instead: that counts from the start of the machine, and is not so far.
 */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
			   const struct timespec *restrict deadline)
{
	static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	struct timespec real = *deadline;

	if (!next)
		next = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))
			dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
	if (!next)
		next = (int (*)(pthread_cond_t *, pthread_mutex_t *,
				const struct timespec *))dlsym(RTLD_NEXT,
							       "pthread_cond_timedwait");
	if (real.tv_sec > 1000000000)
		real.tv_sec -= shim->wall_clock_s;
	return next(condition, mutex, &real);
}
