"""Questions to the services of a running node, from a command."""

import json
import os
import time

from ipc_bypass.cli.status import NodeError
from ipc_bypass.kernel.errors import BypassError
import rclpy
from rclpy.signals import SignalHandlerOptions

_SPIN_SECONDS = 0.2


def ask(args, service, name, *, harmless, launch_file, **request):
    """
    Call a service of the node `args.node` and return its answer.

    :param harmless: (service, its name) of a service of that node which changes nothing
    :param launch_file: that starts such a node, for the error's next step
    :raises NodeError: where nobody answers
    :raises BypassError: with the node's words on a refusal
    """
    node_name = '/' + args.node.strip('/')
    rclpy.init(args=['ipc-bypass'], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(f'ipc_bypass_asking_{os.getpid()}', enable_rosout=False,
                                 start_parameter_services=False)
        client = node.create_client(service, f'{node_name}/{name}')
        deadline = time.monotonic() + args.timeout
        if not client.wait_for_service(args.timeout):
            raise _nobody(node_name, args.timeout, launch_file)
        # DDS loses the answer of a node that has not discovered this client's reader yet. The
        # node knows a client by its reader and its writer; asking twice would do it twice.
        _settle(node, f'{node_name}/{harmless[1]}', harmless[0], deadline)
        answer = client.call_async(service.Request(**request))
        while not answer.done() and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=_SPIN_SECONDS)
        if not answer.done():
            raise _nobody(node_name, args.timeout, launch_file)
        result = answer.result()
        if result.error_code:
            raise BypassError(f'{node_name} refuses', result.error_msg)
        return result
    finally:
        rclpy.try_shutdown()


def said(args, text, **values):
    """Print what was done: the text, or with --json the values as an object."""
    print(json.dumps(values) if args.json else text)


def _settle(node, name, service, deadline):
    """Ask what changes nothing until an answer comes: from then on answers find their way."""
    client = node.create_client(service, name)
    while time.monotonic() < deadline:
        answer = client.call_async(service.Request())
        until = min(deadline, time.monotonic() + 1.0)
        while not answer.done() and time.monotonic() < until:
            rclpy.spin_once(node, timeout_sec=_SPIN_SECONDS)
        if answer.done():
            return


def _nobody(node_name, timeout, launch_file):
    return NodeError(
        f'ask node {node_name}', f'no answer within {timeout:g} s in ROS domain '
        f"{os.environ.get('ROS_DOMAIN_ID') or 0}",
        next_step=f'start it with `ros2 launch ipc_bypass {launch_file}`, or name another '
        'one with --node')
