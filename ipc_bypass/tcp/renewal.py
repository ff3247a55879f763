"""
Budgets renewed from user space, where the program cannot see the receivers' queues itself.

Redirect has no back-pressure: the program lets a flow run ahead of its reader by `budget_bytes`
and passes then. This thread looks how much the reader has unread, by FIONREAD on a duplicate of
its socket (or a peek, where FIONREAD does not count redirected bytes), and raises the limit.
It sleeps until the program says by the ring buffer that half of a budget is spent.
"""

import array
import fcntl
import mmap
import os
import select
import socket
import struct
import termios
import threading
import time

from ipc_bypass.kernel.ordering import full_barrier, WEAK

#: How soon a flow whose reader is behind, or whose limits stay, is looked at again, in seconds.
RETRY = 0.001
#: The same at most: the time doubles while nothing is read, or while the limits stay.
LONGEST_RETRY = 0.016
#: How soon a flow whose reader was not found is looked at again, in seconds.
LATER = 0.5
#: How often all flows are looked at where the kernel has no ring buffer, in seconds.
POLL = 0.005
_PEEK, _VERY_MANY = 64 << 10, 1 << 40


def unread_bytes(fd, by_peek):
    """
    Return how many bytes a socket has unread.

    By peek, more than 64 KiB count as very many: a peek copies what it looks at.
    """
    if not by_peek:
        answer = array.array('i', [0])
        fcntl.ioctl(fd, termios.FIONREAD, answer)
        return answer[0]
    with socket.socket(fileno=os.dup(fd)) as sock:
        try:
            seen = len(sock.recv(_PEEK, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return 0
    return seen if seen < _PEEK else _VERY_MANY


class WakeRing:
    """The consumer's side of a BPF ring buffer of numbers (uapi/linux/bpf.h, BPF_RINGBUF_*)."""

    _BUSY, _DISCARD, _HEADER = 1 << 31, 1 << 30, 8

    def __init__(self, loaded_map, number='I'):
        """
        Map the ring: one page that we write, one that the kernel writes, the data twice.

        `number` is the form of what is in it, as the module struct has it.
        """
        self._number = f'={number}'
        page, self._size = mmap.PAGESIZE, loaded_map.max_entries
        self.fd = loaded_map.fd
        self._ours = mmap.mmap(self.fd, page, mmap.MAP_SHARED,
                               mmap.PROT_READ | mmap.PROT_WRITE)
        self._theirs = mmap.mmap(self.fd, page + 2 * self._size, mmap.MAP_SHARED,
                                 mmap.PROT_READ, offset=page)
        self._consumed = memoryview(self._ours).cast('Q')
        self._produced = memoryview(self._theirs).cast('Q')

    def drain(self):
        """Return the set of numbers that came since the last call."""
        found, place = set(), self._consumed[0]
        while place < self._produced[0]:
            start = mmap.PAGESIZE + place % self._size
            if WEAK:
                full_barrier()
            length, = struct.unpack_from('=I', self._theirs, start)
            if length & self._BUSY:
                break
            if WEAK:
                full_barrier()
            if not length & self._DISCARD:
                found.add(struct.unpack_from(self._number, self._theirs,
                                             start + self._HEADER)[0])
            length &= ~self._DISCARD
            place += (length + self._HEADER + 7) // 8 * 8
            if WEAK:
                full_barrier()
            self._consumed[0] = place
        return found

    def close(self):
        """Unmap the ring."""
        self._consumed.release()
        self._produced.release()
        self._ours.close()
        self._theirs.close()


class Renewal:
    """The thread; `ring` is None where the kernel has no ring buffer (before 5.8)."""

    def __init__(self, flows, owners, budget, ring=None, by_peek=False):
        """Look at the flows of a FlowsView; `budget()` returns its bytes and messages."""
        self._flows, self._owners, self._budget = flows, owners, budget
        self._ring, self._by_peek = ring, by_peek
        self._looked = {}  # of flows whose limits stayed: messages then, seconds to the next look
        self._end_read, self._end_write = os.pipe2(os.O_CLOEXEC)
        self._behind = {}  # of flows whose reader is behind: unread then, seconds to the next look
        self._thread = None
        self.renewed = 0

    def start(self):
        """Start the thread."""
        thread = threading.Thread(target=self._run, name='budget-renewal', daemon=True)
        thread.start()
        self._thread = thread  # not before: one that could not start cannot be joined

    def stop(self):
        """End the thread and wait for it."""
        if self._thread:
            os.write(self._end_write, b'.')
            self._thread.join()
        os.close(self._end_read)
        os.close(self._end_write)

    def _run(self):
        poll = select.poll()
        poll.register(self._end_read, select.POLLIN)
        if self._ring:
            poll.register(self._ring.fd, select.POLLIN)
        # When a flow is to be looked at again; what an earlier start was asked is not asked anew.
        due = dict.fromkeys(self._flows.live(), 0.0)
        while True:
            now = time.monotonic()
            wait = min([max(0, at - now) for at in due.values()] + ([] if self._ring else [POLL]),
                       default=None)
            ready = dict(poll.poll(None if wait is None else max(1, int(wait * 1000))))
            if self._end_read in ready:
                return
            now = time.monotonic()
            for index in ({index for index, at in due.items() if at <= now}
                          | (self._ring.drain() if self._ring else set(self._flows.live()))):
                due[index] = now + self._renew(index)
                if due[index] == now:
                    del due[index]

    def _renew(self, index):
        """Raise one flow's limit; return in how many seconds to look again, 0 for when asked."""
        flows = self._flows
        cookie, peer = flows.get(index, 'cookie'), flows.get(index, 'peer_cookie')
        if not cookie or not peer:
            return 0
        # The duplicate is closed at once: as long as we hold it, the owner's close() closes
        # nothing.
        try:
            fd = self._owners.socket(peer, flows.get(flows.get(index, 'peer_index'), 'pid'))
        except OSError:
            return LATER  # such as no descriptor that is free: the thread has to go on
        if fd is None:
            return LATER  # not accepted yet, or not ours to see; the budget runs out: safe
        # In this order: what is redirected after this read only makes the limit too low.
        redirected = flows.get(index, 'redirected_bytes')
        try:
            unread = unread_bytes(fd, self._by_peek)
        except OSError:
            return 0
        finally:
            os.close(fd)
        budget, most_messages = self._budget()
        raised = self._renew_messages(index, redirected, unread, most_messages)
        limit, before = redirected + max(0, budget - unread), flows.get(index, 'budget_limit')
        # A little more is worth no write while there is much: each has the program ask anew.
        if limit > before + (budget // 8 if before - redirected > budget // 2 else 0) and \
                flows.get(index, 'cookie') == cookie:
            flows.put(index, 'budget_limit', limit)
            self.renewed += 1
            raised = True
        if raised:
            self._looked.pop(index, None)
        if unread > budget // 2:
            return self._until_read(index, unread)
        self._behind.pop(index, None)
        return 0 if raised else self._until_asked(index)

    def _until_read(self, index, unread):
        """Return in how many seconds to look at a flow whose reader is behind."""
        before, retry = self._behind.get(index, (None, RETRY))
        # A peek does not tell how much very many are: the reader may be at it.
        retry = min(2 * retry, LONGEST_RETRY) if unread == before and unread < _VERY_MANY \
            else RETRY
        self._behind[index] = unread, retry
        return retry

    def _until_asked(self, index):
        """
        Return in how many seconds to look at a flow whose limits were left as they are.

        The program asks once for the same limits, and may do so before it counts the message
        that it asks for. So we go on looking while messages come; after that, 0: it asks anew.
        """
        messages = self._flows.get(index, 'redirected_messages')
        before, retry = self._looked.pop(index, (None, RETRY))
        if before != messages:
            self._looked[index] = messages, min(2 * retry, LONGEST_RETRY)
            return retry
        self._flows.put(index, 'asked_limit', 0)
        return 0

    def _renew_messages(self, index, redirected, unread, most):
        """Raise the limit of messages once those before the checkpoint are read; return if so."""
        flows = self._flows
        messages = flows.get(index, 'redirected_messages')
        if messages + most // 4 < flows.get(index, 'message_limit') or \
                unread > redirected - flows.get(index, 'checkpoint_bytes'):
            return False
        flows.put(index, 'checkpoint_bytes', redirected)
        flows.put(index, 'message_limit', messages + most // 2)
        return True
