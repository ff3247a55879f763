"""A node in a process of its own, and a client that talks to it."""

import itertools
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.uapi import AttachType
from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass_interfaces.msg import BypassStatistics
from ipc_bypass_interfaces.srv import EnrollDomain, EnrollPort, ListRules, WithdrawPort
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParametersAtomically,
)
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from support.waiting import PATIENCE, wait_until

#: The tests' ports are of no DDS domain, and what a change of parameters does is tested, too.
OPEN = {
    'runtime_parameters': ['*'],
    'service_rules': ['tcp:1-65535', 'udp:1-65535:mirror', 'udp:1-65535:divert'],
    'service_interfaces': ['*'], 'service_filter_ports': ['tcp:1-65535', 'udp:1-65535'],
    'service_listen_ports': ['1-65535'],
    'service_backends': ['127.0.0.0/8', '10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16',
                         '::1/128', 'fc00::/7', 'fe80::/10']}
NODE = ('ipc_bypass.nodes.bypass_node',)
SERVICES = (
    (ChangeState, 'change_state'), (ListParameters, 'list_parameters'),
    (GetParameters, 'get_parameters'), (DescribeParameters, 'describe_parameters'),
    (SetParametersAtomically, 'set_parameters_atomically'), (EnrollPort, 'enroll_port'),
    (WithdrawPort, 'withdraw_port'), (ListRules, 'list_rules'), (EnrollDomain, 'enroll_domain'))
_numbers = itertools.count()


def attached(cgroup):
    """Return the ids of the sock_ops programs that are attached to a cgroup itself."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return syscall.prog_query(fd, AttachType.CGROUP_SOCK_OPS)
    finally:
        os.close(fd)


def new_name():
    """Return the full name of a node that nobody else has."""
    return f'/n7_{os.getpid()}_{next(_numbers)}/ipc_bypass'


def inside(cgroup):
    """Return the words before a command that have it run in a cgroup."""
    return 'sh', '-c', f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', 'sh'


def write_parameters(folder, parameters):
    """Write a parameter file (JSON is YAML) and return its path."""
    path = Path(folder) / f'parameters_{next(_numbers)}.yaml'
    path.write_text(json.dumps({'/**': {'ros__parameters': parameters}}))
    return path


class Client:
    """A node of the tests that calls services of others and keeps what topics say last."""

    def __init__(self):
        """Join the domain."""
        self._context = rclpy.Context()
        self._context.init(args=[])
        self.node = rclpy.create_node(f'n7_client_{os.getpid()}', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients = {}

    def close(self):
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.shutdown()

    def spin_until(self, condition, what, timeout=PATIENCE):
        """Handle what arrives until `condition()` is true, and return what it says."""
        def step():
            self._executor.spin_once(timeout_sec=0.05)
            return condition()
        return wait_until(step, what, timeout, interval=0)

    def call(self, service, name, **request):
        """Call a service and return its answer."""
        answer = self._client(service, name).call_async(service.Request(**request))
        self.spin_until(answer.done, f'{name} answers')
        return answer.result()

    def meet(self, name):
        """
        Wait until a node and this client have discovered each other.

        The answer of a node that does not know this client's reader yet is lost, so that a
        question which changes nothing is asked until its answer comes. Endpoints are made known
        in order: when the last one's answer comes, the others' do.
        """
        for service, service_name in SERVICES:
            self._client(service, f'{name}/{service_name}')
        client = self._client(GetState, f'{name}/get_state')

        def ask():
            answer = client.call_async(GetState.Request())
            self._executor.spin_until_future_complete(answer, 1.0)
            return answer.done()
        wait_until(ask, f'{name} answers')

    def _client(self, service, name):
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service, name)
        return self._clients[name]

    def listen(self, message, topic, qos=10):
        """Subscribe and return the list that messages are added to."""
        heard = []
        self.node.create_subscription(message, topic, heard.append, qos)
        return heard

    def forget(self, name):
        """Drop the clients of a node's services, and all subscriptions."""
        for service in [service for service in self._clients if service.startswith(f'{name}/')]:
            self.node.destroy_client(self._clients.pop(service))
        for subscription in list(self.node.subscriptions):
            self.node.destroy_subscription(subscription)


