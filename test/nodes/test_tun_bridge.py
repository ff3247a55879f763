"""The node tun_bridge: its transitions and parameters; what it carries is tested in test/udp."""

import importlib.util
from pathlib import Path
import signal
import subprocess
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.nodes.bridge_topics import LATCHED
from node_tools import new_name, NodeProcess
import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from support.namespaces import Namespace
from support.waiting import PATIENCE, wait_until
import yaml

ROOT = Path(__file__).resolve().parents[2]
BRIDGE = ('ipc_bypass.nodes.tun_bridge',)
SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture
def far(privileged):
    """Yield the Namespace in which the device lives."""
    with Namespace('f') as made:
        yield made


def settings(far, folder, **values):
    """Return parameters by name; nothing is made outside of `far`."""
    return {'prefixes': ['10.214.0.0/24'], 'addresses': ['10.214.0.2/24'], 'namespace': far.name,
            'local_device': '', 'control_socket': str(folder / 'none.sock'), **values}


class BridgeProcess(NodeProcess):
    """The node as a process of its own."""

    def __init__(self, client, folder, parameters):
        """Start it."""
        super().__init__(client, folder, parameters, command=BRIDGE)
        self.name = f"{self.name.rpartition('/')[0]}/tun_bridge"

    def status(self):
        """Return the list that its ~/status are added to."""
        return self.client.listen(DiagnosticArray, f'{self.name}/status', LATCHED)


def devices(space):
    """Return the names of the TUN devices in a namespace."""
    said = subprocess.run(['ip', '-n', space.name, '-o', 'link', 'show', 'type', 'tun'],
                          capture_output=True, text=True).stdout
    return [line.split(':')[1].strip() for line in said.splitlines()]


def levels(message):
    """Return {what: level} of a DiagnosticArray."""
    return {status.name.partition(': ')[2]: status.level for status in message.status}


def texts(message):
    """Return {what: text} of a DiagnosticArray."""
    return {status.name.partition(': ')[2]: status.message for status in message.status}


