"""Try a profile: a talker and a listener, and whether data flows between them by TCP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from ipc_bypass.bench.containers import Containers
from ipc_bypass.bench.ddsperf import parse
from ipc_bypass.profiles.check_peer import DISCOVERY, EXCHANGE, MESSAGES
from ipc_bypass.profiles.folder import Written
from ipc_bypass.profiles.kinds import KINDS
from ipc_bypass.profiles.settings import ProfileError, Settings
from ipc_bypass.profiles.sockets import established_ports

_TIMEOUT = DISCOVERY + EXCHANGE + 10.0
#: Cyclone announces itself again after 30 s.
_DDSPERF_SECONDS = 45


@dataclass
class Checked:
    """
    What came of a check.

    :param works: data flowed, in order, by TCP on the profile's ports
    :param messages: received
    :param ports: of the profile's, that the two had connections on
    :param seconds: until the ends knew each other
    :param peers: what talked to what
    :param problem: one line where it does not work, '' where it does
    :param advice: what to do about that
    """

    works: bool = False
    messages: int = 0
    ports: list[int] = field(default_factory=list)
    seconds: float = 0.0
    peers: str = ''
    problem: str = ''
    advice: str = ''


def check(written: Written, settings: Settings, *, containers: bool = False) -> Checked:
    """
    Run a talker and a listener with the profile, and return a Checked.

    :param containers: in two network namespaces with a /dev/shm each, which takes root; else here
    :raises ProfileError: where there is nothing to try it with
    :raises NamespaceError: where the namespaces cannot be made
    """
    with ExitStack() as stack:
        places: list[Callable[..., list[str]]] = [_here, _here]
        if containers:
            places = [place.command for place in stack.enter_context(Containers())]
        if written.kind == 'cyclonedds' and not _has_rclpy(KINDS['cyclonedds'].RMW):
            return _by_ddsperf(written, settings, places)
        return _by_peers(written, settings, places)


def _by_peers(written, settings, places) -> Checked:
    name = KINDS[written.kind].RMW
    if written.kind != 'zenoh' and not _has_rclpy(name):
        raise ProfileError(f'try the {written.kind} profile', f'there is no rclpy with {name}',
                           next_step=f'apt-get install ros-DISTRIBUTION-{name.replace("_", "-")}')
    if written.kind == 'zenoh' and not (importlib.util.find_spec('zenoh') or _has_rclpy(name)):
        raise ProfileError('try the zenoh profile', f'there is no {name} and no eclipse-zenoh',
                           next_step='pip install eclipse-zenoh')
    ports = settings.ports
    words = [f'ipc_bypass_check_{os.getpid()}', f'{ports[0]}-{ports[-1]}']
    commands = [
        place(*written.command_prefix, sys.executable, '-m', 'ipc_bypass.profiles.check_peer',
              role, written.kind, *words)
        for place, role in zip(places, ('talker', 'listener'), strict=True)]
    said = [json.loads(text) if text else {} for text in _run(commands, settings.domain)]
    talker, listener = said
    if not (talker and listener):
        return Checked(problem='an end of the check ended without a word',
                       advice='run it with --verbose, or look at the profile')
    result = Checked(
        messages=len(set(listener['received'])), seconds=talker['seconds'],
        ports=sorted({*talker['established']} & {*listener['established']}),
        peers=f'{talker["rmw"]} and {listener["rmw"]}')
    _judge(result, settings, listening=bool(talker['listening'] and listener['listening']),
           matched=talker['matched'] and listener['matched'],
           ordered=listener['received'] == sorted(listener['received']) and not listener['wrong'])
    return result


def _judge(result: Checked, settings: Settings, *, listening, matched, ordered) -> None:
    """Say what is wrong, the first cause first."""
    ports = f'{settings.ports[0]}-{settings.ports[-1]}'
    if not listening:
        result.problem = f'nobody listens on TCP ports {ports}: the middleware ignores the profile'
        result.advice = 'read what it printed above; its version may not know TCP'
    elif not matched:
        result.problem = f'the ends did not find each other within {DISCOVERY:.0f} s'
        result.advice = _discovery_advice()
    elif result.messages < MESSAGES:
        result.problem = (f'they found each other, but {result.messages} of {MESSAGES} messages '
                          'arrived')
        result.advice = f'let the firewall pass TCP ports {ports}'
    elif not ordered:
        result.problem = 'messages arrived out of order, or changed'
        result.advice = 'do not use this profile here, and report it'
    elif not result.ports and not settings.shared_memory:
        result.problem = f'data flows, but by no TCP connection on ports {ports}'
        result.advice = 'another profile may be set in this shell: look at its environment'
    result.works = not result.problem


def _discovery_advice() -> str:
    """Return what to do where the ends did not find each other."""
    for name, values in (('ROS_AUTOMATIC_DISCOVERY_RANGE', ('LOCALHOST', 'OFF')),
                         ('ROS_LOCALHOST_ONLY', ('1',))):
        if os.environ.get(name) in values:
            return f'{name}={os.environ[name]} is set, which keeps them apart: unset {name}'
    return ('allow multicast between them, or name the other hosts: '
            '`ipc-bypass profile --peer NAME`')


def _by_ddsperf(written, settings, places) -> Checked:
    """Check with Cyclone's own tool, where no ROS 2 node can use Cyclone."""
    if shutil.which('ddsperf') is None:
        raise ProfileError('try the cyclonedds profile', 'there is no rclpy with '
                           'rmw_cyclonedds_cpp, and no ddsperf',
                           next_step='apt-get install cyclonedds-tools')
    seconds = str(_DDSPERF_SECONDS)
    tool = ('stdbuf', '-oL', 'ddsperf', '-i', str(settings.domain), '-D', seconds)
    commands = [places[0](*written.command_prefix, *tool, 'pub', 'size', '200k'),
                places[1](*written.command_prefix, *tool, '-1', 'sub')]
    ports: set[int] = set()

    def look(pids: list[int], outputs: list[str]) -> bool:
        found = [set(established_ports(pid, settings.ports)) for pid in pids]
        ports.update(found[0] & found[1])
        return bool(ports) and _messages(_seconds(outputs[1])) >= MESSAGES

    found = _seconds(_run(commands, settings.domain, look)[1])
    result = Checked(
        messages=_messages(found), ports=sorted(ports), peers='ddsperf and ddsperf',
        seconds=next((second.time for second in found if second.size), 0.0))
    lost = sum(second.lost for second in found)
    if not result.messages:
        result.problem = 'no message arrived'
        result.advice = 'read what it printed above; name the other hosts with --peer'
    elif lost:
        result.problem, result.advice = f'{lost} messages were lost', 'report it'
    elif not result.ports:
        result.problem = "data flows, but by no TCP connection on the profile's ports"
        result.advice = 'this Cyclone may not know TCP: use version 0.10'
    result.works = not result.problem
    return result


