"""The map of addresses on this host: real namespaces, a real longest-prefix map."""

import ipaddress
import os
import socket
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError, MapFullError
from ipc_bypass.kernel.namespaces import Namespaces
from ipc_bypass.udp.destinations import CLAIMED, Destinations, LOCAL, packed
from ipc_bypass.udp.upkeep import Upkeep
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures('privileged')

KEY_BYTES, VALUE_BYTES = 20, 4


def make_map(entries=256):
    return syscall.map_create(syscall.MapType.LPM_TRIE, KEY_BYTES, VALUE_BYTES, entries,
                              syscall.MapFlag.NO_PREALLOC, name='ipcb_test_dest')


@pytest.fixture
def map_fd():
    """Yield a map as the program has it."""
    fd = make_map()
    yield fd
    os.close(fd)


@pytest.fixture
def destinations(map_fd):
    """Return the keeper of the map, refreshed once."""
    made = Destinations(map_fd)
    made.refresh()
    return made


@pytest.fixture
def space():
    """Yield a namespace with an interface; no process lives in it."""
    with Namespace() as made:
        made.ip('link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth1')
        for name in ('eth0', 'eth1'):
            made.ip('link', 'set', name, 'up')
        yield made


def found(map_fd, address):
    """Return what the program finds for an address: a value, or None."""
    value = syscall.map_lookup(map_fd, struct.pack('=I', 128) + packed(address), VALUE_BYTES)
    return value and struct.unpack('=I', value)[0]


def prefixes(map_fd):
    """Return the map's entries as {prefix: value}."""
    entries = {}
    for key, value in syscall.map_items(map_fd, KEY_BYTES, VALUE_BYTES):
        bits, = struct.unpack_from('=I', key)
        entries[str(ipaddress.ip_network((key[4:], bits)))] = struct.unpack('=I', value)[0]
    return entries


def test_an_address_that_comes_and_goes(map_fd, destinations, space):
    assert found(map_fd, '198.51.100.7') is None
    space.ip('address', 'add', '198.51.100.7/24', 'dev', 'eth0')
    space.ip('address', 'add', 'fd00:51::7/64', 'dev', 'eth0', 'nodad')
    assert destinations.refresh(max_age=0)
    assert found(map_fd, '198.51.100.7') == found(map_fd, 'fd00:51::7') == LOCAL
    assert not destinations.refresh(max_age=0)
    for other in ('198.51.100.8', 'fd00:51::8', '198.51.100.0'):
        assert found(map_fd, other) is None
    space.ip('address', 'del', '198.51.100.7/24', 'dev', 'eth0')
    assert destinations.refresh(max_age=0)
    assert found(map_fd, '198.51.100.7') is None
    assert found(map_fd, 'fd00:51::7') == LOCAL


def test_where_a_process_lives(map_fd, destinations, space):
    with space.inhabited():
        space.ip('address', 'add', '198.51.100.7/24', 'dev', 'eth0')
        destinations.refresh(max_age=0)
        assert found(map_fd, '198.51.100.7') == LOCAL


def test_link_local_addresses(map_fd, destinations, space):
    space.ip('address', 'add', 'fe80::51:7/64', 'dev', 'eth0', 'nodad')
    destinations.refresh(max_age=0)
    assert found(map_fd, 'fe80::51:7') == found(map_fd, 'fe80::51:7%eth0') == LOCAL


def test_loopback_is_always_there(map_fd, destinations):
    for address in ('127.0.0.1', '127.255.255.254', '::1'):
        assert found(map_fd, address) == LOCAL


def test_neither_broadcast_nor_multicast(map_fd, destinations, space):
    space.ip('address', 'add', '198.51.100.7/24', 'broadcast', '198.51.100.255',
             'dev', 'eth0')
    destinations.refresh(max_age=0)
    for address in ('198.51.100.255', '255.255.255.255', '239.255.0.1', '224.0.0.1', 'ff02::1'):
        assert found(map_fd, address) is None
    assert all(value == LOCAL for value in prefixes(map_fd).values())
    assert not any(ipaddress.ip_network(prefix).is_multicast for prefix in prefixes(map_fd))


