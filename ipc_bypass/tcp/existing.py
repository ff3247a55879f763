"""
Connections on enrolled ports that were there before the path saw them.

sock_ops sees a connection when it is established; one that is older goes on by TCP until it is
opened anew. They are found by sock_diag(7) in every network namespace that a process of this host
lives in, in a short-lived child: `python -m ipc_bypass.tcp.existing PORTS` prints their cookies.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading

from ipc_bypass.kernel.child import run_module

_CLONE_NEWNET = 0x40000000
_ESTABLISHED = 1 << 1  # 1 << TCP_ESTABLISHED, include/net/tcp_states.h
_TIMEOUT = 30.0


class OpenedBefore:
    """
    The ends of connections that are older than their rule, or than the path: `found`, a set.

    It looks in a thread, one look at a time, however often it is asked to.
    """

    def __init__(self):
        """Make an empty one."""
        self.found = set()
        self._lock, self._busy, self._wanted = threading.Lock(), False, None
        self._closed, self._child = False, None

    def look(self, rules, entered):
        """
        Look soon for connections on the ports that have a rule.

        `rules` are one a port; `entered()` returns the cookies of the ends that the path has,
        or None when it has been released.
        """
        with self._lock:
            if self._closed:
                return
            self._wanted = rules, entered
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._run, name='opened-before', daemon=True).start()

    def close(self):
        """End a look that is under way, with its child; later ones do nothing."""
        with self._lock:
            self._closed, self._wanted = True, None
            if self._child is not None and self._child.poll() is None:
                self._child.kill()

    def _started(self, child):
        with self._lock:
            self._child = child
            if self._closed:
                child.kill()

    def _run(self):
        while True:
            with self._lock:
                if self._wanted is None:
                    self._busy = False
                    return
                (rules, entered), self._wanted = self._wanted, None
            found = established_cookies(rules, self._started)
            there = entered()
            if there is None:
                continue
            found -= there
            if found:
                # Who was there before and after `entered` was asked was there then, too; one
                # that ended in between may have been entered.
                found &= established_cookies(rules, self._started)
            self.found |= found


def established_cookies(actions, started=lambda child: None):
    """
    Return the set of cookies of established TCP sockets with an enrolled port at either end.

    `actions` is any sequence of 65,536 truth values, one a port. Namespaces that cannot be
    entered (CAP_SYS_ADMIN is missing) are left out. An empty set where the child fails.
    `started(child)` gets the child's subprocess.Popen.
    """
    ports = ','.join(f'{first}-{last}' for first, last in _ranges(actions))
    if not ports:
        return set()
    try:
        return set(json.loads(run_module(__name__, ports, timeout=_TIMEOUT,
                                         started=started).stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return set()


def _ranges(actions):
    first = None
    for port, action in enumerate(actions):
        if action and first is None:
            first = port
        elif not action and first is not None:
            yield first, port - 1
            first = None
    if first is not None:
        yield first, len(actions) - 1


def _namespaces():
    """Return a descriptor of each network namespace that a process lives in, ours first."""
    found = {}
    for pid in ['self', *filter(str.isdigit, os.listdir('/proc'))]:
        try:
            identity = os.stat(f'/proc/{pid}/ns/net').st_ino
            if identity not in found:
                found[identity] = os.open(f'/proc/{pid}/ns/net', os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
    return list(found.values())


def _cookies(enrolled):
    from socket import AF_INET, AF_INET6

    from pyroute2.netlink.diag import DiagSocket
    found = set()
    for family in (AF_INET, AF_INET6):
        with DiagSocket() as diag:
            diag.bind()
            for sock in diag.get_sock_stats(family=family, states=_ESTABLISHED):
                if sock.get('idiag_sport') in enrolled or sock.get('idiag_dport') in enrolled:
                    low, high = _cookie_words(sock)
                    found.add(high << 32 | low)
    return found


def _cookie_words(sock):
    cookie = sock['idiag_cookie']
    if isinstance(cookie, (list, tuple)):
        return cookie
    return cookie & 0xffffffff, cookie >> 32


def main(arguments):
    """Print the cookies as JSON; the argument is 'first-last,first-last'."""
    enrolled = set()
    for part in arguments[0].split(','):
        first, last = part.split('-')
        enrolled.update(range(int(first), int(last) + 1))
    libc = ctypes.CDLL(None, use_errno=True)
    found = set()
    for number, namespace in enumerate(_namespaces()):
        if number and libc.setns(namespace, _CLONE_NEWNET):
            continue
        try:
            found |= _cookies(enrolled)
        except OSError:
            continue
    print(json.dumps(sorted(found)))


if __name__ == '__main__':
    main(sys.argv[1:])
