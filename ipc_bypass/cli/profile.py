"""`ipc-bypass profile`: write a DDS profile for this host, and try it."""
# flake8: noqa: A005, the name is that of the command

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
import sys

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.profiles import containers, folder
from ipc_bypass.profiles.kinds import KINDS, text
from ipc_bypass.profiles.settings import buffer_advice, domain_of_environment, settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('kind', choices=KINDS, help='which middleware')
    parser.add_argument('--domain', type=int, metavar='N',
                        help='ROS_DOMAIN_ID (default: that of this shell, else 0)')
    parser.add_argument('--ports', default='', metavar='FIRST-LAST',
                        help="TCP ports, of which each process takes one (default: the domain's, "
                        '7412-7649 for domain 0)')
    parser.add_argument('--peer', action='append', default=[], metavar='NAME', dest='peers',
                        help='host or container that multicast does not reach; may be given again')
    parser.add_argument('--address', default='', metavar='IPV4',
                        help='of the one interface to use (default: the choice of the middleware)')
    parser.add_argument('--shared-memory', action='store_true',
                        help='also use shared memory, where two processes have the same /dev/shm')
    parser.add_argument('--udp-peers', action='store_true',
                        help='Fast DDS: also take data from nodes without a profile, by UDP; what '
                        'is sent to this node is then sent twice')
    parser.add_argument('--containers', action='store_true',
                        help='for containers: with compose.yaml and kubernetes.yaml, to be '
                        f'mounted at {folder.CONTAINER_FOLDER} (default folder: ./KIND)')
    parser.add_argument('--output', type=Path, metavar='FOLDER', help='where to write it')
    parser.add_argument('--print', action='store_true', dest='show',
                        help='print the profile, write nothing')
    parser.add_argument('--env', action='store_true',
                        help='print the environment as lines for eval; processes take ports of '
                        "the kernel's choice then, which no rule covers: see `ipc-bypass run`")
    parser.add_argument('--check', action='store_true',
                        help='start a talker and a listener, and prove that data flows by TCP; '
                        'with --containers in two network namespaces (root)')
    parser.add_argument('--json', action='store_true',
                        help='print {"kind", "folder", "files", "ports", "environment", '
                        '"command_prefix", "advice", "check"}')


def run(args: argparse.Namespace) -> int:
    """Write the profile; return 0, or 1 where a check fails."""
    domain = domain_of_environment() if args.domain is None else args.domain
    wanted = settings(domain, ports=args.ports, peers=tuple(args.peers), address=args.address,
                      shared_memory=args.shared_memory, udp_peers=args.udp_peers)
    if args.show:
        print(text(args.kind, wanted), end='')
        return 0
    if args.containers:
        written = containers.write(
            args.kind, wanted, args.output or containers.default_folder(args.kind, domain))
    else:
        written = folder.write(args.kind, wanted, args.output)
    if args.env:
        print(folder.exports(args.kind, str(written.file)), end='')
        return 0
    checked = _check(args, wanted) if args.check else None
    if args.json:
        print(json.dumps(_as_json(written, wanted, checked), indent=2))
    else:
        _tell(args, written, wanted, checked)
    return 0 if checked is None or checked.works else 1


def _check(args, wanted):
    """Try the profile as it is used here, from a folder of its own."""
    import tempfile

    from ipc_bypass.profiles.check import check
    if args.containers and args.kind == 'cyclonedds' and not args.peers:
        from ipc_bypass.bench.containers import SUBNET
        wanted = dataclasses.replace(wanted, peers=(f'{SUBNET}.1', f'{SUBNET}.2'))
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_check_') as name:
        written = folder.write(args.kind, wanted, Path(name))
        return check(written, wanted, containers=args.containers)


def _as_json(written, wanted, checked) -> dict:
    return {
        'kind': written.kind, 'folder': str(written.folder), 'files': list(written.files),
        'ports': [wanted.ports[0], wanted.ports[-1]],
        'environment': folder.variables(written.kind, str(written.file)),
        'command_prefix': list(written.command_prefix), 'advice': buffer_advice(wanted),
        'check': dataclasses.asdict(checked) if checked else None}


def _tell(args, written, wanted, checked) -> None:
    print(f'wrote {written.folder}: {", ".join(written.files)}')
    ports = f'{wanted.ports[0]}-{wanted.ports[-1]}'
    if args.containers:
        print(f'containers:   cd {written.folder} && docker compose up')
        print('the node:     docker compose --profile node up, or on the host '
              f'ipc-bypass up --params-file {written.folder}/{folder.RULES}')
    else:
        print(f'a process:    ipc-bypass run {written.kind} --profile {written.folder} '
              '-- ros2 run ...')
        print(f'a graph:      ros2 launch ipc_bypass {written.kind}_graph.launch.py graph:=FILE')
        print(f'the node:     ipc-bypass up --params-file {written.folder}/{folder.RULES}'
              f'   (TCP ports {ports})')
    if buffer_advice(wanted):
        print(f'advice:       {buffer_advice(wanted)}   (sockets hold '
              f'{wanted.buffer_bytes:,} bytes now; then write the profile again)')
    if checked is None:
        return
    if checked.works:
        way = f'TCP port {", ".join(map(str, checked.ports))}'
        if wanted.shared_memory and not args.containers:
            way = 'shared memory, which it prefers here'
        print(f'check:        {checked.messages} messages between {checked.peers} by {way}')
        return
    _say_why(checked)


def _say_why(checked) -> None:
    """Say on standard error why a check failed."""
    error = BypassError('use the profile', checked.problem, next_step=checked.advice)
    print(f'ipc-bypass: {error}', file=sys.stderr)
