"""The node xdp_helper: transitions, what is attached, and what is left when it ends."""

import importlib.util
from pathlib import Path
import signal
import socket
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.pinned import pinned_report
from ipc_bypass_interfaces.msg import XdpPipelines
from lifecycle_msgs.msg import State
import pytest
from support.frames import NEAR
from support.waiting import PATIENCE, wait_until
from xdp_tools import lab, XdpProcess

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch' / 'xdp_helper.launch.py'

needs_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None, reason='launch_ros is in no registry')


@pytest.fixture(scope='module')
def room(privileged, client):
    """Yield (near, far, client, pins)."""
    with lab(client) as made:
        yield made


@pytest.fixture
def start(room, tmp_path):
    """Return a function that starts the node with parameters; it ends with the test."""
    near, _, client, pins = room
    nodes = []

    def started(**parameters):
        nodes.append(XdpProcess(client, tmp_path, near, pins,
                                **{'interfaces': ['near0'], **parameters}))
        return nodes[-1]
    yield started
    for node in nodes:
        node.__exit__()


@pytest.fixture
def program_on(room):
    """Return a function that returns the id of the program on near0, 0 where there is none."""
    def look():
        with room[0].entered():
            return find('near0').xdp_program_id
    return look


@pytest.fixture
def pinned(room):
    """Return a function that returns what the pins show."""
    def look():
        with room[0].entered():
            return pinned_report(room[3]).interfaces
    return look


def send(far, number, port=4242):
    """Send datagrams from far to near."""
    with far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(number):
            sender.sendto(b'datagram', (NEAR, port))


def levels(message):
    """Return {interface: (level, text)} of a DiagnosticArray."""
    return {status.name.partition(': ')[2]: (status.level, status.message)
            for status in message.status}


def test_transitions(room, start, program_on, pinned):
    """Attached while active, and not otherwise; packets are counted; status and diagnostics."""
    _, far, client, _ = room
    node = start(interfaces=['near0', 'none0', 'any*'], slots=['', 'sampler'] + [''] * 6)
    heard, health = node.status(), client.listen(DiagnosticArray, '/diagnostics')
    for _turn in 1, 2:
        assert node.change('configure'), node.output()
        assert program_on() == 0
        assert not node.look()['near0'].attached
        assert node.change('activate'), node.output()
        shown = node.look()['near0']
        assert (shown.attached, shown.mode, shown.program_id) == (True, 'native', program_on())
        assert [(slot.slot, slot.name) for slot in shown.slots if slot.program_id] == [
            (1, 'xdp_sampler')]
        send(far, 10)
        client.spin_until(lambda: node.look()['near0'].slots[1].xdp_pass >= 10, 'all are counted')
        assert node.change('deactivate')
        assert program_on() == 0
        assert node.change('cleanup')
        assert pinned() == ()
    assert node.errors() == []
    late = node.status()
    client.spin_until(lambda: late and late[-1].state == State.PRIMARY_STATE_UNCONFIGURED,
                      'the last status comes to a late subscriber')
    assert late[-1].interfaces == []
    assert State.PRIMARY_STATE_ACTIVE in [message.state for message in heard]
    seen = [levels(message) for message in health]
    active = next(each for each in seen if each['near0'][0] == DiagnosticStatus.OK)
    assert active['near0'] == (DiagnosticStatus.OK, 'native mode')
    assert active['none0'] == (DiagnosticStatus.WARN, 'there is no such interface now')
    assert active['any*'][0] == DiagnosticStatus.OK
    node.bring_up()
    assert program_on()
    assert node.end(signal.SIGINT) == 0
    assert program_on() == 0
    assert pinned() == ()


def test_killed(room, start, program_on, pinned):
    """The kernel detaches; pins are shown as not attached, and the next start replaces them."""
    far = room[1]
    node = start()
    node.bring_up()
    before = program_on()
    assert pinned()[0].attached
    assert node.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: program_on() == 0, 'the kernel detaches')
    left, = pinned()
    assert (left.name, left.attached, left.program_id) == ('near0', False, before)
    assert 'its node is inactive, or gone' in left.reason
    with room[0].entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver:
        receiver.bind((NEAR, 4242))
        receiver.settimeout(PATIENCE)
        send(far, 1)
        assert receiver.recv(100) == b'datagram'
    again = start()
    again.bring_up()
    now, = pinned()
    assert now.attached
    assert now.program_id not in (0, before)
    assert again.end(signal.SIGTERM) == 0
    assert program_on() == 0


def test_pipelines_of_others_are_told(room, start):
    """What an AF_XDP command in the node's namespace shows comes on ~/pipelines."""
    near, _, client, _ = room
    node = start(interfaces=['none0'])
    heard = client.listen(XdpPipelines, f'{node.name}/pipelines')
    assert node.change('configure'), node.output()
    echo = subprocess.Popen(
        near.command('env', 'OPENBLAS_NUM_THREADS=1', sys.executable, '-m', 'ipc_bypass.cli.main',
                     'xdp', 'echo', 'near0', '--pin-directory', '', '--seconds', '30'),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client.spin_until(lambda: heard, 'the echo is told of', 2 * PATIENCE)
    finally:
        echo.terminate()
        echo.wait(PATIENCE)
    told, = heard[0].pipelines
    assert (told.interface, list(told.queues)) == ('near0', [0])
    assert {'rx_ring_full', 'dropped'} <= {each.name for each in told.drops}
    assert node.errors() == []


def test_without_capability(client, tmp_path):
    """It says so in one line; nothing was made."""
    node = XdpProcess(client, tmp_path, None, '', interfaces=['n7_none0'],
                      before=('setpriv', '--bounding-set', '-bpf,-sys_admin,-perfmon'))
    with node:
        assert not node.change('configure')
        assert node.state() == 'unconfigured'
        assert len(node.errors()) == 1
        assert 'configure failed: load XDP programs: needs CAP_BPF' in node.errors()[0]


@needs_launch
def test_launch_arguments():
    from launch.actions import DeclareLaunchArgument
    spec = importlib.util.spec_from_file_location('launch_file', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = [entity for entity in module.generate_launch_description().entities
                 if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == {
        'namespace', 'params_file', 'autostart', 'log_level', 'use_respawn'}


def test_launch_file_compiles():
    compile(LAUNCH_FILE.read_text(), str(LAUNCH_FILE), 'exec')