def _seconds(output: str):
    """Return what ddsperf said of each second."""
    return [second for line in output.splitlines() if (second := parse(line))]


def _messages(seconds) -> int:
    return int(sum(second.values.get('count', 0) for second in seconds))


def _run(commands, domain: int,
         look: Callable[[list[int], list[str]], bool] = lambda pids, outputs: False):
    """
    Run both ends to their end, or for so long as they may take, and return what they printed.

    :param look: called with their pids and what they printed; returns whether that is enough
    """
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain)}
    # A ROS 2 in LD_LIBRARY_PATH may bring a Cyclone that is not the tool's.
    if 'ddsperf' in commands[0]:
        environment.pop('LD_LIBRARY_PATH', None)
    with ExitStack() as stack:
        printed = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands]
        processes = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                                      stdout=file)
                     for command, file in zip(commands, printed, strict=True)]
        try:
            deadline = time.monotonic() + max(_TIMEOUT, _DDSPERF_SECONDS + 5)
            while any(process.poll() is None for process in processes):
                if (look([process.pid for process in processes], _texts(printed))
                        or time.monotonic() > deadline):
                    break
                time.sleep(0.2)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return _texts(printed)


def _texts(files) -> list[str]:
    """Return all that was written to files, which others write to: not by moving their place."""
    return [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors='replace')
            for file in files]


def _here(*command: str) -> list[str]:
    return list(command)


def _has_rclpy(rmw: str) -> bool:
    """Return whether ROS 2 nodes can run here with this RMW."""
    if importlib.util.find_spec('rclpy') is None:
        return False
    from ipc_bypass.profiles.check_peer import has_rmw
    return has_rmw(rmw)
