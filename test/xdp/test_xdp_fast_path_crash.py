"""The fast path in a process that is killed, or stopped: traffic goes by the bridge."""

import json
import signal

from fast_path_lab import drain, in_use, Lab, numbers, object_ids, PORT, status, Traffic
from ipc_bypass.xdp.errors import AttachError
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings
import pytest
from support.processes import Script
from support.waiting import wait_until


@pytest.fixture
def lab():
    with Lab() as made:
        made.add()
        made.add()
        made.acquaint()
        yield made


class PathProcess(Script):
    """A FastPath in a process of its own, in the namespace of a lab's bridges."""

    def __init__(self, lab, leaks, **settings):
        super().__init__('../xdp/fast_path_process.py', json.dumps(
            {'bridges': ['br*'], 'udp_ports': [str(PORT)], **settings}),
            prefix=lab.switch.command())
        leaks.note(self.answer())
        wait_until(lambda: [port['in_use'] for port in self.ask('ports')] ==
                   [True] * len(lab.containers), 'in use')

    def counter(self, name):
        return self.ask('counters')[name]


@pytest.mark.parametrize('attach_by', ['tcx', 'clsact'])
def test_killed(lab, leaks, attach_by):
    first, second = lab.containers
    with PathProcess(lab, leaks, attach_by=attach_by, heartbeat_ms=300) as process, \
            Traffic(first, second) as traffic, second.socket(bind=PORT) as server:
        wait_until(lambda: process.counter('packets') > 20, 'handed over')
        process.kill()
        drain(server)
        last = traffic.goes_on()
        wait_until(lambda: [number for number in numbers(server) if number >= last], 'goes on')
        if attach_by == 'tcx':
            wait_until(lambda: lab.programs(first.port, second.port) == [], 'detached')
            assert lab.traffic_control() == ''
        else:
            assert lab.traffic_control().count('clsact') == 2, 'a filter outlives its process'
    # What was left is removed by the next one, however that attaches itself.
    with FastPath(FastPathSettings(('br*',), (str(PORT),))) as path:
        lab.attach(path)
        leaks.note(object_ids(path))
        in_use(path, first, second)
        assert lab.traffic_control() == ''


def test_stopped_for_long(lab, leaks):
    first, second = lab.containers
    with PathProcess(lab, leaks, heartbeat_ms=200) as process, \
            Traffic(first, second) as traffic, second.socket(bind=PORT) as server:
        wait_until(lambda: process.counter('packets') > 20, 'handed over')
        stale = process.counter('passed_stale')
        process.process.send_signal(signal.SIGSTOP)
        third = lab.add(2, mac='02:00:00:00:77:01')
        third.knows(first)
        # As if the second container had ended, and the third had taken its place.
        second.ip('link', 'set', 'eth0', 'address', '02:00:00:00:77:02')
        second.ip('address', 'flush', 'dev', 'eth0')
        third.ip('link', 'set', 'eth0', 'address', second.mac)
        with third.socket() as client, third.socket(bind=PORT) as new:
            client.sendto(b'here', (first.address, PORT))
            wait_until(lambda: numbers(new), 'by the bridge, to the new place')
            drain(server)
            traffic.goes_on()
            assert not drain(server)
            process.process.send_signal(signal.SIGCONT)
            before = process.counter('packets')
            wait_until(lambda: process.counter('packets') > before + 20, 'handed over again')
            assert numbers(new) and not drain(server)
        assert process.counter('passed_stale') > stale


def test_stopped_and_the_program_sees_by_itself_that_a_mac_has_moved(lab, leaks):
    first, second = lab.containers
    third = lab.add()
    third.knows(first)
    with PathProcess(lab, leaks, heartbeat_ms=3600000) as process, \
            Traffic(first, second) as traffic, second.socket(bind=PORT) as old, \
            third.socket(bind=PORT) as new, third.socket() as client:
        wait_until(lambda: process.counter('packets') > 20, 'handed over')
        process.process.send_signal(signal.SIGSTOP)
        # Both have it; the second one is silent.
        third.ip('link', 'set', 'eth0', 'address', second.mac)
        third.own(second.address, second.address_v6)
        third.knows(first)
        client.sendto(b'here', (first.address, PORT))
        wait_until(lambda: numbers(new), 'by the bridge, to where it was seen last')
        drain(old)
        traffic.goes_on()
        assert not drain(old)
        process.process.send_signal(signal.SIGCONT)
        wait_until(lambda: all('same MAC' in port['obstacle'] for port in process.ask('ports')
                               if port['name'] != first.port), 'both are out of use')
        assert process.counter('moves') == 1


def test_nothing_is_handed_over_before_a_beat(lab, leaks):
    first, second = lab.containers
    with FastPath(FastPathSettings(('br*',), (str(PORT),), heartbeat_ms=5000)) as path:
        lab.attach(path)
        leaks.note(object_ids(path))
        in_use(path, second)
        path._keeper._ending = True
        path._keeper._thread.join()
        assert not status(path, second).in_use, 'a thread that ends takes all out of use'


def test_one_process_a_namespace(lab, leaks):
    with PathProcess(lab, leaks) as process:
        with FastPath(FastPathSettings(('br*',))) as path:
            with pytest.raises(AttachError, match='another process'), lab.switch.entered():
                path.attach()
            assert path.ports() == []
            process.ask('close')
            lab.attach(path)
            in_use(path, *lab.containers)
