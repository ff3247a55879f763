"""
Writers whose reader closed with redirected bytes unread: told of it, as TCP would have.

A reader that closes with unread bytes makes TCP send a reset. Redirected bytes are not in TCP's
own queue, so that it sends a FIN; and a writer that was held up by then, since its reader did not
read, hears nothing more: what is left of the reader does not answer its probes. It would wait for
a minute and more. So such a writer's connection is reset here, within about a second.
"""

import array
import ctypes
import fcntl
import os
import socket
import threading

from ipc_bypass.tcp.renewal import unread_bytes

PERIOD = 1.0
_CLOSE_WAIT = 8  # include/net/tcp_states.h
_SIOCOUTQNSD = 0x894b  # bytes that were never sent, linux/sockios.h
_libc = ctypes.CDLL(None, use_errno=True)


class AbandonedWriters:
    """
    A thread that looks for them; `reset` counts those that were told.

    :param flows: a FlowsView
    :param owners: an Owners
    :param by_peek: as for Renewal
    """

    def __init__(self, flows, owners, by_peek=False):
        """Prepare to look."""
        self._flows, self._owners, self._by_peek = flows, owners, by_peek
        self._end = threading.Event()
        self._thread = None
        self.reset = 0

    def start(self):
        """Start the thread."""
        thread = threading.Thread(target=self._run, name='abandoned-writers', daemon=True)
        thread.start()
        self._thread = thread  # not before: one that could not start cannot be joined

    def stop(self):
        """End the thread and wait for it."""
        self._end.set()
        if self._thread:
            self._thread.join()

    def _run(self):
        while not self._end.wait(PERIOD):
            for cookie, pid in self._without_peer():
                self.reset += self._tell(cookie, pid)

    def _without_peer(self):
        """Return (cookie, pid) of the ends that redirected to a socket which has closed."""
        view = self._flows
        ends = {view.get(index, 'cookie'): index for index in view.live()}
        found = []
        for cookie, index in ends.items():
            peer = view.get(index, 'peer_cookie')
            if cookie and peer and peer not in ends:
                found.append((cookie, view.get(index, 'pid')))
        return found

    def _tell(self, cookie, pid):
        """Reset one end where it waits in vain; return whether that was done."""
        try:
            fd = self._owners.socket(cookie, pid)
        except OSError:  # such as no descriptor that is free: the next look may do
            return False
        if fd is None:
            return False
        try:
            # Bytes that its peer sent before it closed stay to be read.
            return _waits_in_vain(fd) and not unread_bytes(fd, self._by_peek) and abort(fd)
        except OSError:
            return False
        finally:
            os.close(fd)


def _waits_in_vain(fd):
    """Return whether the other end has closed, and bytes wait that TCP could not send."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _CLOSE_WAIT:
            return False
    waiting = array.array('i', [0])
    fcntl.ioctl(fd, _SIOCOUTQNSD, waiting)
    return waiting[0] > 0


def abort(fd):
    """Abort a connection: its owner gets ECONNRESET (net/ipv4/tcp.c, tcp_disconnect)."""
    nobody = bytes(16)  # a struct sockaddr of AF_UNSPEC
    return _libc.connect(fd, nobody, len(nobody)) == 0
