"""What the tests of socket behaviour share: pairs, observations, and the table of behaviours."""

import array
import contextlib
from dataclasses import dataclass
import errno
import fcntl
import functools
import os
import select
import socket
import struct
import termios
import threading
import time

import pytest

#: No call of a test waits longer, in seconds.
PATIENCE = 5
#: How long a test waits to see that nothing happens, in seconds.
PAUSE = 0.05
KINDS = ('plain', 'redirected', 'passed')
ADDRESSES = {'ipv4': '127.0.0.1', 'ipv6': '::1'}


@dataclass
class Pair:
    """
    Two ends of one connection.

    `kind` is 'plain' (no rule for its port), 'redirected' (enrolled and steered) or 'passed'
    (enrolled, and the node was deactivated after the connection was established).
    """

    client: socket.socket
    server: socket.socket
    kind: str

    @property
    def enrolled(self):
        """Return whether both ends are in the map of the TCP path."""
        return self.kind != 'plain'


def behaviour(*, same=None, plain=None, redirected=None, passed=None,
              families=('ipv4', 'ipv6'), may_pass=False):
    """
    Make a test of a scenario: a function that takes a Pair and returns what it observed.

    `same` is what every kind of connection must show; else `plain` and `redirected` are what
    those must show, and `passed` what a passing one must, the same as plain where it is not
    given. `may_pass` allows messages of the redirected connection to take the usual way.
    """
    expected = dict.fromkeys(KINDS, same) if same is not None else {
        'plain': plain, 'redirected': redirected, 'passed': plain if passed is None else passed}

    def decorate(scenario):
        # To pass, the node is deactivated and activated again, which takes its time: once.
        @pytest.mark.parametrize(('kind', 'family'), [
            *((kind, family) for kind in ('plain', 'redirected') for family in families),
            ('passed', families[0])])
        @functools.wraps(scenario)
        def test(connections, kind, family):
            with connections(kind, family, may_pass) as pair:
                observed = scenario(pair)
            wanted = expected[kind]
            assert observed == wanted, f'{observed!r} instead of {wanted!r}'

        # pytest asks for the arguments of what a wrapper wraps.
        del test.__wrapped__
        test.differs = same is None
        return test

    return decorate


# Observations -------------------------------------------------------------------------------


def outcome(call, *arguments):
    """Return what a call returns, or the name of its error."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, 'timeout')


def read(sock, size):
    """Return up to `size` bytes: fewer where the stream ends or an error comes first."""
    got = bytearray()
    while len(got) < size:
        part = outcome(sock.recv, size - len(got))
        if not part or isinstance(part, str):
            break
        got += part
    return bytes(got)


def ioctl_number(sock, request):
    """Return the int that an ioctl writes."""
    answer = array.array('i', [0])
    fcntl.ioctl(sock.fileno(), request, answer)
    return answer[0]


def fionread(sock):
    """Return how many bytes can be read."""
    return ioctl_number(sock, termios.FIONREAD)


def arrived(sock, size):
    """Wait until `size` bytes can be read; the loopback device needs a moment."""
    end = time.monotonic() + PATIENCE
    while fionread(sock) < size and time.monotonic() < end:
        time.sleep(0.001)
    return fionread(sock) >= size


def readable(sock, wait=PATIENCE):
    """Return whether poll(2) tells that something can be read, within `wait` seconds."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(int(wait * 1000)))


def set_linger(sock, seconds):
    """Set SO_LINGER; with 0 seconds a close sends a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, seconds))


def set_timeouts(sock, seconds):
    """Set SO_RCVTIMEO and SO_SNDTIMEO: the calls stay blocking, unlike with settimeout()."""
    value = struct.pack('@qq', int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


# Something that blocks ----------------------------------------------------------------------


def blocked_in(task, fd):
    """Wait until a task (a folder of /proc) sleeps in a system call on this descriptor."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with open(f'{task}/syscall', encoding='ascii') as stream:
            fields = stream.read().split()
        if len(fields) > 1 and int(fields[1], 16) == fd:
            return
        time.sleep(0.001)
    raise TimeoutError(f'{task} did not block on descriptor {fd}')


class Call:
    """A call in a thread of its own; `result()` is its outcome."""

    def __init__(self, call, *arguments):
        """Start it."""
        self._answer = 'did not return'
        self._thread = threading.Thread(target=self._run, args=(call, *arguments), daemon=True)
        self._thread.start()

    def _run(self, call, *arguments):
        self._answer = outcome(call, *arguments)

    @property
    def ident(self):
        """Return the thread's identifier for signal.pthread_kill."""
        return self._thread.ident

    def blocked(self, sock):
        """Wait until the call sleeps in a system call on this socket; return self."""
        blocked_in(f'/proc/self/task/{self._thread.native_id}', sock.fileno())
        return self

    def result(self, wait=PATIENCE):
        """Return the outcome, 'did not return' where it takes longer than `wait` seconds."""
        self._thread.join(wait)
        return self._answer


class Child:
    """A call in a forked process; `result()` is its outcome."""

    def __init__(self, call, *arguments):
        """Fork; the child does the call and nothing else."""
        self._read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            with contextlib.suppress(BaseException):
                os.write(write, repr(outcome(call, *arguments)).encode())
            os._exit(0)
        os.close(write)

    def blocked(self, sock):
        """Wait until the child sleeps in a system call on this socket; return self."""
        blocked_in(f'/proc/{self.pid}', sock.fileno())
        return self

    def result(self):
        """Return the outcome as its repr, and end the child."""
        ready, _, _ = select.select([self._read], [], [], PATIENCE)
        answer = os.read(self._read, 4096).decode() if ready else 'did not return'
        os.close(self._read)
        if not ready:
            os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        return answer
