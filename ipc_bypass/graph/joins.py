"""
Which domains and namespaces to join, and what came of it; each join is a process of its own.

A process's environment is another user's text: what is passed on to ours is held against a list.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from dataclasses import dataclass, field
import importlib.util
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time

from ipc_bypass.graph.libraries import RMW_NAMES
from ipc_bypass.graph.model import Endpoint, Process
from ipc_bypass.kernel.namespaces import NetworkNamespace

#: Joins at one time: each is a process of some 60 MB for a few seconds.
MOST_JOINS = 6
# On a busy machine; nobody waits for it elsewhere.
_START_SECONDS = 20.0
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
_RANGES = {'LOCALHOST', 'SUBNET', 'OFF', 'SYSTEM_DEFAULT'}
_ADDRESSES = re.compile(r'[0-9a-zA-Z.:;\-\[\]]{1,512}')
# What decides whether discovery meets the others, and who may say it how.
_PASSED_ON = {
    'ROS_AUTOMATIC_DISCOVERY_RANGE': lambda value: value in _RANGES,
    'ROS_LOCALHOST_ONLY': lambda value: value in ('0', '1'),
    'ROS_STATIC_PEERS': lambda value: bool(_ADDRESSES.fullmatch(value)),
    'ROS_DISCOVERY_SERVER': lambda value: bool(_ADDRESSES.fullmatch(value))}
# What would give our process transports, or files, that are not its own.
_LEFT_OUT = re.compile(r'FAST(DDS|RTPS)_\w*|RMW_FASTRTPS_\w*|CYCLONEDDS_URI|ZENOH_\w*|'
                       r'IPC_BYPASS_PORT')


# The rmw that meets every DDS, with the profile below.
_FAST_RMW = 'rmw_fastrtps_cpp'
# UDP, and TCP to those who listen there; no shared memory, which others could not reach.
# Without the property a Fast DDS 3 asks the others for types that it does not know, and the
# answers end every Cyclone DDS 0.10 in the domain (seen with 0.10.2: SIGSEGV in its thread
# dq.builtin after 'ddsi_xt_type_init_impl with invalid type object').
_PROFILE_NAME = 'profile.xml'
_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com"><profiles><transport_descriptors>
<transport_descriptor><transport_id>u</transport_id><type>UDPv4</type></transport_descriptor>
<transport_descriptor><transport_id>t</transport_id><type>TCPv4</type></transport_descriptor>
</transport_descriptors>
<participant profile_name="ipc_bypass_graph" is_default_profile="true"><rtps>
<useBuiltinTransports>false</useBuiltinTransports>
<userTransports><transport_id>u</transport_id><transport_id>t</transport_id></userTransports>
<propertiesPolicy><properties><property>
<name>fastdds.type_propagation</name><value>disabled</value>
</property></properties></propertiesPolicy>
</rtps></participant></profiles></dds>
"""


@dataclass(frozen=True)
class Place:
    """Where to join: a namespace (None for our own), a domain, and how its processes do it."""

    namespace: NetworkNamespace | None
    domain: int
    environment: tuple[tuple[str, str], ...] = ()


@dataclass
class Joined:
    """
    What the joins found.

    :param nodes: {'name', 'domain', 'state', 'statistics', 'flows', 'flows_left_out', 'rules',
        'told'} of each node of this package; told: whether its flows and rules came in time
    :param own: guid prefixes of the joins themselves
    """

    endpoints: list[Endpoint] = field(default_factory=list)
    nodes: list[dict] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    cannot: list[str] = field(default_factory=list)


def places(processes: Iterable[Process], namespaces: dict[int, NetworkNamespace],
           domain: int | None) -> list[Place]:
    """
    Return a place for each namespace and domain that a process is in; our own comes first.

    :param namespaces: those that may be entered, by inode
    :param domain: join this one only, and those of nodes of this package; None for every one
    """
    here = os.stat('/proc/self/ns/net').st_ino
    found: dict[tuple[int, int], Place] = {}
    for process in processes:
        inode = process.namespaces.get('net', here)
        if process.kind == 'zenoh' and not process.rmw:
            continue
        for number in process.domains:
            wanted = domain in (None, number) or process.bypass_node
            if wanted and (inode == here or inode in namespaces):
                found.setdefault((inode, number), Place(
                    None if inode == here else namespaces[inode], number,
                    _environment(process)))
    if not found:
        text = os.environ.get('ROS_DOMAIN_ID') or '0'
        number = int(text) if domain is None and re.fullmatch('[0-9]{1,3}', text) else domain or 0
        found[here, number] = Place(None, number)
    # The nodes of other domains come last: they must not take the place of what was asked for.
    return sorted(found.values(), key=lambda place: (
        domain not in (None, place.domain), place.namespace is not None))


