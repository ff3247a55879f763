"""What the tests of the pool share."""

from contextlib import contextmanager
import itertools
import os

from ipc_bypass.pool.consumer import Consumer
import pytest
from support.capability import need_capabilities
from support.leaks import PIN_PREFIX
from support.pools import PATIENT, POOLS
from support.ports import PortBlock
from support.waiting import wait_until

_numbers = itertools.count()


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture(scope='session')
def make_pool(leaks, tmp_path_factory):
    """Return a context manager for a pool of a backing ('kernel', 'file') with settings."""
    @contextmanager
    def made(backing, folder=None, **settings):
        pins = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_pool{next(_numbers)}'
        with POOLS[backing](folder or tmp_path_factory.mktemp('pool'), pins, **settings) as pool:
            leaks.note(pool.objects)
            yield pool
    return made


@pytest.fixture(scope='session')
def kernel_pool(privileged, make_pool):
    """Yield a pool of the program's for all tests: making one takes seconds."""
    with make_pool('kernel') as pool:
        yield pool


@pytest.fixture(scope='session')
def written_pool(make_pool):
    """Yield a pool in a file for all tests."""
    with make_pool('file') as pool:
        yield pool


@pytest.fixture(params=['kernel', 'file'])
def shared_pool(request):
    """Return the pool of a backing."""
    return request.getfixturevalue({'kernel': 'kernel_pool', 'file': 'written_pool'}[
        request.param])


@pytest.fixture(scope='session')
def ports():
    """Yield ports that no other session uses."""
    block = PortBlock()
    yield range(block.first, block.last + 1)
    block.close()


@pytest.fixture
def pool(shared_pool, ports):
    """Yield that pool with nothing in it and two rules: (mirror, divert)."""
    shared_pool.set(**PATIENT)
    shared_pool.set_rules(f'udp:{ports[0]}:mirror', f'udp:{ports[1]}:divert')
    yield shared_pool
    shared_pool.set(slot_ttl_ms=1)
    wait_until(lambda: shared_pool.used() == shared_pool.used_by_count() == (0, 0),
               'the pool is empty')


@pytest.fixture
def opened(pool):
    """Return a function that opens a Consumer of the pool, closed after the test."""
    consumers = []

    def open_one(*rules, **options):
        consumers.append(Consumer(rules, control=pool.control, **options))
        return consumers[-1]
    yield open_one
    for consumer in consumers:
        consumer.close()
    pool.wait_for_leases(0)
