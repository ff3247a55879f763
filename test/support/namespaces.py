"""
Network namespaces with real interfaces, in this very process.

A namespace belongs to a thread, and a socket to the namespace in which it was made: a test
enters one for as long as it takes to make its sockets, and needs no further process.
"""

from contextlib import contextmanager
import ctypes
import itertools
import os
import subprocess

#: Every namespace of the tests has a name that starts so, and then the pid of the test session.
PREFIX = 'ipcbt-'
SERVER, CLIENT = '10.123.0.1', '10.123.0.2'
SERVER_V6, CLIENT_V6 = 'fd00:123::1', 'fd00:123::2'

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace with its loopback up; removed at the end of a `with` block."""

    def __init__(self, label=''):
        """Make it; `label` is part of its name."""
        self.name = f'{PREFIX}{os.getpid()}-{next(_numbers)}{label}'
        ip('netns', 'add', self.name)
        self.ip('link', 'set', 'lo', 'up')

    def ip(self, *arguments):
        """Run `ip` in it."""
        ip('-n', self.name, *arguments)

    @contextmanager
    def entered(self):
        """Have this thread in it."""
        with open('/proc/thread-self/ns/net', 'rb') as before, \
                open(f'/run/netns/{self.name}', 'rb') as there:
            _setns(there.fileno())
            try:
                yield self
            finally:
                _setns(before.fileno())

    def sysctl(self, name, value):
        """Write a setting of the namespace, for example net.ipv4.tcp_fastopen."""
        with self.entered(), open('/proc/sys/' + name.replace('.', '/'), 'w') as stream:
            stream.write(str(value))

    @contextmanager
    def inhabited(self):
        """Have a process live in it, as one does in every container."""
        process = subprocess.Popen(self.command('sleep', '1000'))
        try:
            yield self
        finally:
            process.kill()
            process.wait()

    def command(self, *arguments):
        """Return the words that run a program in it."""
        return ['ip', 'netns', 'exec', self.name, *arguments]

    def close(self):
        """Remove it; sockets that are open in it keep it alive until they are closed."""
        ip('netns', 'del', self.name)

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Remove it."""
        self.close()


@contextmanager
def bridged_pair():
    """
    Yield (server's, client's) Namespace, joined by veth and a bridge in a third one.

    The addresses are SERVER and CLIENT, and SERVER_V6 and CLIENT_V6, the same in every pair.
    """
    with Namespace('b') as switch, Namespace('s') as server, Namespace('c') as client:
        switch.ip('link', 'add', 'br0', 'type', 'bridge')
        switch.ip('link', 'set', 'br0', 'up')
        for number, (space, address, address_v6) in enumerate(
                ((server, SERVER, SERVER_V6), (client, CLIENT, CLIENT_V6))):
            switch.ip('link', 'add', f'port{number}', 'type', 'veth', 'peer', 'name', 'eth0',
                      'netns', space.name)
            switch.ip('link', 'set', f'port{number}', 'master', 'br0', 'up')
            space.ip('link', 'set', 'eth0', 'up')
            space.ip('address', 'add', f'{address}/24', 'dev', 'eth0')
            space.ip('address', 'add', f'{address_v6}/64', 'dev', 'eth0', 'nodad')
        yield server, client


def ip(*arguments):
    """Run `ip`; raises AssertionError with what it said."""
    done = subprocess.run(['ip', *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def _setns(fd):
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