def test_only_addresses_of_a_namespace_not_its_local_routes(map_fd, destinations, space):
    """A transparent proxy calls everything local, in a table of its own or not."""
    for route in (['0.0.0.0/0', 'table', '100'], ['203.0.113.9', 'table', '100'],
                  ['203.0.113.0/28']):
        space.ip('route', 'add', 'local', *route, 'dev', 'lo')
    destinations.refresh(max_age=0)
    for address in ('203.0.113.9', '203.0.113.1', '8.8.8.8'):
        assert found(map_fd, address) is None


def test_an_address_whose_uniqueness_is_not_known_yet(map_fd, destinations, space):
    space.sysctl('net.ipv6.conf.eth0.dad_transmits', 1000)
    space.ip('address', 'add', 'fd00:51::9/64', 'dev', 'eth0')
    with space.entered(), open('/proc/thread-self/net/if_inet6') as stream:
        flags, = [line.split()[4] for line in stream if line.startswith('fd00')]
    assert flags == 'c0'  # permanent, tentative
    destinations.refresh(max_age=0)
    assert found(map_fd, 'fd00:51::9') is None


def test_a_namespace_that_vanishes(map_fd, destinations):
    with Namespace() as space:
        space.ip('address', 'add', '198.51.100.7/32', 'dev', 'lo')
        destinations.refresh(max_age=0)
        assert found(map_fd, '198.51.100.7') == LOCAL
        assert destinations.namespace_of_address('198.51.100.7') == f'/run/netns/{space.name}'
    destinations.refresh(max_age=0)
    assert found(map_fd, '198.51.100.7') is None
    assert destinations.namespace_of_address('198.51.100.7') is None


def test_the_namespace_of_an_address(destinations):
    with Namespace() as one, Namespace() as two:
        one.ip('address', 'add', '198.51.100.1/32', 'dev', 'lo')
        one.ip('address', 'add', 'fd00:51::1/128', 'dev', 'lo', 'nodad')
        for space in (one, two):
            space.ip('address', 'add', '198.51.100.3/32', 'dev', 'lo')
        destinations.refresh(max_age=0)
        for address in ('198.51.100.1', 'fd00:51::1', packed('198.51.100.1')):
            assert destinations.namespace_of_address(address) == f'/run/netns/{one.name}'
        assert destinations.namespace_of_address('198.51.100.3') is None  # in two
        assert len(destinations.namespaces_of_address('198.51.100.3')) == 2
        assert destinations.namespace_of_address('127.0.0.1') is None  # in every one
        assert destinations.namespace_of_address('198.51.100.4') is None


def test_claimed_prefixes(map_fd, destinations, space):
    destinations.claim(['10.200.0.0/16', 'fd00:200::/64'], 'bridge')
    assert found(map_fd, '10.200.3.4') == found(map_fd, 'fd00:200::5') == CLAIMED
    space.ip('address', 'add', '10.200.0.1/24', 'dev', 'eth0')
    destinations.refresh(max_age=0)
    assert found(map_fd, '10.200.0.1') == LOCAL
    destinations.claim(['10.201.0.0/16'], 'other')
    destinations.claim(['10.202.0.0/16', '10.201.0.0/16'], 'bridge')
    assert found(map_fd, '10.200.3.4') is None
    assert found(map_fd, '10.202.3.4') == CLAIMED
    destinations.unclaim('bridge')
    destinations.unclaim('bridge')
    assert found(map_fd, '10.202.3.4') is None
    assert found(map_fd, '10.201.3.4') == CLAIMED  # the other owner's
    destinations.unclaim('other')
    assert set(prefixes(map_fd).values()) == {LOCAL}


def test_all_of_ipv6_is_not_ipv4(map_fd, destinations):
    destinations.claim(['::/0'], 'bridge')
    assert found(map_fd, '2001:db8::1') == found(map_fd, '::fffe:0:1') == CLAIMED
    assert found(map_fd, '203.0.113.1') is None
    destinations.claim(['0.0.0.0/0'], 'bridge')
    assert found(map_fd, '2001:db8::1') is None
    assert found(map_fd, '203.0.113.1') == CLAIMED
    assert found(map_fd, '127.0.0.1') == LOCAL


@pytest.mark.parametrize('prefix, reason', [
    ('10.200.0.1/16', 'host bits'), ('nonsense', 'nonsense'), ('239.0.0.0/8', 'multicast'),
    ('ff02::/16', 'multicast'), ('10.0.0.0/33', '10.0.0.0/33')])
