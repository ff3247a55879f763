"""The reasons that keep a pair from a shorter way, in words, each with what changes it."""

from __future__ import annotations

from collections.abc import Iterable
import os

from ipc_bypass.graph.connections import Connection
from ipc_bypass.graph.model import Process, REDIRECTED, TCP, UNKNOWN

CHANGE_QOS = 'give both ends the same QoS'
EXCLUDE = 'nothing: the usual way is right for it (docs/semantics.md)'
LOOK_AGAIN = 'run `ipc-bypass doctor` again'
WITH_SUDO = 'run with sudo'

# `ipc-bypass profile` and `ipc-bypass run` by what a process speaks.
_PROFILES = {'Fast DDS': 'fastdds', 'Cyclone DDS': 'cyclonedds', 'zenoh': 'zenoh'}

#: PASS_* of bpf/ipc_bypass_common.h: what it means, and what to do.
PASSED = {
    'no_peer': ('the other end is not known to the node: it was open before, or is elsewhere',
                'restart one of the two processes'),
    'queues_not_empty': ('it passed before, and TCP still holds bytes', ''),
    'queues_not_visible': ('this kernel does not show the queues to the program',
                           'use a kernel with BTF'),
    'budget': ('the receiver has not read what its budget allows',
               'a faster reader, or a larger budget_bytes'),
    'pause': ('the budget was spent a moment ago', 'a faster reader, or a larger budget_bytes'),
    'small_writes': ('a one-way stream of small writes is faster by TCP', ''),
    'withdrawn': ('the rule was withdrawn', ''),
    'inactive': ('the node is not active', ''),
    'unknown_socket': ('the socket was entered by an earlier start',
                       'restart one of the two processes'),
    'upper_protocol': ('TLS of the kernel sits on the socket', ''),
    'closing': ('the connection ends', ''),
    'not_paired': ('the gateway between the two has not brought them together', ''),
    'splice': ('the receiver moves data by splice(2)', EXCLUDE),
    'waitall': ('the receiver reads with MSG_WAITALL', EXCLUDE),
    'zerocopy': ('the sender set SO_ZEROCOPY', EXCLUDE),
    'excluded': ('the other end is a program that is left out', EXCLUDE)}


def enroll_command(node: dict, port: int) -> str:
    """Return the command that adds a rule for a TCP port to a node."""
    return _ros2(node, f"service call {node['name']}/enroll_port "
                 f'ipc_bypass_interfaces/srv/EnrollPort "{{transport: tcp, port_first: {port}}}"')


def _ros2(node, words):
    """Return a ros2 command for a node, which names the node's domain where it is not ours."""
    ours = os.environ.get('ROS_DOMAIN_ID') or '0'
    other = str(node.get('domain', ours))
    return f'ros2 {words}' if other == ours else f'ROS_DOMAIN_ID={other} ros2 {words}'


def run_command(process: Process) -> str:
    """Return the command that starts a process with a profile of TCP, '' for unknown kinds."""
    kind = _PROFILES.get(process.kind)
    return f'ipc-bypass run {kind} -- COMMAND' if kind else ''


#: (node, flow) of each flow, by the ends ((address, port), (address, port)) that it goes between.
Flows = dict[tuple, list[tuple[dict, dict]]]


def flows_by_ends(nodes: Iterable[dict]) -> Flows:
    """Return the flows of nodes by (sending end, receiving end)."""
    found: Flows = {}
    for node in nodes:
        for flow in node['flows']:
            found.setdefault(((flow['local_address'], flow['local_port']),
                              (flow['remote_address'], flow['remote_port'])),
                             []).append((node, flow))
    return found


def of_connection(connections: list[Connection], nodes: list[dict], flows: Flows,
                  node_runs: bool, *, directed: bool = False) -> tuple[str, str, str]:
    """
    Return (way, reason, next step) of two processes that have TCP connections.

    Two processes may have several, and each has two directions: the flow with the most bytes is
    the one that carries the samples.

    :param nodes: {'name', 'state', 'flows', 'flows_left_out', 'rules', 'told'} of each node that
        answered
    :param flows: as `flows_by_ends` gives those of the nodes
    :param node_runs: whether there is one that perhaps did not
    :param directed: whether the first process of the connections is the one that sends
    """
    forward = _flows_of([(each, each.local, each.remote) for each in connections], flows)
    found = forward if directed and forward else forward + _flows_of(
        [(each, each.remote, each.local) for each in connections], flows)
    if not found:
        return _not_entered(connections, nodes, node_runs)
    node, flow = max(found, key=lambda one: (one[1]['bytes'], one[1]['path'] == 'sk_msg'))
    if flow['path'] == 'sk_msg':
        return REDIRECTED, 'sk_msg moves it from socket to socket', ''
    meaning, step = PASSED.get(flow['reason'], (flow['reason'], ''))
    if flow['reason'] == 'inactive':
        step = _ros2(node, f"lifecycle set {node['name']} activate")
    elif flow['reason'] == 'withdrawn':
        step = enroll_command(node, connections[0].port)
    return TCP, meaning, step


