/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpf_probe_read_kernel() by its number, uapi/linux/bpf.h. By its name BCC replaces it with
 * helper 4, bpf_probe_read(), where the user who compiles is not root, and network programs may
 * not call that one.
 */
#ifndef IPC_BYPASS_READ_KERNEL_BPF_H
#define IPC_BYPASS_READ_KERNEL_BPF_H

static long (*const read_kernel_memory)(void *to, __u32 size, const void *from) = (void *)113;
#define bpf_probe_read_kernel(to, size, from) read_kernel_memory(to, size, from)
/* Read a variable at an address that is a number; 0 where that went well. */
#define READ_KERNEL(target, address) \
	bpf_probe_read_kernel(&(target), sizeof(target), (const void *)(address))

#endif
