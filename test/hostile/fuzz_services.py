"""Requests at every service of the nodes but transitions, the parameters' services among them."""

import atexit
import os
from pathlib import Path
import shutil
import struct
import traceback

import ipc_bypass
from ipc_bypass.kernel.bpffs import MOUNT_POINT
from ipc_bypass.nodes.bypass_node import BypassNode
from ipc_bypass.nodes.sockmap_helper import SockmapHelperNode
from ipc_bypass.nodes.xdp_helper import XdpHelperNode
from mutations import Values
import rclpy
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message, serialize_message
from support.leaks import PIN_PREFIX

#: One of these inputs takes as long as so many of the others.
COST = 4
LONGEST = 512
# Not where a node that serves this host has its own. Who starts this process names the folder, and
# removes it: libFuzzer ends a process without its `atexit`, and pins outlive their maker.
_PINS = os.environ.get('IPC_BYPASS_FUZZ_PINS', f'{MOUNT_POINT}/{PIN_PREFIX}{os.getpid()}_fuzz')
# Loading programs and trying the kernel's ways is the tests' of the nodes: here it is requests.
# The limits of services are lifted: what is behind them is to be reached, too.
_NODES = (
    (BypassNode, {'tcp_path': 'loopback', 'udp_path': 'loopback', 'runtime_parameters': ['*'],
                  'service_rules': ['tcp:1-65535', 'udp:1-65535:divert']}),
    (SockmapHelperNode, {'kernel_path': 'never', 'health_interval_s': 0.0,
                         'service_listen_ports': ['1-65535'],
                         'service_backends': ['0.0.0.0/0', '::/0']}),
    (XdpHelperNode, {'interfaces': ['fuzz0'], 'slots': [''] * 8, 'service_interfaces': ['*'],
                     'runtime_parameters': ['*'],
                     'service_filter_ports': ['tcp:1-65535', 'udp:1-65535']}))
_LEFT_OUT = ('change_state', 'get_type_description')
_WORDS = ('tcp', 'udp', 'accelerate', 'mirror', 'divert', '127.0.0.1:9090', '[::1]:1', 'lo', '*',
          'veth*', 'bridge:br0', 'native', 'deny udp 7400', 'allow from 10.0.0.0/8', 'filter',
          'sampler', '/etc/passwd', '/tmp/x.bpf.c:x', '../../x', 'rules', 'udp_path', 'interfaces',
          'a' * 4096)
_NUMBERS = {'uint8': 1, 'uint16': 2, 'uint32': 4, 'uint64': 8, 'int8': 1, 'int16': 2, 'int32': 4,
            'int64': 8}

os.environ.setdefault('ROS_LOG_DIR', '/tmp')
_context = rclpy.Context()
_context.init(args=['--ros-args', '--log-level', 'fatal'])
_nodes, _services = [], []


def _start():
    for kind, parameters in _NODES:
        if kind is not SockmapHelperNode:
            parameters = {**parameters, 'pin_directory': _PINS}
        node = kind(context=_context, namespace=f'/fuzz_{os.getpid()}', parameter_overrides=[
            Parameter(name, value=value) for name, value in parameters.items()])
        _nodes.append(node)
        assert node.bring_up(activate=kind is not SockmapHelperNode)
        _services.extend(service for service in node.services
                         if not service.srv_name.endswith(_LEFT_OUT))
    assert len(_services) > 20


@atexit.register
def _end():
    for node in _nodes:
        node.bring_down()
        node.destroy_node()
    _context.shutdown()
    shutil.rmtree(_PINS, ignore_errors=True)


_start()


def seeds():
    """Yield a request of zeros and one of words at each service."""
    for number in range(len(_services)):
        yield bytes([number])
        yield bytes([number]) + bytes(range(1, 60))
    yield bytes([0, 1, 0, 0x1c, 0xe8, 0, 0])


def one(data):
    """Ask: the callback answers, whatever it is, with a code and one line that can be sent."""
    values = Values(data)
    service = values.choice(_services)
    request, response = service.srv_type.Request(), service.srv_type.Response()
    _fill(request, values, 0)
    # As it would come: what cannot be sent cannot be asked either.
    request = deserialize_message(serialize_message(request), type(request))
    try:
        answer = service.callback(request, response)
    except Exception as error:
        if not _of_rclpy(error):
            raise
        return  # nodes.lifecycle survives it; see test/nodes/test_hostile_requests.py
    serialize_message(answer)
    if hasattr(answer, 'error_code'):
        codes = [value for name, value in vars(type(answer)).items() if name.isupper()] or [
            getattr(answer, name) for name in dir(answer) if name.isupper()]
        assert answer.error_code in codes
        assert bool(answer.error_code) == bool(answer.error_msg)
        assert '\n' not in answer.error_msg and 'Error:' not in answer.error_msg, answer


def _of_rclpy(error):
    """Return whether an error was raised by rclpy's own code, and not by ours."""
    ours = Path(ipc_bypass.__file__).resolve().parent
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return not any(ours in Path(name).parents for name in frames)


def _fill(message, values, depth):
    """Give each member of a message a value from the bytes."""
    for name, kind in message.get_fields_and_field_types().items():
        if kind.startswith('sequence<'):
            inner = kind[len('sequence<'):-1].partition(',')[0]
            setattr(message, name, [_value(inner, values, depth)
                                    for _ in range(values.number() % 3)])
        else:
            setattr(message, name, _value(kind, values, depth))


def _value(kind, values, depth):
    if kind in _NUMBERS:
        size = _NUMBERS[kind]
        whole = values.number(size if values.number() & 1 else 1)
        return whole if kind.startswith('u') else int.from_bytes(
            whole.to_bytes(size, 'little'), 'little', signed=True)
    if kind == 'boolean':
        return bool(values.number() & 1)
    if kind in ('double', 'float'):
        return struct.unpack('<d', values.take(8).ljust(8, b'\0'))[0] if kind == 'double' else 1.0
    if kind.startswith('string'):
        return values.choice(_WORDS) if values.number() & 1 else \
            values.take(values.number()).decode('utf-8', 'replace').replace('\0', '?')
    if kind in ('octet', 'byte'):
        return bytes([values.number()])
    package, _, name = kind.partition('/')
    module = __import__(f'{package}.msg', fromlist=[name])
    made = getattr(module, name)()
    if depth < 4:
        _fill(made, values, depth + 1)
    return made
