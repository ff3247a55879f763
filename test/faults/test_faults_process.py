"""
The node is killed, stopped, starved and taken up and down: streams of numbered bytes go on.

One node for all of it, whose budgets are renewed by itself: so they run out while it is stopped.
"""

import errno
import functools
import resource

from fault_lab import bpf_calls, process_faults
from fault_lab.lab import Lab
from fault_lab.shim import Shim
from fault_lab.trial import Rig
import pytest
from support.trials import right

HOUR = 3600
CYCLES = 20


@pytest.fixture(scope='module')
def shim(tmp_path_factory):
    """Yield the Shim that the nodes of this file are started with."""
    made = Shim(tmp_path_factory.mktemp('shim'))
    yield made
    made.close()


@pytest.fixture(scope='module')
def rig(shim):
    """Yield the Rig; nothing may be lost or left at its end."""
    with Lab() as lab:
        made = Rig(lab, environment=shim.environment, renewal='userspace', max_connections=16,
                   budget_bytes=4 << 20)
        yield made
        right(made.finish())


def test_killed(rig):
    right(rig.run('SIGKILL', process_faults.killed))


def test_stopped(rig):
    fault = functools.partial(process_faults.stopped, seconds=2.0, at_most=60.0)
    trial = right(rig.run('SIGSTOP', fault))
    assert trial.told == 'budgets ran out'


def test_activated_and_deactivated(rig):
    right(rig.run('cycles', functools.partial(process_faults.cycled, count=CYCLES)))


@pytest.mark.parametrize('seconds', [HOUR, -HOUR])
def test_wall_clock_jumps(rig, shim, seconds):
    try:
        right(rig.run('clock', functools.partial(process_faults.clock_jumped, shim=shim,
                                                 seconds=seconds)))
    finally:
        shim.jump(0)


def test_no_address_space_to_configure(rig):
    right(rig.run('RLIMIT_AS', process_faults.out_of_address_space, errors=True))
    assert resource.prlimit(rig.node.pid, resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_calls_of_bpf_fail_while_connections_are_taken_over(rig, shim):
    found = bpf_calls.BpfCalls(rig, shim, 0).walk('configure', most=2, rotate=True)
    assert not found.problems, found
    assert found.tried and found.refused + found.went == found.tried


def test_every_error_is_told(rig, shim):
    """A step whose one call fails says so, whatever the errno, and works the next time."""
    found = bpf_calls.BpfCalls(rig, shim, 0).walk('activate')
    assert not found.problems, found
    assert found.refused + found.went == found.tried == found.calls * len(bpf_calls.ERRORS)
    assert found.refused >= len(bpf_calls.ERRORS)
    assert any('Cannot allocate memory' in line for line in found.lines)
    assert any('CAP_' in line for line in found.lines), errno.errorcode[errno.EPERM]
