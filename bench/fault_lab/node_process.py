"""
A node of ours as it is, and what asks its services by order of standard input.

`python -m fault_lab.node_process NODE --ros-args ...`, NODE of NODES: each line is JSON,
[function, argument, ...], and is answered by a line of JSON. The one who asks is a second node, in
the same process, so that no discovery over the network is waited for.
"""

import functools
import importlib
import sys
import threading
import time

from fault_lab.serving import serve as serve_lines
import ipc_bypass
from ipc_bypass.nodes.lifecycle import serve
from ipc_bypass_interfaces.msg import BypassStatistics
from ipc_bypass_interfaces.srv import EnrollPort, ListRules, WithdrawPort
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import rclpy
from rclpy.executors import SingleThreadedExecutor

#: Their modules and classes.
NODES = {'ipc_bypass': ('bypass_node', 'BypassNode'),
         'xdp_helper': ('xdp_helper', 'XdpHelperNode')}
_PATIENCE = 200.0
#: Seconds; they come once a second.
_STATISTICS_PATIENCE = 60.0


class Asker:
    """Asks the services of the node in this process."""

    def __init__(self, name):
        """Make the node that asks."""
        self._name = name
        self._node = rclpy.create_node('asker', namespace=name, use_global_arguments=False,
                                       start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._clients = {}

    def change(self, label):
        """Return whether a transition succeeded."""
        return self._call(ChangeState, 'change_state', transition=Transition(label=label)).success

    def state(self):
        """Return the label of the node's state."""
        return self._call(GetState, 'get_state').current_state.label

    def enroll(self, port):
        """Enroll a TCP port; return (error code, message)."""
        answer = self._call(EnrollPort, 'enroll_port', transport='tcp', port_first=port,
                            port_last=port, action='accelerate')
        return answer.error_code, answer.error_msg

    def withdraw(self, port):
        """Withdraw a TCP port; return (error code, message)."""
        answer = self._call(WithdrawPort, 'withdraw_port', transport='tcp', port_first=port,
                            port_last=port)
        return answer.error_code, answer.error_msg

    def rules(self):
        """Return [first port, last port, whether it has an effect] of each rule."""
        return [[rule.port_first, rule.port_last, rule.effective]
                for rule in self._call(ListRules, 'list_rules').rules]

    def counters(self):
        """Return the counters of the next ~/statistics by name; raises TimeoutError."""
        heard = []
        subscription = self._node.create_subscription(
            BypassStatistics, f'{self._name}/statistics', heard.append, 10)
        end = time.monotonic() + _STATISTICS_PATIENCE
        while not heard and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.1)
        self._node.destroy_subscription(subscription)
        if not heard:
            raise TimeoutError('~/statistics says nothing')
        return {counter.name: counter.value for counter in heard[-1].counters}

    def package(self):
        """Return where the package is that this process runs."""
        return ipc_bypass.__file__

    def wall_clock(self):
        """Return what this process takes for the time of day, in seconds since 1970."""
        return time.time()

    def _call(self, service, name, **request):
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self._node.create_client(
                service, f'{self._name}/{name}')
            if not client.wait_for_service(_PATIENCE):
                raise TimeoutError(f'{name} is not there')
        answer = client.call_async(service.Request(**request))
        self._executor.spin_until_future_complete(answer, _PATIENCE)
        if not answer.done():
            raise TimeoutError(f'{name} does not answer')
        return answer.result()


def make_node(kind):
    """Return a node of this kind; its orders are taken from now on."""
    module, name = NODES[kind]
    node = getattr(importlib.import_module(f'ipc_bypass.nodes.{module}'), name)()
    name = node.get_fully_qualified_name()
    threading.Thread(target=lambda: serve_lines(Asker(name)), name='asker', daemon=True).start()
    return node


if __name__ == '__main__':
    sys.exit(serve(functools.partial(make_node, sys.argv.pop(1))))
