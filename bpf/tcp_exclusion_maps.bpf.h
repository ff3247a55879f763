/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The maps of ends that are left out of the TCP path. They are those of tcp_path.bpf.c: the loader
 * puts them in the place of those of tcp_watch.bpf.c.
 */
#ifndef IPC_BYPASS_TCP_EXCLUSION_MAPS_BPF_H
#define IPC_BYPASS_TCP_EXCLUSION_MAPS_BPF_H

#define MAX_EXCLUSIONS 256

/* As BCC's BPF_SK_STORAGE, but what is accepted has what its listener has. */
struct exclusion_marks_table_t {
	int key;
	struct exclusion_mark leaf;
	void *(*sk_storage_get)(void *, void *, int);
	int (*sk_storage_delete)(void *);
	u32 flags;
};
__attribute__((section("maps/sk_storage"))) struct exclusion_marks_table_t exclusion_marks = {
	.flags = BPF_F_NO_PREALLOC | BPF_F_CLONE};
BPF_ANNOTATE_KV_PAIR(exclusion_marks, int, struct exclusion_mark);

BPF_TABLE("hash", struct exclusion_key, struct exclusion, exclusions, MAX_EXCLUSIONS);
/* The names in it, and users, for the program that marks sockets. */
BPF_TABLE("hash", struct program_name, __u32, excluded_names, MAX_EXCLUSIONS);
BPF_TABLE("hash", __u32, __u32, excluded_users, MAX_EXCLUSIONS);

#endif