def test_what_cannot_be_claimed(map_fd, destinations, prefix, reason):
    destinations.claim(['10.200.0.0/16'], 'bridge')
    before = prefixes(map_fd)
    with pytest.raises(BypassError, match=reason) as caught:
        destinations.claim(['10.201.0.0/16', prefix], 'bridge')
    assert '\n' not in str(caught.value)
    assert prefixes(map_fd) == before


def test_a_map_of_an_earlier_start(map_fd, destinations, space):
    destinations.claim(['10.200.0.0/16'], 'bridge')
    space.ip('address', 'add', '198.51.100.7/24', 'dev', 'eth0')
    later = Destinations(map_fd)
    later.refresh()
    assert found(map_fd, '10.200.3.4') is None
    assert found(map_fd, '198.51.100.7') == found(map_fd, '127.0.0.1') == LOCAL


def test_a_full_map_says_so_and_works_again(space):
    map_fd = make_map(entries=64)
    try:
        destinations = Destinations(map_fd, Namespaces())
        destinations.refresh()
        many = [f'10.200.{number}.0/24' for number in range(64)]
        with pytest.raises(MapFullError, match='do not fit'):
            destinations.claim(many, 'bridge')
        with pytest.raises(MapFullError):
            destinations.refresh()
        destinations.unclaim('bridge')
        assert set(prefixes(map_fd).values()) == {LOCAL}
        # Full to the last entry, and all of it is exchanged.
        room = 64 - len(prefixes(map_fd))
        destinations.claim(many[:room], 'bridge')
        destinations.claim(many[-room:], 'bridge')
        assert found(map_fd, '10.200.63.1') == CLAIMED
    finally:
        os.close(map_fd)


def test_a_map_that_cannot_be_written(destinations, map_fd):
    with open('/dev/null') as other, pytest.raises(BypassError, match='divert: '):
        Destinations(other.fileno()).refresh()


def test_a_change_in_this_namespace_is_seen_at_once(map_fd, destinations):
    """The interval is longer than the test: only the kernel's word can be the reason."""
    with Namespace() as space, space.entered():
        upkeep = Upkeep(destinations.refresh, interval=1000.0)
        space.ip('address', 'add', '198.51.100.7/32', 'dev', 'lo')
        try:
            wait_until(lambda: found(map_fd, '198.51.100.7') == LOCAL, 'the address is there')
            space.ip('address', 'del', '198.51.100.7/32', 'dev', 'lo')
            wait_until(lambda: found(map_fd, '198.51.100.7') is None, 'the address is gone')
        finally:
            upkeep.close()


def test_a_change_elsewhere_is_seen_with_the_next_look(map_fd, destinations, space):
    upkeep = Upkeep(destinations.refresh, interval=0.05)
    try:
        space.ip('address', 'add', '198.51.100.7/24', 'dev', 'eth0')
        wait_until(lambda: found(map_fd, '198.51.100.7') == LOCAL, 'the address is there')
    finally:
        upkeep.close()


@pytest.mark.parametrize('error', [
    BypassError('try', 'it is a test'), OSError(24, os.strerror(24)), ValueError('no number')])
def test_a_problem_of_the_upkeep_is_told_while_it_lasts(error):
    fails, calls = [error], []

    def task():
        if fails:
            raise error

    upkeep = Upkeep(task, lambda: calls.append(1), interval=1000.0)
    try:
        wait_until(lambda: upkeep.problems == (str(error),), 'the problem is told')
        fails.clear()
        upkeep.wake()
        wait_until(lambda: upkeep.problems == (), 'the problem is gone')
        wait_until(lambda: len(calls) == 2, 'the other task was called each time')
    finally:
        upkeep.close()
    upkeep.close()
    upkeep.wake()


@pytest.mark.parametrize('address, raw', [
    ('10.1.2.3', bytes(10) + b'\xff\xff\x0a\1\2\3'),
    (b'\x0a\1\2\3', bytes(10) + b'\xff\xff\x0a\1\2\3'),
    ('fe80::1%eth0', b'\xfe\x80' + bytes(13) + b'\1'),
    (socket.inet_pton(socket.AF_INET6, 'fd00::1'), b'\xfd' + bytes(14) + b'\1')])
def test_packed(address, raw):
    assert packed(address) == raw