class NodeProcess:
    """
    The node `ipc_bypass` in a namespace of its own.

    :param client: the Client that asks it
    :param folder: where its parameter file and its output go
    :param parameters: by name; UDP is left alone unless udp_path is among them
    :param prefix: words before the command, as those of setpriv
    :param command: module to run and its first words
    """

    def __init__(self, client, folder, parameters, *, prefix=(), environment=None,
                 command=NODE, arguments=()):
        """Start it; it is there when its services are."""
        self.client, self.name = client, new_name()
        self._met = False
        space = self.name.rpartition('/')[0]
        self._output = tempfile.NamedTemporaryFile(dir=folder, suffix='.log')
        self.process = subprocess.Popen(
            [*prefix, sys.executable, '-m', *command, *arguments, '--ros-args',
             '-r', f'__ns:={space}',
             '--log-level', f"{self.name.strip('/').replace('/', '.')}:=debug",
             '--params-file', str(write_parameters(
                 folder, {'udp_path': 'loopback', **OPEN, **parameters}))],
            stdout=self._output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})})

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """End it, if it has not ended."""
        try:
            if self.process.poll() is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
            self._output.close()
            self.client.forget(self.name)

    def output(self):
        """Return what it wrote so far."""
        return Path(self._output.name).read_text(errors='replace')

    def errors(self):
        """Return its lines of level error."""
        return [line for line in self.output().splitlines() if line.startswith('[ERROR]')]

    def call(self, service, name, **request):
        """Call one of its services."""
        if not self._met:
            self.client.meet(self.name)
            self._met = True
        return self.client.call(service, f'{self.name}/{name}', **request)

    def change(self, label):
        """Ask for a transition by its label; return whether it succeeded."""
        return self.call(ChangeState, 'change_state', transition=Transition(label=label)).success

    def state(self):
        """Return the label of its state."""
        return self.call(GetState, 'get_state').current_state.label

    def bring_up(self):
        """Configure and activate."""
        assert self.change('configure'), self.output()
        assert self.change('activate'), self.output()

    def set_parameters(self, **values):
        """Set parameters at once and return the SetParametersResult."""
        messages = [value if isinstance(value, ParameterMessage) else Parameter(
            name, Parameter.Type.STRING_ARRAY if isinstance(value, list) else None,
            value).to_parameter_msg() for name, value in values.items()]
        return self.call(SetParametersAtomically, 'set_parameters_atomically',
                         parameters=messages).result

    def parameters(self):
        """Return {name: (value, descriptor)} of its own parameters."""
        names = [name for name in self.call(ListParameters, 'list_parameters').result.names
                 if '.' not in name and not name.startswith(('use_sim_time', 'start_type'))]
        values = self.call(GetParameters, 'get_parameters', names=names).values
        answer = self.call(DescribeParameters, 'describe_parameters', names=names)
        return {descriptor.name: (rclpy.parameter.parameter_value_to_python(value), descriptor)
                for value, descriptor in zip(values, answer.descriptors, strict=True)}

    def statistics(self):
        """Return the list that its ~/statistics are added to."""
        return self.client.listen(BypassStatistics, f'{self.name}/statistics', LATCHED)

    def end(self, number=signal.SIGTERM):
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


class HelperProcess(NodeProcess):
    """A node with services of its own: `services` are their types by name."""

    services = {}

    def __init__(self, client, folder, name, parameters, **how):
        """Start it; `name` is the node's, `how` what NodeProcess takes."""
        super().__init__(client, folder, parameters, **how)
        self.name = f"{self.name.rpartition('/')[0]}/{name}"

    def call(self, service, name, **request):
        """Call one of its services."""
        if not self._met:
            # Before `meet` waits for the answer of the last client that was made.
            for service_name, kind in self.services.items():
                self.client._client(kind, f'{self.name}/{service_name}')
        return super().call(service, name, **request)

    def change(self, label):
        """
        Ask for a transition by its label; return whether it succeeded.

        configure compiles, which takes a busy machine its time.
        """
        self.state()  # so that the node and the client have met
        answer = self.client._client(ChangeState, f'{self.name}/change_state').call_async(
            ChangeState.Request(transition=Transition(label=label)))
        self.client.spin_until(answer.done, f'{label} is done', 4 * PATIENCE)
        return answer.result().success

    def ask(self, name, **request):
        """Call one of its own services by its name."""
        return self.call(self.services[name], name, **request)

    def code(self, name, /, **request):
        """Call one of them and return the name of its error code; the message is one line."""
        answer, response = self.ask(name, **request), self.services[name].Response
        assert '\n' not in answer.error_msg
        assert bool(answer.error_code) == bool(answer.error_msg)
        return next(label for label in dir(response)
                    if label.isupper() and getattr(response, label) == answer.error_code)


class LocalNode:
    """A BypassNode in the test's own process, for faults that only code can make."""

    def __init__(self, **parameters):
        """Make it, with these parameters."""
        from ipc_bypass.nodes.bypass_node import BypassNode
        self._context = rclpy.Context()
        self._context.init(args=[])
        self.node = BypassNode(
            context=self._context, namespace=new_name().rpartition('/')[0],
            parameter_overrides=[Parameter(name, value=value)
                                 for name, value in {'udp_path': 'loopback', **OPEN,
                                                     **parameters}.items()])

    def __enter__(self):
        """Return the node."""
        return self.node

    def __exit__(self, *_exception):
        """Bring it down."""
        self.node.bring_down()
        self.node.destroy_node()
        self._context.shutdown()