def _environment(process):
    """Return what our process takes over of another's."""
    taken = {name: value for name, value in process.environment.items()
             if name in _PASSED_ON and _PASSED_ON[name](value)}
    rmw = _FAST_RMW if process.kind != 'zenoh' and _installed(_FAST_RMW) else process.rmw
    if rmw in RMW_NAMES and _installed(rmw):
        taken['RMW_IMPLEMENTATION'] = rmw
    return tuple(sorted(taken.items()))


class Joins:
    """
    The processes that join; a context manager that ends them.

    :param wanted: as `places` gives them; those beyond MOST_JOINS are left out and named
    """

    def __init__(self, wanted: list[Place], seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._children: list[tuple[Place, subprocess.Popen]] = []
        self._wanted: list[Place] = []
        self._cannot, self._folder = [], None
        self._deadline = time.monotonic() + seconds + _START_SECONDS
        if not _has_rclpy():
            self._cannot.append('topics: rclpy is not installed; source ROS 2: '
                                '. /opt/ros/<distribution>/setup.sh or . scripts/activate')
            return
        left_out = wanted[MOST_JOINS:]
        if left_out:
            domains = ', '.join(map(str, sorted({place.domain for place in left_out})))
            self._cannot.append(
                f'topics in {len(left_out)} more network namespaces (domains {domains}): '
                f'{MOST_JOINS} are joined at a time; use --domain')
        self._wanted = wanted[:MOST_JOINS]

    def __enter__(self) -> Joins:
        if self._wanted:
            try:
                self._folder = tempfile.TemporaryDirectory(
                    prefix='ipc_bypass_', ignore_cleanup_errors=True)
                Path(self._folder.name, _PROFILE_NAME).write_text(_PROFILE, encoding='ascii')
                for place in self._wanted:
                    self._children.append((place, self._start(place)))
            except OSError as error:
                self._cannot.append(f'topics: a join cannot be started: {error}')
        return self

    def __exit__(self, *_exception) -> None:
        for _, child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        if self._folder is not None:
            self._folder.cleanup()

    def wait(self) -> Joined:
        """Return what every join found; one that fails is named in `cannot`."""
        joined = Joined(cannot=list(self._cannot))
        found: dict[str, Endpoint] = {}
        for number, (place, child) in enumerate(self._children):
            where = f'topics of domain {place.domain}' + (
                f' in network namespace {place.namespace.inode}' if place.namespace else '')
            try:
                out, err = child.communicate(timeout=max(0.1, self._deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                joined.cannot.append(f'{where}: the join did not end in time')
                continue
            answer = _answer(out)
            if answer is None:
                lines = err.strip().splitlines() or ['it ended without an answer']
                joined.cannot.append(f'{where}: {lines[-1][:200]}')
                continue
            joined.own.add(answer['own'])
            for fields in answer['endpoints']:
                seen_by = found[fields['guid']].seen_by if fields['guid'] in found else ()
                found[fields['guid']] = Endpoint(**fields, domain=place.domain,
                                                 seen_by=(*seen_by, number))
            known = {node['name'] for node in joined.nodes}
            joined.nodes += [{**node, 'domain': place.domain} for node in answer['nodes']
                             if node['name'] not in known]
        joined.endpoints = [endpoint for endpoint in found.values()
                            if endpoint.guid_prefix not in joined.own]
        return joined

    def _start(self, place):
        environment = {name: value for name, value in os.environ.items()
                       if not _LEFT_OUT.fullmatch(name)}
        profile = os.path.join(self._folder.name, _PROFILE_NAME)
        environment.update(place.environment, ROS_DOMAIN_ID=str(place.domain),
                           ROS_LOG_DIR=self._folder.name,  # each would leave a file for ever
                           FASTDDS_DEFAULT_PROFILES_FILE=profile,
                           FASTRTPS_DEFAULT_PROFILES_FILE=profile,
                           PYTHONPATH=os.pathsep.join(filter(None, [
                               str(_PACKAGE_FOLDER), os.environ.get('PYTHONPATH', '')])))
        command = [sys.executable, '-m', 'ipc_bypass.graph.joining',
                   '--seconds', str(self._seconds)]
        if place.namespace is not None:
            command += ['--namespace', str(place.namespace.path), str(place.namespace.inode)]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd='/')


def _has_rclpy():
    try:
        return importlib.util.find_spec('rclpy') is not None
    except ImportError:
        return False


def _answer(out):
    """Return the JSON of a join's last line, None where there is none."""
    for line in reversed(out.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and 'endpoints' in found:
                return found
    return None


def _installed(rmw):
    """Return whether ROS has an rmw here, by the ament index (REP-2007)."""
    return bool(rmw) and any(
        Path(prefix, 'share/ament_index/resource_index/packages', rmw).is_file()
        for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix)
