"""What the tests of the trace path share: an active path, and the pool that it fills."""

import itertools
import os
from pathlib import Path

from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.writer import PoolWriter
from ipc_bypass.rules.table import RuleTable
from ipc_bypass.trace.path import TracePath
from ipc_bypass.trace.probes import Probes
from ipc_bypass.trace.settings import TraceSettings
import pytest
from support.capability import need_capabilities
from support.pool_owner import PoolOwner
from support.ports import PortBlock
from support.waiting import wait_until

RING = 1
#: A kernel from 4.17 with CONFIG_KPROBE_EVENTS has it.
_KPROBES = Path('/sys/bus/event_source/devices/kprobe')


@pytest.fixture(scope='session')
def probes_work():
    """Skip where a capability or the kernel's probes are missing, with the reason."""
    need_capabilities(('CAP_BPF', 'CAP_PERFMON', 'CAP_SYS_ADMIN'))
    if not _KPROBES.exists():
        pytest.skip('the kernel has no kprobes: this test runs in the virtual machine (test/vm)')
    assert Probes().available()


class Traced:
    """A path, the ports with rules for both transports, and a consumer of its pool."""

    def __init__(self, folder, block, **options):
        """Configure and activate; `options` are TracePath's."""
        self.memory = PoolMemory.create_file(folder / 'pool', (512, 64), 2)
        self.writer = PoolWriter(self.memory)
        self.owner = PoolOwner(self.memory, RING)
        self.path = TracePath(TraceSettings(path='trace'), writer=self.writer, **options)
        self.first, self.last = block.first, block.last
        table = RuleTable()
        self.rules = [table.add(transport, block.first, block.last)
                      for transport in ('udp', 'tcp')]
        self.path.configure()
        self.path.set_rules(self.rules)
        self.path.set_shares([(rule, RING) for rule in self.rules])
        self.path.activate()
        self._before = self.path.counters()

    def since(self):
        """Return how far the counters went since the last call, once nothing is on the way."""
        counters = wait_until(self._settled, 'what was sent is read')
        found = {name: counters[name] - self._before[name] for name in counters
                 if counters[name] != self._before[name]}
        self._before = counters
        return found

    def take(self):
        """Return [(descriptor, payload as bytes)] of what is new in the ring, and release it."""
        wait_until(self._settled, 'what was sent is read')
        found = self.owner.take()
        taken = [(descriptor, self.owner.payload(descriptor)) for descriptor in found]
        self.owner.release(found)
        return taken

    def _settled(self):
        counters = self.path.counters()
        return counters if not counters['on_the_way'] else None


@pytest.fixture(scope='session')
def block():
    """Yield a PortBlock."""
    taken = PortBlock()
    yield taken
    taken.close()


@pytest.fixture(scope='session')
def ports(block):
    """Return an iterator over the block's ports, over and over: a test leaves none in use."""
    return itertools.cycle(range(block.first, block.last + 1))


@pytest.fixture(scope='session')
def trace_session(probes_work, block, tmp_path_factory, leaks):
    """Yield a Traced for all tests: to compile takes an emulated machine long."""
    traced = Traced(tmp_path_factory.mktemp('pool'), block)
    leaks.note(traced.path._objects.ids)
    yield traced
    traced.path.cleanup()


@pytest.fixture
def traced(trace_session):
    """Return the session's Traced, with nothing left in its ring."""
    trace_session.take()
    trace_session.since()
    return trace_session


@pytest.fixture
def pid():
    """Return this process's pid."""
    return os.getpid()
