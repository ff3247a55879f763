"""A node that is killed while traffic flows, and the start after it."""

import os

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.cgroup import find_cgroup2, open_cgroup
from ipc_bypass.kernel.uapi import AttachType
import pytest
from support.leaks import alive
from support.processes import PathProcess, StreamProcess
from support.steering import rules
from support.waiting import wait_until


@pytest.fixture
def node(ports, pin_directory, leaks, stack, privileged):
    """Return a function that starts a PathProcess with pins in a folder, or without."""
    def start(**settings):
        process = stack.enter_context(PathProcess(
            [[ports.first, ports.last]], tcp_path='sk_msg',
            **{'pin_directory': pin_directory(), **settings}))
        leaks.note(process.objects)
        return process
    return start


@pytest.fixture
def stream_process(place, ports, stack):
    """Return a function that starts a stream between two processes, and returns both."""
    def start():
        port = next(ports)
        ends = []
        for role, space in (('server', place.server), ('client', place.client)):
            ends.append(stack.enter_context(StreamProcess(
                role, place.address, port, seed=len(ends),
                prefix=space.command() if space else ())))
        return ends
    return start


def attached():
    """Return the ids of the sock_ops programs of the cgroup that the tests attach to."""
    fd = open_cgroup(find_cgroup2())
    try:
        return set(syscall.prog_query(fd, AttachType.CGROUP_SOCK_OPS))
    finally:
        os.close(fd)


def moves_on(ends, least=1 << 20):
    """Wait until both ends of a stream have received more."""
    for end in ends:
        before = end.ask('received')
        wait_until(lambda end=end, before=before: end.ask('received') > before + least,
                   'the stream goes on')


def finish(ends):
    """End a stream; assert that each end received what the other one sent."""
    for end in ends:
        end.tell('stop')
    server, client = (end.answer() for end in ends)
    assert server['received'] == client['sent']
    assert client['received'] == server['sent']


def redirected_bytes(flows):
    """Return the bytes redirected by flow_id of Flows, or of the dicts that a node answers."""
    return {flow['flow_id']: flow['redirected_bytes'] for flow in
            (flow if isinstance(flow, dict) else vars(flow) for flow in flows)}


def test_killed_and_started_again(place, node, stream_process, make_path, ports, stack, leaks):
    """Traffic goes on without the node; the next start takes the connections over."""
    first = node()
    ends = stream_process()
    moves_on(ends)
    before = wait_until(lambda: redirected_bytes(first.ask('flows')), 'the flows are there')
    assert len(before) == 2
    folder = first.settings['pin_directory']
    first.kill()

    moves_on(ends)
    assert not attached() & set(first.objects['programs'])
    assert 'prog_msg_steer' in os.listdir(f'{folder}/tcp')

    with make_path(pin_directory=folder, active=False) as path:
        taken = redirected_bytes(path.flows())
        assert set(taken) == set(before)
        assert {flow.reason for flow in path.flows()} == {'inactive'}
        path.set_rules(rules(*first.ranges))
        path.activate()
        moves_on(ends)
        wait_until(lambda: all(flow.path == 'sk_msg' for flow in path.flows()),
                   'the connections are redirected again')
        now = redirected_bytes(path.flows())
        assert all(now[number] > taken[number] > before[number] for number in before)
        finish(ends)
        wait_until(lambda: not path.flows(), 'the records are given back')
    _nothing_left(first, folder)


def test_killed_and_started_as_another_version(node, stream_process, make_path, ports):
    """A start with other programs turns the old connections to TCP, and pins its own."""
    first = node()
    ends = stream_process()
    moves_on(ends)
    folder = first.settings['pin_directory']
    first.kill()

    with make_path((ports.first, ports.last), pin_directory=folder, max_connections=32) as path:
        assert path.flows() == []
        moves_on(ends)
        new = stream_process()
        moves_on(new)
        assert len(path.flows()) == 2
        finish(new)
        finish(ends)
    _nothing_left(first, folder)


def test_killed_without_pins(node, stream_process):
    """Nothing is left once the connections have ended."""
    first = node(pin_directory='')
    ends = stream_process()
    moves_on(ends)
    first.kill()

    moves_on(ends)
    assert not attached() & set(first.objects['programs'])
    assert alive('maps', first.objects['maps'])
    finish(ends)
    _nothing_left(first)


def test_killed_by_its_renewal(node, stream_process):
    """Where budgets were renewed by the node, traffic goes on by TCP when they are spent."""
    first = node(pin_directory='', renewal='userspace')
    ends = stream_process()
    moves_on(ends)
    first.kill()
    moves_on(ends, least=8 << 20)
    finish(ends)
    _nothing_left(first)


def _nothing_left(node, folder=''):
    """Assert that programs, maps and pins are gone."""
    assert not folder or not os.path.exists(folder)
    for kind, numbers in node.objects.items():
        wait_until(lambda kind=kind, numbers=numbers: not alive(kind, numbers),
                   f'the {kind} are gone')
