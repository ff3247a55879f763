"""Interfaces that come, go and change, as the watcher tells them."""

import os
import struct
import subprocess
import threading
import time

from interface_tools import needs_privilege
from ipc_bypass.xdp import watcher as watcher_module
from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.interfaces import find, select
from ipc_bypass.xdp.netlink import NetlinkError, NetlinkSocket
from ipc_bypass.xdp.watcher import InterfaceWatcher
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

pytestmark = needs_privilege


class Log:
    """What a watcher told."""

    def __init__(self):
        self.told = []

    def callbacks(self):
        """Return the callbacks, as keyword arguments."""
        return {
            'appeared': lambda now: self.told.append(('appeared', now.name, now.index)),
            'vanished': lambda was: self.told.append(('vanished', was.name, was.index)),
            'renamed': lambda was, now: self.told.append(('renamed', was.name, now.name)),
            'changed': lambda was, now: self.told.append(('changed', was, now))}

    def until(self, *expected):
        """Wait until exactly this was told, and forget it."""
        wait_until(lambda: len(self.told) >= len(expected), f'{expected} is told')
        assert self.told == [*expected]
        self.told.clear()


@pytest.fixture
def space():
    """Have this thread in a namespace of its own."""
    with Namespace() as made, made.entered():
        yield made


@pytest.fixture
def watch():
    """Return InterfaceWatcher; what it makes is closed after the test."""
    made = []

    def make(*arguments, **options):
        made.append(InterfaceWatcher(*arguments, **options))
        return made[-1]

    yield make
    for watcher in made:
        watcher.close()


@pytest.fixture
def log():
    """Return a Log."""
    return Log()


def add(space, name, *more):
    space.ip('link', 'add', name, *more, 'type', 'veth', 'peer', 'name', f'p{name}')
    return find(name)


def test_life_of_an_interface(space, log, watch):
    watcher = watch(['v*'], **log.callbacks())
    made = add(space, 'v0')
    log.until(('appeared', 'v0', made.index))
    space.ip('link', 'set', 'v0', 'mtu', '1400')
    wait_until(lambda: log.told, 'the MTU is told')
    (kind, was, now), = log.told
    assert (kind, was.mtu, now.mtu, now.up) == ('changed', 1500, 1400, False)
    log.told.clear()
    space.ip('link', 'set', 'v0', 'up')
    wait_until(lambda: log.told, 'up is told')
    assert log.told.pop()[2].up
    space.ip('link', 'set', 'v0', 'address', '02:00:00:00:00:07')
    wait_until(lambda: log.told, 'the MAC is told')
    assert log.told.pop()[2].mac == bytes.fromhex('020000000007')
    space.ip('link', 'set', 'v0', 'down')  # kernels before 6.2 rename no other
    wait_until(lambda: log.told, 'down is told')
    log.told.clear()
    space.ip('link', 'set', 'v0', 'name', 'v7')
    log.until(('renamed', 'v0', 'v7'))
    assert [each.name for each in watcher.present()] == ['v7']
    space.ip('link', 'del', 'v7')
    log.until(('vanished', 'v7', made.index))
    assert watcher.present() == [] and watcher.problems == ()
    watcher.close()
    watcher.close()


def test_back_with_another_index_and_with_the_same(space, log, watch):
    first = add(space, 'v0')
    watcher = watch(['v0'], **log.callbacks())
    space.ip('link', 'del', 'v0')
    second = add(space, 'v0')
    log.until(('vanished', 'v0', first.index), ('appeared', 'v0', second.index))
    assert second.index != first.index
    space.ip('link', 'del', 'v0')
    assert add(space, 'v0', 'index', str(second.index)).index == second.index
    log.until(('vanished', 'v0', second.index), ('appeared', 'v0', second.index))
    watcher.close()


def test_a_name_that_becomes_ours_and_is_ours_no_more(space, log, watch):
    made = add(space, 'other')
    watcher = watch(['v*'], **log.callbacks())
    space.ip('link', 'set', 'other', 'name', 'v0')
    log.until(('appeared', 'v0', made.index))
    space.ip('link', 'set', 'v0', 'name', 'other')
    log.until(('vanished', 'v0', made.index))
    watcher.close()


def test_ports_of_a_bridge(space, log, watch):
    watcher = watch(['bridge:br0'], **log.callbacks())
    space.ip('link', 'add', 'br0', 'type', 'bridge')
    made = add(space, 'v0')
    space.ip('link', 'set', 'v0', 'master', 'br0')
    log.until(('appeared', 'v0', made.index))
    space.ip('link', 'set', 'v0', 'nomaster')
    log.until(('vanished', 'v0', made.index))
    watcher.close()


def test_moved_to_another_namespace_and_back(space, log, watch):
    made = add(space, 'v0')
    watcher = watch(['v0'], **log.callbacks())
    with Namespace() as other:
        space.ip('link', 'set', 'v0', 'netns', other.name)
        log.until(('vanished', 'v0', made.index))
        other.ip('link', 'set', 'v0', 'netns', space.name)
        wait_until(lambda: log.told, 'it is back')
        assert log.told[0][:2] == ('appeared', 'v0')
    watcher.close()


