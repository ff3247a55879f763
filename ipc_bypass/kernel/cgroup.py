"""Find the cgroup v2 hierarchy, wherever it is mounted."""

from __future__ import annotations

import os
import re

from ipc_bypass.kernel.errors import CgroupError


def find_cgroup2(mountinfo: str = '/proc/self/mountinfo') -> str:
    """
    Return the mount point of cgroup v2.

    It is not /sys/fs/cgroup where v1 and v2 live side by side (hybrid mode). Of several mounts
    the one that shows the hierarchy's root is taken, the shortest path first.

    :param mountinfo: a file in the form of proc(5), /proc/pid/mountinfo
    :raises CgroupError: when there is none
    """
    try:
        with open(mountinfo, encoding='utf-8', errors='surrogateescape') as stream:
            lines = stream.read().splitlines()
    except OSError as error:
        raise CgroupError(f'read {mountinfo}', errno=error.errno or 0,
                          next_step='mount /proc') from error
    found = []
    for line in lines:
        # 36 35 98:0 /root /mount/point rw,noatime shared:1 - cgroup2 source rw
        before, _, after = line.partition(' - ')
        fields = before.split(' ')
        if len(fields) < 5 or after.split(' ')[0] != 'cgroup2':
            continue
        root, point = unescape(fields[3]), unescape(fields[4])
        found.append((root != '/', len(point), point))
    if not found:
        raise CgroupError('find cgroup v2', 'it is not mounted',
                          next_step='mkdir -p /sys/fs/cgroup/unified && '
                          'mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified')
    return min(found)[2]


def open_cgroup(path: str) -> int:
    """
    Open a cgroup's folder and return the descriptor, closed on exec.

    :raises CgroupError: when it cannot be opened
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CgroupError(f'open cgroup {path}', errno=error.errno or 0,
                          next_step='give the path of a folder in a cgroup v2 mount') from error


def unescape(text: str) -> str:
    r"""Return `text` with the octal escapes of mountinfo (\040 for a space) resolved."""
    return re.sub(r'\\([0-7]{3})', lambda match: chr(int(match.group(1), 8)), text)