def _not_entered(connections, nodes, node_runs):
    """Return (way, reason, next step) of connections that no node shows."""
    port = connections[0].port
    if not nodes and node_runs:
        return (UNKNOWN, 'TCP; a node runs, and did not answer',
                'run doctor in its ROS_DOMAIN_ID (--domain), as its user')
    if not nodes:
        return TCP, 'no node runs', f'sudo -E ipc-bypass up -p "rules:=[\'tcp:{port}\']"'
    node = min(nodes, key=lambda each: each['state'] != 'active')
    if node['state'] == 'unconfigured':
        return (TCP, 'the node is not configured',
                _ros2(node, f"lifecycle set {node['name']} configure"))
    silent = [each['name'] for each in nodes if not each.get('told', True)]
    if silent:
        return UNKNOWN, f'TCP; {silent[0]} did not tell its flows and rules in time', LOOK_AGAIN
    covering = [(node, rule) for node in nodes for rule in node['rules']
                if rule['transport'] == 'tcp' and any(
                    rule['port_first'] <= number <= rule['port_last']
                    for connection in connections
                    for number in (connection.local[1], connection.remote[1]))]
    if not covering:
        return TCP, f'no rule covers TCP port {port}', enroll_command(node, port)
    node, rule = covering[0]
    if node['state'] != 'active':
        return (TCP, 'the node is not active',
                _ros2(node, f"lifecycle set {node['name']} activate"))
    if not rule['effective']:
        return TCP, f"its rule has no effect: {rule['reason']}", 'ipc-bypass doctor --no-graph'
    if node.get('flows_left_out'):
        return (UNKNOWN, 'TCP; the node shows its busiest flows only, and this is none of them',
                _ros2(node, f"param set {node['name']} max_published_flows "
                      f"{len(node['flows']) + node['flows_left_out']}"))
    return (TCP, 'the connection is older than its rule or than the node, or outside of its '
            'cgroup_path', 'restart one of the two processes')


def _flows_of(ends, flows):
    """
    Return the (node, flow) of connections, each given with its sending and its receiving end.

    The same addresses may be in use in several network namespaces: then the processes decide.
    """
    return [(node, flow) for connection, sender, receiver in ends
            for node, flow in flows.get((sender, receiver), ())
            if not (pids := {flow['local_pid'], flow['remote_pid']} - {0})
            or pids & {connection.pid, connection.peer_pid}]


def of_datagrams(here: Process, there: Process) -> tuple[str, str]:
    """Return (reason, next step) of two processes that talk by UDP."""
    step = run_command(here) or run_command(there)
    if here.kind != there.kind:
        return (f'{here.kind} and {there.kind} have UDP in common only',
                'use one DDS for both ends')
    if here.kind == 'Fast DDS':
        reason = _no_shared_memory(here, there)
        if reason:
            return reason, step
    return 'no profile with TCP is used', step


def _no_shared_memory(here, there):
    """Return why Fast DDS, which prefers shared memory, does not use it; '' for no reason."""
    if here.namespaces.get('net') != there.namespaces.get('net') and \
            here.shm_device == there.shm_device:
        return 'they are in two network namespaces, so each takes the other for another host'
    if None not in (here.shm_device, there.shm_device) and here.shm_device != there.shm_device:
        return 'each has a /dev/shm of its own'
    for process in (here, there):
        # Options may follow the name: 'LARGE_DATA?max_msg_size=1MB'.
        said = process.environment.get('FASTDDS_BUILTIN_TRANSPORTS', '').partition('?')[0]
        if said and said.upper() not in (
                'DEFAULT', 'DEFAULTV6', 'SHM', 'LARGE_DATA', 'LARGE_DATAV6'):
            return f'process {process.pid} has FASTDDS_BUILTIN_TRANSPORTS={said}'
    if 0 not in (here.uid, there.uid) and here.uid != there.uid:
        return f"users {here.user} and {there.user} cannot open each other's shared memory"
    if not here.segments or not there.segments:
        return 'a profile leaves shared memory out'
    return ''