def test_what_was_there(space, log, watch):
    made = add(space, 'v0')
    watcher = watch(['v*'], **log.callbacks())
    second = add(space, 'v1')
    log.until(('appeared', 'v1', second.index))
    watcher.close()
    watcher = watch(['v*'], **log.callbacks(), known=[made])
    log.until(('appeared', 'v1', second.index))
    watcher.close()
    watcher = watch(['v*'], **log.callbacks(), known=select(['v*']))
    space.ip('link', 'del', 'v0')
    log.until(('vanished', 'v0', made.index))
    watcher.close()


def test_other_patterns(space, log, watch):
    first, second = add(space, 'v0'), add(space, 'w0')
    watcher = watch(['v*'], **log.callbacks())
    watcher.set_patterns(['w*'])
    log.until(('vanished', 'v0', first.index), ('appeared', 'w0', second.index))
    with pytest.raises(InterfaceError):
        watcher.set_patterns(['a b'])
    with pytest.raises(InterfaceError):
        watch([])
    watcher.close()


def test_a_storm_costs_few_looks(space, log, watch):
    """What is told in the end is right, though most of the events were not looked at."""
    made = add(space, 'v0')
    watcher = watch(['v*'], **log.callbacks())
    batch = '\n'.join(f'link set v0 mtu {1000 + number % 400}' for number in range(3000))
    space.ip('link', 'set', 'v0', 'up')
    subprocess.run(['ip', '-batch', '-'], input=batch, text=True, check=True)
    space.ip('link', 'del', 'v0')
    wait_until(lambda: ('vanished', 'v0', made.index) in log.told, 'its end is told')
    assert log.told[-1][0] == 'vanished'
    assert watcher.looks < 300
    watcher.close()


def test_a_callback_that_fails(space, log, watch):
    def failing(interface):
        raise ValueError(f'no room for {interface.name}')

    watcher = watch(['v*'], failing, log.callbacks()['vanished'])
    made = add(space, 'v0')
    wait_until(lambda: watcher.problems == ('no room for v0',), 'the failure is kept')
    space.ip('link', 'del', 'v0')
    log.until(('vanished', 'v0', made.index))
    watcher.close()


def test_closed_from_a_callback(space, watch):
    closed = threading.Event()

    def close(_interface):
        watcher.close()
        closed.set()

    watcher = watch(['v*'], close)
    add(space, 'v0')
    assert closed.wait(30)
    watcher.close()
    assert not any(thread.name == 'xdp-interfaces' and thread.is_alive()
                   for thread in threading.enumerate())


def test_a_slow_callback_makes_it_deaf_for_no_time(space, log, watch):
    """What callbacks take is not counted: by their price it would sleep for minutes here."""
    def slow(interface):
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
        log.told.append(('appeared', interface.name, interface.index))

    watch(['v*'], slow, share=0.001, interval=1000)
    for name in 'v0', 'v1':
        made = add(space, name)
        log.until(('appeared', name, made.index))


def test_any_failure_of_a_look(space, log, watch, monkeypatch):
    """It is noted, and the next look is as any other."""
    def failing():
        raise ValueError('nonsense')

    watcher = watch(['v*'], **log.callbacks(), interval=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(watcher_module, 'interfaces', failing)
        wait_until(lambda: watcher.problems == ('look at the interfaces: nonsense',), 'it is kept')
    made = add(space, 'v0')
    log.until(('appeared', 'v0', made.index))
    wait_until(lambda: watcher.problems == (), 'the problem is over')


def test_told_after_each_look(space, log, watch):
    looked = []
    watcher = watch(['v*'], log.callbacks()['appeared'], interval=0.05,
                    looked=lambda: looked.append([*log.told]))
    made = add(space, 'v0')
    wait_until(lambda: looked and looked[-1] == [('appeared', 'v0', made.index)], 'it was told')
    assert len(looked) <= watcher.looks


class Interrupting:
    """A netlink socket that says of some dumps that something changed meanwhile."""

    def __init__(self, real, times):
        self._real, self._left = real, times

    def __getattr__(self, name):
        return getattr(self._real, name)

    def recv(self, size):
        """Return what the kernel says, with NLM_F_DUMP_INTR in the first message."""
        data = bytearray(self._real.recv(size))
        if self._left and struct.unpack_from('=H', data, 4)[0] == 3:
            self._left -= 1
            struct.pack_into('=H', data, 6, struct.unpack_from('=H', data, 6)[0] | 0x10)
        return bytes(data)


def test_a_dump_that_was_interrupted(space):
    """It is asked for again, and in the end refused rather than taken in part."""
    body = struct.pack('=BxHiII', 0, 0, 0, 0, 0)
    with NetlinkSocket() as route:
        whole = len(route.ask(18, body, dump=True))
        real = route._socket
        route._socket = Interrupting(real, 3)
        assert len(route.ask(18, body, dump=True)) == whole
        route._socket = Interrupting(real, 100)
        with pytest.raises(NetlinkError, match='it changed'):
            route.ask(18, body, dump=True)
        route._socket = real


def test_ends_before_it_is_woken(space, watch, monkeypatch):
    """The thread may see that it is to end before the one that ends it has woken it."""
    write = os.eventfd_write

    def late(fd, number):
        time.sleep(0.3)
        write(fd, number)
    # What is known already is told at once: the thread waits for more to tell together.
    monkeypatch.setattr(watcher_module, '_TOGETHER', 10.0)
    made = watch(['a*'], known=())
    time.sleep(0.2)
    monkeypatch.setattr(watcher_module.os, 'eventfd_write', late)
    made.close()
    assert not made._thread.is_alive()
