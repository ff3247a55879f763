#!/bin/busybox sh
# The first process of the virtual machine. It shows the host's root file system, read by 9p,
# under a layer of memory that takes what is written, runs /exchange/command in it, and powers
# off. The machine is told by its kernel's command line nothing but to run this.
busybox=/bin/busybox

fail() {
	$busybox echo "machine: $*"
	$busybox poweroff -f
}

for folder in proc sys dev host memory new; do
	$busybox mkdir -p "/$folder"
done
$busybox mount -t proc proc /proc
$busybox mount -t devtmpfs dev /dev
while read -r module; do
	$busybox insmod "/modules/$module" || fail "insmod $module"
done </modules/order

# Nobody changes the host's files meanwhile that matters here, so that they may be cached.
$busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host ||
	fail 'no 9p'
$busybox mount -t tmpfs -o size=50% memory /memory
$busybox mkdir /memory/upper /memory/work
$busybox mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work new /new ||
	fail 'no overlay'

$busybox mkdir -p /new/exchange
$busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none exchange \
	/new/exchange || fail 'no folder for the results'
$busybox mount -t proc proc /new/proc
$busybox mount -t sysfs sys /new/sys
$busybox mount -t devtmpfs dev /new/dev
$busybox mkdir -p /new/dev/shm /new/dev/pts
$busybox mount -t tmpfs shm /new/dev/shm
$busybox mount -t devpts pts /new/dev/pts
$busybox mount -t tmpfs run /new/run
$busybox mount -t cgroup2 cgroup /new/sys/fs/cgroup
$busybox mount -t bpf bpf /new/sys/fs/bpf
$busybox mount -t tracefs tracefs /new/sys/kernel/tracing
# The kernel allows TCP a share of this machine's little memory: what a small host has.
$busybox echo '143949 191933 287898' >/new/proc/sys/net/ipv4/tcp_mem
$busybox ip link set lo up
$busybox hostname machine

# Orphans of the command are this process's children: it stays, and so does its root.
$busybox chroot /new /bin/bash /exchange/command >/new/exchange/output 2>&1
$busybox echo $? >/new/exchange/status
$busybox sync
$busybox poweroff -f
