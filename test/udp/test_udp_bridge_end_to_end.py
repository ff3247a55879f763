"""
Senders whose datagrams are diverted, and a receiver in a namespace that has the bridge alone.

All of it is real: the program, the pool, the node tun_bridge as a process, its devices.
"""

import contextlib
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from bridge_host import Echo, HERE, Host, PORT
from bridge_tools import bound, ends, FAMILIES, FAR, NEAR
from ipc_bypass.bench import ddsperf
from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.nodes.bridge_parameters import STATED_RATE
import pytest
from support.namespaces import Namespace
from support.waiting import PATIENCE, wait_until

#: Datagrams a second, up to 1,000 bytes each.
RATE, COUNT = STATED_RATE, 5 * STATED_RATE


@pytest.fixture
def host(privileged, tmp_path):
    """Yield a Host that is up."""
    cgroup = Path(tempfile.mkdtemp(prefix='tunb_', dir=find_cgroup2()))
    try:
        with ends() as (near, far), Host(near, far, cgroup, tmp_path) as made:
            yield made
    finally:
        def removed():
            with contextlib.suppress(OSError):
                cgroup.rmdir()
            return not cgroup.exists()
        wait_until(removed, 'the cgroup is left')


def send(host, address, count, rate, size, *, source=None):
    """Run a sender of numbered datagrams, from NEAR unless said otherwise; return the process."""
    source = source or NEAR[6 if ':' in address else 4]
    return subprocess.Popen(
        host.inside(host.near, sys.executable, str(HERE / 'numbered_sender.py'), source,
                    address, *map(str, (PORT, count, rate, size, 5))),
        stdout=subprocess.PIPE, text=True)


def finished(sender):
    """Return what a sender tells at its end."""
    return json.loads(sender.communicate(timeout=2 * PATIENCE)[0])


def captured(host):
    """Return (diverted, passed) of what the program saw."""
    counters = host.path.counters()
    return counters['captured_divert'], sum(
        count for name, count in counters.items()
        if name.startswith('passed_') and name != 'passed_bytes')


