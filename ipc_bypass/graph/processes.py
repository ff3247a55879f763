"""
The processes of this host that speak DDS or zenoh, from /proc.

All pid, network, IPC and mount namespaces below our own pid namespace are seen. A process of
another user shows its name only, unless CAP_SYS_PTRACE is there; it is counted then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import os
import pwd
import re

from ipc_bypass.graph import libraries
from ipc_bypass.graph.foreign_files import device_of
from ipc_bypass.graph.model import Process, Segment
from ipc_bypass.graph.sockets import SocketTables
from ipc_bypass.rules.rtps import DOMAIN_GAIN, LAST_DOMAIN, PORT_BASE
from ipc_bypass.tcp.owners import comm, socket_descriptors

#: Variables of a process's environment that decide which way its traffic takes.
VARIABLES = re.compile(
    r'RMW_IMPLEMENTATION|ROS_DOMAIN_ID|ROS_AUTOMATIC_DISCOVERY_RANGE|ROS_LOCALHOST_ONLY|'
    r'ROS_STATIC_PEERS|ROS_DISCOVERY_SERVER|RMW_FASTRTPS_\w+|FAST(DDS|RTPS)_\w+|CYCLONEDDS_URI|'
    r'NDDS_\w+|ZENOH_\w+|IPC_BYPASS_PORT')
#: Pieces of shared memory that belong to a DDS: Fast DDS, iceoryx, Cyclone, zenoh, and RTI's.
_SEGMENTS = re.compile(r'/dev/shm/((?:fastrtps|fastdds|iox|iceoryx|cdds|dds|zenoh|\w+\.zenoh)\S*)'
                       r'|/(SYSV[0-9a-f]{8})')
_CONTAINER = re.compile(r'(?:docker|containerd|crio|libpod|podman|kubepods|lxc)\S*?([0-9a-f]{12})'
                        r'[0-9a-f]{52}')
_NODE = re.compile(r'(^|/)bypass_node$|ipc_bypass[./]nodes[./]bypass_node(\.py)?$')
# Another doctor's, which is no part of the graph.
_JOIN = 'ipc_bypass.graph.joining'
_COMMAND = re.compile(r'(^|/)ipc-bypass$|ipc_bypass[./]cli[./]main(\.py)?$')
# No process needs more; one that has more must not fill our memory. A value is no longer than the
# kernel's MAX_ARG_STRLEN.
_LONGEST_MAPS, _LONGEST_ENVIRONMENT, _LONGEST_VALUE = 16 << 20, 4 << 20, 1 << 17
#: Processes that one look takes: more are counted only.
MOST_PROCESSES = 1024
# A line of maps with a path: its device, inode and path.
_MAPPED = re.compile(rb'^\S+ \S+ \S+ (\S+) (\d+) +(/.*)$', re.MULTILINE)
# What every DDS process has in its maps, for a first look that costs little.
_HINT = re.compile(rb'/[^/\n]*(?:dds|DDS|fastrtps|nddsc|rti|dcpsc|zenoh)[^/\n]*\n')
# From here on, ports are those that the kernel gives to any socket, a domain's by chance only.
_FIRST_EPHEMERAL = 32768
_SMALL = re.compile(r'[0-9]{1,5}')


@dataclass
class Scan:
    """
    What one look at /proc found.

    :param unseen: processes of other users that could not be looked into
    :param left_out: processes beyond MOST_PROCESSES
    """

    processes: list[Process] = field(default_factory=list)
    unseen: int = 0
    left_out: int = 0
    tables: SocketTables = field(default_factory=SocketTables)


def scan_processes() -> Scan:
    """Return every process that has a DDS or zenoh library mapped; our own is left out."""
    scan = Scan()
    for name in filter(str.isdigit, os.listdir('/proc')):
        if int(name) == os.getpid():
            continue
        try:
            process = look_at(int(name), scan.tables)
        except PermissionError:
            scan.unseen += 1
        except OSError:
            continue  # it ended meanwhile
        else:
            if process is not None and len(scan.processes) < MOST_PROCESSES:
                scan.processes.append(process)
            elif process is not None:
                scan.left_out += 1
    scan.processes.sort(key=lambda process: process.pid)
    return scan


def look_at(pid: int, tables: SocketTables) -> Process | None:
    """Return a process, None where it speaks no DDS; raises OSError where it cannot be seen."""
    with open(f'/proc/{pid}/maps', 'rb') as stream:
        content = stream.read(_LONGEST_MAPS)
    if _HINT.search(content) is None:
        return None
    # {path: (device, inode)}; a library is mapped in several parts.
    files = {path.decode(errors='replace').removesuffix(' (deleted)'): (device, inode)
             for path, (device, inode) in {
                 match[3]: match.group(1, 2) for match in _MAPPED.finditer(content)}.items()}
    kind, library = libraries.find_library(files)
    command = _command(pid) if kind else ()
    if not kind or _JOIN in command:
        return None
    uid, namespace_pid = _status(pid)
    process = Process(
        pid, comm(pid), kind, library, libraries.version_of(library, f'/proc/{pid}/root'),
        next(filter(None, map(libraries.rmw_of, files)), ''), namespace_pid, uid, _user(uid),
        _container(pid), _namespaces(pid), read_environment(pid), segments=_segments(files),
        shm_device=device_of(pid, '/dev/shm'), bypass_node=_is_node(command))
    process.file_limit, process.file_limit_hard, process.open_files = _files(pid)
    process.sockets = tables.find(pid, process.namespaces.get('net', 0), (
        int(target[8:-1]) for _, target in socket_descriptors(pid)))
    process.domains = domains_of(process)
    return process


def domains_of(process: Process) -> list[int]:
    """Return the domains whose multicast discovery port a process has, else its environment's."""
    ports = {found.local_port for found in process.sockets if found.transport == 'udp'}
    text = process.environment.get('ROS_DOMAIN_ID', '0') or '0'
    named = [int(text)] if _SMALL.fullmatch(text) and int(text) <= LAST_DOMAIN else []
    bound = sorted((port - PORT_BASE) // DOMAIN_GAIN for port in ports
                   if port >= PORT_BASE and (port - PORT_BASE) % DOMAIN_GAIN == 0)
    bound = [domain for domain in bound if domain in named or _has_ports_of(domain, ports)]
    if process.kind == 'zenoh':
        # It has no ports of a domain; rmw_zenoh keeps domains apart by its names.
        bound = []
        if not process.rmw and 'ROS_DOMAIN_ID' not in process.environment:
            return []
    return bound or named