def test_without_the_other_node(client, far, tmp_path):
    """The device is made, and a line says why there is no lease; twice around."""
    with BridgeProcess(client, tmp_path, settings(far, tmp_path)) as node:
        status = node.status()
        for turn in 1, 2:
            assert node.change('configure'), node.output()
            assert devices(far) == ['ipcb_far']
            assert not node.change('activate')
            assert node.state() == 'inactive'
            errors = node.errors()
            assert len(errors) == turn
            assert f'activate failed: reach the node at {tmp_path}/none.sock' in errors[-1]
            client.spin_until(lambda: status and levels(status[-1]).keys() == {
                'link', 'pool', 'usual way', 'answers'}, 'the status')
            assert levels(status[-1])['link'] == DiagnosticStatus.WARN
            assert 'not active' in texts(status[-1])['link']
            assert node.change('cleanup')
            wait_until(lambda: devices(far) == [], 'the device goes')
            client.spin_until(lambda: 'not configured' in texts(status[-1])['link'], 'the status')
        assert node.end() == 0


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_device_ends_with_the_node(client, far, tmp_path, number):
    with BridgeProcess(client, tmp_path, settings(far, tmp_path)) as node:
        assert node.change('configure'), node.output()
        assert devices(far) == ['ipcb_far']
        assert node.end(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        wait_until(lambda: devices(far) == [], 'the device goes')


@pytest.mark.parametrize('values, says', [
    ({'prefixes': []}, 'claim prefixes: the parameter prefixes is empty; set it'),
    ({'namespace': 'ipcb_there_is_none'}, '/run/netns/ipcb_there_is_none does not exist'),
    ({'addresses': ['10.214.0.2/24', '10.214.0.2/24']}, 'File exists for an address'),
    ({'device': 'much_too_long_a_name'}, 'no name of an interface')], ids=str)
def test_configure_fails(client, far, tmp_path, values, says):
    with BridgeProcess(client, tmp_path, settings(far, tmp_path, **values)) as node:
        assert not node.change('configure')
        assert node.state() == 'unconfigured'
        assert len(node.errors()) == 1, node.output()
        assert says in node.errors()[0]
        assert devices(far) == []
        assert node.end() == 0


@pytest.mark.parametrize('values, says', [
    ({'prefixes': ['10.214.0.1/24']}, "claim the prefix '10.214.0.1/24'"),
    ({'prefixes': ['239.0.0.0/8']}, 'multicast is never diverted'),
    ({'rules': ['tcp:7400']}, 'only datagrams are leased'),
    ({'rules': ['udp:0']}, 'port range 0-0'),
    ({'addresses': ['x']}, 'read addresses'),
    ({'routes': ['10.0.0.1/8']}, 'read routes'),
    ({'mtu': 10}, 'mtu'),
    ({'device': 'tun5', 'local_device': 'tun5'}, 'both have the same name')], ids=str)
def test_bad_start(client, far, tmp_path, values, says):
    """The node says in one line what it was given, and ends."""
    with BridgeProcess(client, tmp_path, settings(far, tmp_path, **values)) as node:
        assert node.process.wait(PATIENCE) == 1
        lines = node.output().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith('tun_bridge: ')
        assert says in lines[0]


def test_parameters(client, far, tmp_path):
    """Each is described; the file in config/ names them all, with their defaults."""
    with BridgeProcess(client, tmp_path, settings(far, tmp_path)) as node:
        there = node.parameters()
        written = yaml.safe_load((ROOT / 'config' / 'tun_bridge.yaml').read_text())
        written = written['/**']['ros__parameters']
        assert written.keys() == there.keys()
        for name, (_, descriptor) in there.items():
            assert descriptor.description.endswith('.'), name
        assert node.change('configure')
        for name, value in (('prefixes', ['10.9.0.0/16']), ('mtu', 1500), ('device', 'tun5')):
            refused = node.set_parameters(**{name: value})
            assert not refused.successful
            assert refused.reason.startswith(f'{name} can be set in state unconfigured only')
        assert node.set_parameters(max_rate=7, status_period_s=0.5).successful
        assert node.change('cleanup')
        assert node.set_parameters(mtu=1500).successful
        assert not node.set_parameters(prefixes=['10.9.0.1/16']).successful


class Consumer:
    """What pool.Consumer is, without a node and without datagrams."""

    made = []
    memory, connected, problem = None, True, ''

    def __init__(self, rules, *, control, claims, name):
        """Note how it was made."""
        self.arguments = rules, control, claims, name
        self.fail = self.closed = False
        self.made.append(self)

    def read(self, timeout, most):
        """Return nothing, as at a timeout, or fail."""
        time.sleep(0.01)
        if self.fail:
            raise PoolError('map the pool', 'no reason', next_step='none')
        return self

    def __len__(self):
        """Return how many datagrams there are."""
        return 0

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Close."""
        self.closed = True


def test_active(far, tmp_path, monkeypatch):
    """The lease is asked for with rules and claims; a bridge that fails gives it back."""
    from ipc_bypass.nodes import tun_bridge
    monkeypatch.setattr(tun_bridge, 'Consumer', Consumer)
    context = rclpy.Context()
    context.init(args=[])
    values = settings(far, tmp_path, rules=['udp:7400-7649:divert'])
    node = tun_bridge.TunBridgeNode(
        context=context, namespace=new_name().rpartition('/')[0],
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    try:
        assert node.bring_up()
        consumer = Consumer.made[-1]
        assert consumer.arguments == (['udp:7400-7649:divert'], values['control_socket'],
                                      ['10.214.0.0/24'], 'tun_bridge')
        assert node.trigger_deactivate() == SUCCESS
        assert consumer.closed
        assert devices(far) == ['ipcb_far']
        assert node.trigger_activate() == SUCCESS
        Consumer.made[-1].fail = True
        wait_until(lambda: Consumer.made[-1].closed, 'the lease is given back')
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_activate() == SUCCESS
        assert not Consumer.made[-1].closed
        far.ip('link', 'delete', 'ipcb_far')
        wait_until(lambda: Consumer.made[-1].closed, 'the lease is given back')
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_activate() != SUCCESS  # without a device
        assert node.trigger_cleanup() == SUCCESS
        assert node.bring_up()
    finally:
        node.bring_down()
        node.destroy_node()
        context.shutdown()
    assert all(consumer.closed for consumer in Consumer.made)
    wait_until(lambda: devices(far) == [], 'the device goes')


@pytest.mark.skipif(importlib.util.find_spec('launch_ros') is None,
                    reason='launch_ros is in no registry')
def test_launch_arguments():
    from launch.actions import DeclareLaunchArgument
    path = ROOT / 'launch' / 'tun_bridge.launch.py'
    spec = importlib.util.spec_from_file_location('launch_file', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = [entity for entity in module.generate_launch_description().entities
                 if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == {
        'namespace', 'params_file', 'autostart', 'log_level', 'use_respawn'}


def test_launch_file_compiles():
    path = ROOT / 'launch' / 'tun_bridge.launch.py'
    compile(path.read_text(), str(path), 'exec')