def check(host, sent, received):
    """Assert that counters account for every datagram, and end the bridge."""
    diverted, passed = captured(host)
    assert diverted + passed == sent
    assert diverted > 0
    seen, counters = host.path.counters(), host.end_bridge()
    # A bridge that gets no processor for long loses its lease: then the node sends on.
    assert counters['taken'] + seen['sent_on'] == diverted
    assert seen['stranded'] == 0
    assert counters['to_device'] == counters['taken']
    assert counters.get('local', 0) <= passed + seen['sent_on']
    assert counters.get('local_to_device', 0) == counters.get('local', 0)
    assert counters['to_device'] + counters.get('local', 0) == received
    assert counters['answers'] == counters['device']


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('size', [4, 1000, 60_000])
def test_each_once_and_back(host, family, size):
    """Through the pool, at the stated rate: none twice, none lost, every answer comes back."""
    count, rate = (COUNT, RATE) if size < 4096 else (COUNT // 20, RATE // 20)
    with Echo(host.far, FAR[family], count) as echo:
        told = finished(send(host, FAR[family], count, rate, size))
        assert set(echo.seen) == {1}, host.tell()
    assert (told['answers'], told['twice']) == (count, 0), host.tell()
    check(host, count, count)


def test_overload(host):
    """Faster than it can: what finds the pool full goes the usual way, and none comes twice."""
    count = 100_000
    with Echo(host.far, FAR[4], count) as echo:
        told = finished(send(host, FAR[4], count, 10_000_000, 1000))
        assert max(echo.seen) == 1
        lost = echo.seen.count(0)
    assert told['twice'] == 0
    check(host, count, count - lost)


def test_bridge_is_killed(host):
    """
    Killed, then started again under load: none comes twice, and each is accounted for.

    What it had not taken is sent on the usual way, which its devices were a part of: it may find
    no way, as the sender does not meanwhile.
    """
    count = 40_000
    host.near.ip('address', 'add', '10.77.0.1/32', 'dev', 'lo')
    with Echo(host.far, FAR[4], count) as echo:
        sender = send(host, FAR[4], count, 5000, 100, source='10.77.0.1')
        wait_until(lambda: sum(echo.seen) > 1000, 'datagrams arrive')
        host.node.kill()
        host.node.wait()
        host.start_bridge()
        before = sum(echo.seen)
        wait_until(lambda: sum(echo.seen) > before + 1000, 'datagrams arrive again')
        told = finished(sender)
        assert max(echo.seen) == 1
        received = sum(echo.seen)
    assert told['twice'] == 0
    assert sum(captured(host)) == told['sent'] == count - told['refused']
    counters = host.path.counters()
    again = host.end_bridge()
    assert again['taken'] == again['to_device']
    # What the first one had taken or been sent by the usual way is not told any more; all that
    # the second one had has arrived.
    assert received >= again['to_device'] + again.get('local_to_device', 0)
    assert counters['stranded'] <= told['sent'] - received


def test_stays_out_of_other_traffic(host):
    """A diverted datagram to another address of this host reaches it, once."""
    host.near.ip('address', 'add', '10.77.0.1/32', 'dev', 'lo')
    code = ('import socket, time; sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n'
            'sock.bind(("10.77.0.1", 0))\n'
            'for number in range(100): sock.sendto(b"%d" % number, ("10.77.0.1", 7411))\n'
            'time.sleep(1000)')
    with bound(host.near, '10.77.0.1', PORT) as receiver:
        sender = subprocess.Popen(host.inside(host.near, sys.executable, '-c', code))
        try:
            seen = [receiver.recv(10) for _ in range(100)]
            assert sorted(map(int, seen)) == list(range(100))
        finally:
            sender.kill()
            sender.wait()
        counters = host.end_bridge()
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(1)
    assert counters.get('sent_on', 0) == counters.get('taken', 0) == captured(host)[0]


def uri(own, other):
    """Return Cyclone's configuration: one interface, and one peer to look for, by unicast."""
    return ('<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast><Interfaces>'
            f'<NetworkInterface address="{own}"/></Interfaces></General><Discovery>'
            f'<ParticipantIndex>auto</ParticipantIndex><Peers><Peer address="{other}"/></Peers>'
            '</Discovery></Domain></CycloneDDS>')


class Place:
    """What bench.ddsperf runs a peer in."""

    def __init__(self, host, space: Namespace):
        """Be a namespace of the host; the cgroup with it."""
        self._host, self._space = host, space

    def command(self, *words):
        """Return the words that run a program there."""
        return self._host.inside(self._space, *words)


@pytest.mark.parametrize('size', [1024, 65536])
def test_dds(host, size):
    """Samples of a Cyclone publisher reach a subscriber behind the bridge; none is lost."""
    seconds = []
    subscriber = ddsperf.Peer(Place(host, host.far), uri(FAR[4], NEAR[4]))
    publisher = ddsperf.Peer(Place(host, host.near), uri(NEAR[4], FAR[4]))
    rate = 2000 if size == 1024 else 100
    with ddsperf._Process(subscriber, ('sub',)) as here:
        here.wait_for_start(lambda: None)
        with ddsperf._Process(publisher, ('pub', f'{rate}Hz', 'size', str(size))):
            deadline = time.monotonic() + PATIENCE
            while sum(second.size == size for second in seconds) < 4:
                assert time.monotonic() < deadline, here.said()
                second = ddsperf.parse(here.read_line(0.5) or '')
                if second is not None and second.size:
                    seconds.append(second)
                here.check()
    assert sum(second.lost for second in seconds) == 0
    received = sum(second.values['count'] for second in seconds)
    assert received > 0
    counters = host.end_bridge()
    seen = host.path.counters()
    assert seen['captured_divert_bytes'] > 0
    assert seen['captured_divert_bytes'] + seen['passed_bytes'] >= received * size
    # Both ways are diverted: the answers too, since their destination is on this host, and what
    # Cyclone sends to itself.
    assert counters['to_device'] > 0
    assert counters['to_local'] > 0
    assert counters['taken'] == seen['captured_divert'] == sum(
        counters.get(name, 0) for name in ('to_device', 'to_local', 'sent_on'))
