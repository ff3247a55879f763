"""The node sockmap_helper when something is missing, wrong or taken."""

import itertools
from pathlib import Path
import resource

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_tools import attached, inside
import pytest
from sockmap_tools import echo, levels, nothing, refused, SPLICED, UNPRIVILEGED
from support.streams import connect, listening
from support.waiting import PATIENCE


def test_port_in_use_at_configure(start_sockmap, forward, ports, cgroup):
    """It says so in one line; nothing listens, nothing is attached or loaded."""
    port, text = forward
    node = start_sockmap(forwards=[text, f'127.0.0.1:{next(ports)} -> 127.0.0.1:9'],
                         cgroup_path=str(cgroup), before=inside(cgroup))
    with listening(port=port + 1):
        assert not node.change('configure')
        assert node.state() == 'unconfigured'
        error, = node.errors()
        assert f'configure failed: listen on 127.0.0.1:{port + 1}: Address already in use; ' \
            'see who has it: ss -ltnp' in error
        assert refused(port)
        assert attached(cgroup) == []
        assert nothing(node.held())
    assert node.set_parameters(kernel_path='never').successful
    node.bring_up()
    assert not refused(port)
    assert node.end() == 0


def test_port_taken_before_activate(start_sockmap, forward, ports):
    """None of the forwards listens then; once the port is free again, all do."""
    port, text = forward
    node = start_sockmap(forwards=[text, f'127.0.0.1:{next(ports)} -> 127.0.0.1:9'],
                         kernel_path='never')
    assert node.change('configure'), node.output()
    with listening(port=port + 1):
        assert not node.change('activate')
        assert node.state() == 'inactive'
        error, = node.errors()
        assert f'activate failed: listen on 127.0.0.1:{port + 1}: ' in error
        assert 'ss -ltnp' in error
        assert refused(port)
    assert node.change('activate')
    assert not refused(port)


def test_metrics_port_in_use(start_sockmap, forward, ports):
    port, text = forward
    metrics = next(ports)
    node = start_sockmap(forwards=[text], kernel_path='never', prometheus_port=metrics)
    with listening(port=metrics):
        assert not node.change('configure')
        assert node.state() == 'unconfigured'
        error, = node.errors()
        assert f'configure failed: answer with metrics on 127.0.0.1 port {metrics}: Address ' \
            'already in use; set prometheus_port to another one, or to 0' in error
        assert refused(port)
    node.bring_up()
    assert not refused(metrics)
    assert node.change('deactivate')
    assert node.change('cleanup')
    assert refused(metrics)


def test_without_capabilities(client, start_sockmap, forward):
    """User space does it, with the reason; a port below 1024 is refused."""
    port, text = forward
    node = start_sockmap(forwards=[text], before=UNPRIVILEGED)
    health = client.listen(DiagnosticArray, '/diagnostics')
    node.bring_up()
    warning, = [line for line in node.output().splitlines() if line.startswith('[WARN]')]
    assert 'connections are moved in user space: ' in warning
    assert 'needs CAP_BPF' in warning
    with connect(port) as sock:
        echo(sock, bytes(1000))
        node.wait_for_paths(SPLICED)
    client.spin_until(lambda: health, 'the diagnostics')
    level, words = levels(health[-1])['ways']
    assert level == DiagnosticStatus.WARN
    assert 'needs CAP_BPF' in words
    answer = node.ask('add_forward', listen='127.0.0.1:1023', backend='127.0.0.1:9')
    assert answer.error_code == answer.NOT_ALLOWED
    assert 'CAP_NET_BIND_SERVICE' in answer.error_msg
    assert node.errors() == []
    assert node.end() == 0


def test_required_without_capabilities(start_sockmap, forward):
    node = start_sockmap(forwards=[forward[1]], kernel_path='required', before=UNPRIVILEGED)
    assert not node.change('configure')
    assert node.state() == 'unconfigured'
    error, = node.errors()
    assert 'configure failed: ' in error
    assert 'needs CAP_BPF' in error
    assert nothing(node.held())


@pytest.mark.parametrize('parameters, says', [
    ({'forwards': ['nonsense']}, "read the forward 'nonsense': it is not of the form"),
    ({'service_backends': ['10.0.0.1/8']}, 'read service_backends: 10.0.0.1/8 has host bits'),
    ({'service_listen_ports': ['0']}, 'read service_listen_ports: '),
    ({'prometheus_address': 'here'}, "'here'"),
    ({'kernel_path': False}, "'kernel_path' to 'False' of type 'BOOL'"),  # YAML's off
    ({'prometheus_port': 70_000}, 'prometheus_port')], ids=str)
def test_bad_start(start_sockmap, parameters, says):
    """The node says in one line what it was given, and ends."""
    node = start_sockmap(**parameters)
    assert node.process.wait(PATIENCE) == 1
    line, = node.output().splitlines()
    assert line.startswith('sockmap_helper: ')
    assert says in line


def test_bad_parameters(start_sockmap, forward):
    """Each is refused with the reason; what is good is taken, and used by configure."""
    port, text = forward
    node = start_sockmap(kernel_path='never')
    for name, value, says in (
            ('forwards', [text, ':0 -> 127.0.0.1:9'], 'use port 0: ports are 1 to 65535'),
            ('forwards', [f'{text} speed=high'], "there is no option 'speed=high'"),
            ('forwards', [f'{text} max_connections=no'], "max_connections cannot be 'no'"),
            ('path', 'fast', "use the path 'fast'"),
            ('kernel_path', 'maybe', "use kernel_path 'maybe'"),
            ('max_connections', 0, 'max_connections'), ('connect_timeout_s', 0.0, 'timeout'),
            ('idle_timeout_s', -1.0, 'timeout')):
        answer = node.set_parameters(**{name: value})
        assert not answer.successful
        assert says in answer.reason
        assert '\n' not in answer.reason
    assert node.set_parameters(forwards=[text], max_connections=7).successful
    node.bring_up()
    with connect(port) as sock:
        echo(sock, b'x')
    shown, = node.look()[0].values()
    assert (shown.origin, shown.max_connections) == ('parameter', 7)
    assert node.errors() == []


def test_no_descriptor(start_sockmap, ports):
    """The node says so, and goes on."""
    node = start_sockmap(kernel_path='never')
    node.bring_up()
    pid = node.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    there = {int(path.name) for path in Path(f'/proc/{pid}/fd').iterdir()}
    free = next(number for number in itertools.count() if number not in there)
    request = {'listen': f'127.0.0.1:{next(ports)}', 'backend': '127.0.0.1:9'}
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        answer = node.ask('add_forward', **request)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert answer.error_code == answer.KERNEL_ERROR
    assert 'Too many open files' in answer.error_msg
    assert node.code('add_forward', **request) == 'SUCCESS'
