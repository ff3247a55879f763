"""With a node of ours: redirected pairs, rules that lack, and the graph in /diagnostics."""

import contextlib
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import tempfile

from diagnostic_msgs.msg import DiagnosticStatus
from graph_tools import look_until, pairs_between, TOPIC, wait_for
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.nodes.graph_diagnostics import GraphDiagnostics
import pytest
from support.capability import need_capabilities
from support.waiting import PATIENCE, wait_until

PORTS, OTHER_PORTS = (23921, 23922), (23925, 23926)
#: Facts of a node without flows, counters and rules.
NOTHING = (), {}, ()


@pytest.fixture
def cgroup():
    """Yield a cgroup of our own, which a node of the test serves."""
    need_capabilities()
    path = Path(tempfile.mkdtemp(prefix='graph_', dir=find_cgroup2()))
    yield path
    wait_until(lambda: _removed(path), f'{path} is empty')


def _removed(path):
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


def inside(cgroup):
    """Return the words before a command that have it run in a cgroup."""
    return 'sh', '-c', f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', 'sh'


def start_node(cgroup, peers, tmp_path, **parameters):
    """Run the node, brought up, on the host."""
    values = tmp_path / 'parameters.yaml'
    values.write_text(json.dumps({'/**': {'ros__parameters': {
        'udp_path': 'loopback', 'tcp_path': 'sk_msg', 'cgroup_path': str(cgroup),
        'pin_directory': '', **parameters}}}))
    peers.run(None, sys.executable, '-m', 'ipc_bypass.cli.main', 'up', '--params-file',
              str(values), '--ros-args', '-r', '__ns:=/graph_test', prefix=inside(cgroup))
    wait_until(lambda: _attached(cgroup), 'the node is active', interval=0.1)


def test_a_pair_is_redirected_and_one_without_a_rule_is_told(cgroup, peers, tmp_path):
    start_node(cgroup, peers, tmp_path, rules=[f'tcp:{PORTS[0]}-{PORTS[1]}'])
    ruled, other = (peers.fast_by_tcp(tmp_path / 'tcp.xml', *ports, prefix=inside(cgroup))
                    for ports in (PORTS, OTHER_PORTS))
    wait_for(*ruled, *other)

    def pair(graph, two):
        return next((found for found in pairs_between(graph, *two) if found.topic == TOPIC), None)
    name = '/graph_test/ipc_bypass'
    graph = look_until(lambda found: name in found.nodes and all(
        (one := pair(found, two)) is not None and one.way in ('redirected', 'tcp')
        for two in (ruled, other)), 'both pairs', domain=62)
    assert pair(graph, ruled).way == 'redirected'
    assert not pair(graph, ruled).next_step
    found = pair(graph, other)
    assert (found.way, found.reason[:26]) == ('tcp', 'no rule covers TCP port 23')
    # Another session of this host may have a node, too.
    assert '/enroll_port ipc_bypass_interfaces/srv/EnrollPort "{transport: tcp, port_first: ' \
        in found.next_step


def _attached(cgroup):
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return syscall.prog_query(fd, AttachType.CGROUP_SOCK_OPS)
    finally:
        os.close(fd)


def test_diagnostics_name_processes_and_losses(peers):
    """A UDP socket of a DDS process overflows between two looks."""
    reader = peers.run(peers.a, sys.executable, '-c', (
        'import ctypes, socket, time\n'
        'import rclpy; rclpy.init(args=[]); rclpy.try_shutdown()\n'
        's = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n'
        's.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\n'
        's.bind(("127.0.0.1", 23930)); time.sleep(100)'))
    wait_for(reader)
    graph = GraphDiagnostics(period=0.0, most_share=1.0)

    def statuses():
        graph.statuses('/node', 'host', lambda: NOTHING, True)
        graph.wait(PATIENCE)
        found = graph.statuses('/node', 'host', lambda: NOTHING, True)
        graph.wait(PATIENCE)
        return {status.name: status for status in found}
    first = statuses()
    assert set(first) == {'/node: graph', '/node: losses'}
    assert first['/node: losses'].level == DiagnosticStatus.OK
    assert 'DDS processes' in first['/node: graph'].message
    command = peers.a.command(sys.executable, '-c', (
        'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n'
        'for _ in range(200): s.sendto(bytes(1000), ("127.0.0.1", 23930))'))
    subprocess.run(command, check=True)
    after = statuses()
    losses = after['/node: losses']
    assert losses.level == DiagnosticStatus.WARN, losses
    assert any(f'({reader.pid}) port 23930' in value.key for value in losses.values)


def test_a_look_does_not_block():
    """What a look finds comes with a later call."""
    graph = GraphDiagnostics(period=1000.0)
    assert graph.statuses('/node', socket.gethostname(), lambda: NOTHING, True) == []
    graph.wait(PATIENCE)
    assert len(graph.statuses('/node', 'host', lambda: NOTHING, True)) == 2
    asked = []
    graph.statuses('/node', 'host', lambda: asked.append(1) or NOTHING, True)
    assert not asked
    # A node that begins anew shows nothing of what was before.
    graph.close()
    assert graph.statuses('/node', 'host', lambda: NOTHING, True) == []
    graph.close()


def test_looks_take_a_share_of_the_time_only():
    """On a host of many processes they are further apart than the period."""
    graph = GraphDiagnostics(period=0.0, most_share=1e-9)
    graph.statuses('/node', 'host', lambda: NOTHING, True)
    graph.wait(PATIENCE)
    asked = []
    graph.statuses('/node', 'host', lambda: asked.append(1) or NOTHING, True)
    assert not asked


def test_a_look_that_fails_is_said_and_is_not_the_last_one():
    said = []
    log = type('Log', (), {'error': lambda self, text, once: said.append(text)})()
    graph = GraphDiagnostics(log, period=0.0, most_share=1.0)
    graph.statuses('/node', 'host', lambda: (None, {}, []), True)
    graph.wait(PATIENCE)
    assert said[0].startswith('the graph cannot be looked at: ')
    wait_until(lambda: graph.statuses('/node', 'host', lambda: NOTHING, True), 'another look')
    graph.close()
