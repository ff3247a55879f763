"""
How much memory redirected data may take, so that TCP does not run out of it.

Where TCP's memory is used up, a plain send waits, and a redirected one fails with ENOMEM. All TCP
sockets of the host share net.ipv4.tcp_mem; below its first number TCP does not regulate itself.
"""

import mmap

_MANY = 1 << 62


def tcp_memory_room():
    """
    Return how many bytes may be redirected and unread in all.

    Half of what TCP may use without regulating itself, 0 while it uses more than all of that.
    """
    try:
        with open('/proc/sys/net/ipv4/tcp_mem') as stream:
            unregulated = int(stream.read().split()[0])
        with open('/proc/net/sockstat') as stream:
            words = next(line for line in stream if line.startswith('TCP:')).split()
        used = int(words[words.index('mem') + 1])
    except (OSError, ValueError, IndexError, StopIteration):
        return _MANY
    return 0 if used > unregulated else unregulated * mmap.PAGESIZE // 2
