"""The sub-commands of `ipc-bypass xdp` that a running node answers."""

import json
import os
import time

from ipc_bypass.cli.status import NodeError, plain
from ipc_bypass.cli.xdp_table import fast_path_text, rules_text
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.filter.status import FilterStatus, RuleStatus
from ipc_bypass_interfaces.srv import (
    XdpAddRule,
    XdpAttach,
    XdpDetach,
    XdpGetStatus,
    XdpListRules,
    XdpLoadSlot,
    XdpRemoveRule,
    XdpUnloadSlot,
)
import rclpy
from rclpy.signals import SignalHandlerOptions

_SPIN_SECONDS = 0.2


def attach(args):
    """Attach an interface and say in which mode."""
    answer = ask(args, XdpAttach, 'attach', interface=args.interface, mode=args.mode)
    for interface in answer.interfaces:
        print(f'{interface.name}: {interface.mode} mode'
              + (f', since {interface.reason}' if interface.reason else ''))
    return 0


def detach(args):
    """Detach an interface."""
    answer = ask(args, XdpDetach, 'detach', interface=args.interface)
    for interface in answer.interfaces:
        print(f'{interface.name}: not attached')
    return 0


def load(args):
    """Load a program into a slot and print the ids that it has."""
    answer = ask(args, XdpLoadSlot, 'load_slot', interface=args.interface, slot=args.slot,
                 program=args.program)
    print(f"slot {args.slot}: program {', '.join(map(str, answer.program_ids))}")
    return 0


def unload(args):
    """Empty a slot."""
    ask(args, XdpUnloadSlot, 'unload_slot', interface=args.interface, slot=args.slot)
    print(f'slot {args.slot}: empty')
    return 0


def add_rule(args):
    """Add a rule to the filter and print its id."""
    answer = ask(args, XdpAddRule, 'add_rule', rule=' '.join(args.rule))
    print(f'rule {answer.rule_id}')
    return 0


def remove_rule(args):
    """Remove a rule, given by its id or by its text."""
    text = ' '.join(args.rule)
    number = int(text) if text.isascii() and text.isdigit() else 0
    answer = ask(args, XdpRemoveRule, 'remove_rule', rule_id=number, rule='' if number else text)
    print(f'rule {answer.rule_id} is gone')
    return 0


def list_rules(args):
    """Print the rules with what they decided."""
    answer = ask(args, XdpListRules, 'list_rules')
    rules = plain(answer.rules)
    if args.json:
        print(json.dumps({'settings': plain(answer.settings), 'rules': rules}, indent=2))
    else:
        print(rules_text(rules))
    return 0


def fast_path(args):
    """Print the container fast path."""
    shown = plain(ask(args, XdpGetStatus, 'get_status').status.fast_path)
    print(json.dumps(shown, indent=2) if args.json else fast_path_text(shown))
    return 0


def filters(args):
    """Return {interface: FilterStatus} as the node has them; raises BypassError."""
    answer = ask(args, XdpListRules, 'list_rules')
    return {each.interface: FilterStatus(
        each.engine, each.reason, dict(map(_setting, each.settings)),
        tuple(RuleStatus(rule.id, rule.rule, rule.origin, rule.packets, rule.bytes)
              for rule in each.rules),
        {outcome.name: outcome.value for outcome in each.outcomes})
        for each in answer.filters}


def _setting(line):
    """Return (name, value) of a line as 'frags_drop: true'."""
    name, _, text = line.partition(': ')
    if text in ('true', 'false'):
        return name, text == 'true'
    return name, int(text) if text.isdigit() else text


def ask(args, service, name, **request):
    """
    Call a service of the node and return its answer.

    Raises NodeError where nobody answers, and BypassError with the node's words on a refusal.
    """
    node_name = '/' + args.node.strip('/')
    rclpy.init(args=['ipc-bypass'], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(f'ipc_bypass_xdp_{os.getpid()}', enable_rosout=False,
                                 start_parameter_services=False)
        client = node.create_client(service, f'{node_name}/{name}')
        deadline = time.monotonic() + args.timeout
        if not client.wait_for_service(args.timeout):
            raise _nobody(node_name, args.timeout)
        # DDS loses the answer of a node that has not discovered this client's reader yet. The
        # node knows a client by its reader and its writer; asking twice would do it twice.
        _settle(node, node_name, deadline)
        answer = client.call_async(service.Request(**request))
        while not answer.done() and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=_SPIN_SECONDS)
        if not answer.done():
            raise _nobody(node_name, args.timeout)
        result = answer.result()
        if result.error_code:
            raise BypassError(f'{node_name} refuses', result.error_msg)
        return result
    finally:
        rclpy.try_shutdown()


def _settle(node, node_name, deadline):
    """Ask what changes nothing until an answer comes: from then on answers find their way."""
    client = node.create_client(XdpListRules, f'{node_name}/list_rules')
    while time.monotonic() < deadline:
        answer = client.call_async(XdpListRules.Request())
        until = min(deadline, time.monotonic() + 1.0)
        while not answer.done() and time.monotonic() < until:
            rclpy.spin_once(node, timeout_sec=_SPIN_SECONDS)
        if answer.done():
            return


def _nobody(node_name, timeout):
    return NodeError(
        f'ask node {node_name}', f'no answer within {timeout:g} s in ROS domain '
        f"{os.environ.get('ROS_DOMAIN_ID') or 0}",
        next_step='start it with `ros2 launch ipc_bypass xdp_helper.launch.py`, or name another '
        'one with --node')