def _has_ports_of(domain, ports):
    """Return whether a domain's multicast port is no chance: it is low, or has others with it."""
    base = PORT_BASE + DOMAIN_GAIN * domain
    return base < _FIRST_EPHEMERAL or any(base < port < base + DOMAIN_GAIN for port in ports)


def read_environment(pid: int) -> dict[str, str]:
    """Return the variables that matter, {} where they cannot be read."""
    try:
        with open(f'/proc/{pid}/environ', 'rb') as stream:
            entries = stream.read(_LONGEST_ENVIRONMENT).split(b'\0')
    except OSError:
        return {}
    pairs = (entry.decode(errors='replace').partition('=') for entry in entries)
    return {name: value[:_LONGEST_VALUE] for name, _, value in pairs
            if VARIABLES.fullmatch(name)}


def _segments(files) -> list[Segment]:
    """Return the pieces of DDS shared memory among mapped files, each once."""
    found = {}
    for path, (device, inode) in files.items():
        match = _SEGMENTS.match(path)
        if match is not None:
            segment = Segment(match[1] or match[2], device.decode(), int(inode))
            found[segment.device, segment.inode] = segment
    return list(found.values())


def _status(pid):
    """Return (effective uid, pid in the innermost pid namespace)."""
    uid, inner = -1, pid
    with open(f'/proc/{pid}/status', encoding='utf-8', errors='replace') as stream:
        for line in stream:
            if line.startswith('Uid:'):
                uid = int(line.split()[2])
            elif line.startswith('NSpid:'):
                inner = int(line.split()[-1])
    return uid, inner


def _user(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, ValueError, OverflowError):
        return str(uid)


def _container(pid):
    """Return 12 digits of the id that a container engine put into the cgroup's name."""
    try:
        with open(f'/proc/{pid}/cgroup', encoding='utf-8', errors='replace') as stream:
            match = _CONTAINER.search(stream.read())
    except OSError:
        return ''
    return match[1] if match else ''


def _namespaces(pid):
    found = {}
    for name in ('net', 'ipc', 'mnt', 'pid'):
        try:
            found[name] = int(os.readlink(f'/proc/{pid}/ns/{name}').partition('[')[2][:-1])
        except (OSError, ValueError):
            continue
    return found


def _files(pid):
    """Return (soft limit of open files, hard limit, open files); 0 for no limit."""
    try:
        with open(f'/proc/{pid}/limits', encoding='ascii', errors='replace') as stream:
            words = next((line.split() for line in stream
                          if line.startswith('Max open files')), [])
        soft, hard = (int(word) if word.isdecimal() else 0 for word in (*words, '', '')[3:5])
        return soft, hard, len(os.listdir(f'/proc/{pid}/fd'))
    except OSError:
        return 0, 0, 0


def _command(pid):
    """Return the first words of a process's command line, [] where they cannot be read."""
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as stream:
            return stream.read(_LONGEST_VALUE).decode(errors='replace').split('\0')[:16]
    except OSError:
        return []


def _is_node(words):
    """Return whether a command line is the node's: a Python script, run in several ways."""
    for place, word in enumerate(words[:4]):
        if _NODE.search(word):
            return True
        if _COMMAND.search(word):
            return next((each for each in words[place + 1:] if each[:1] != '-'), '') == 'up'
    return False
