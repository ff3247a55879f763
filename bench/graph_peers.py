"""Nodes with a profile in two containers, as processes that can be ended and started again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack, suppress
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import threading
import time

from ipc_bypass.bench.bypass import Bypass
from ipc_bypass.bench.containers import Containers, Namespace
from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.profiles import folder
from ipc_bypass.profiles.settings import settings

KINDS = ('fastdds', 'cyclonedds')
#: Seconds until a process that does not do its part is given up.
PATIENCE = 60.0


class PeerError(BypassError):
    """A process of a graph does not do its part."""


class Graph:
    """
    Two containers, the node for their traffic alone, and processes in them with a profile.

    A context manager. The processes are in a cgroup of their own, which is what the node serves:
    another node of this host does not get in the way.

    :param kind: of KINDS
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.bypass: Bypass | None = None
        self.places: tuple[Namespace, ...] = ()
        self._stack = ExitStack()

    def __enter__(self) -> Graph:
        with ExitStack() as stack:
            self.places = stack.enter_context(Containers())
            self._folder = Path(stack.enter_context(
                tempfile.TemporaryDirectory(prefix='ipc_bypass_soak_')))
            wanted = settings(0, peers=tuple(place.address for place in self.places))
            self._profile = folder.write(self.kind, wanted, self._folder / 'profile')
            self._cgroup = Path(stack.enter_context(_cgroup()))
            self.bypass = stack.enter_context(Bypass(
                range(7400, 7650), domains=['0'], udp_path='loopback',
                cgroup_path=str(self._cgroup)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)

    def command(self, place: int, *argv: str) -> list[str]:
        """Return the command line that runs `argv` in a container, 0 or 1, with the profile."""
        return ['sh', '-c', f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"', 'sh',
                *self.places[place].command(*self._profile.command_prefix, *argv)]

    def environment(self) -> dict[str, str]:
        """Return the environment of a process; the profile's is added by its command."""
        # ddsperf is the system's: a ROS 2 in LD_LIBRARY_PATH may bring another Cyclone.
        left_out = {'CYCLONEDDS_URI', 'FASTDDS_DEFAULT_PROFILES_FILE', 'ROS_DOMAIN_ID',
                    'ROS_AUTOMATIC_DISCOVERY_RANGE'}
        if self.kind == 'cyclonedds':
            left_out.add('LD_LIBRARY_PATH')
        return {**{name: value for name, value in os.environ.items() if name not in left_out},
                'ROS_LOG_DIR': str(self._folder / 'log')}

    def redirected(self) -> int:
        """Return how many messages have been redirected; raises NodeError."""
        return int(self.bypass.statistics()['redirected_messages'])


class Peer:
    """
    A process of a graph: a talker or a listener, which can be ended and started again.

    A context manager that starts it. Start it from the main thread: the process ends with the
    thread that started it.
    """

    def __init__(self, graph: Graph, place: int, *argv: str) -> None:
        self._graph, self._command = graph, graph.command(place, *argv)
        self._process: subprocess.Popen | None = None
        self.lines: list[tuple[float, str]] = []

    def __enter__(self) -> Peer:
        self.start()
        return self

    def __exit__(self, *_exception) -> None:
        if self._process.poll() is None:
            self.end(signal.SIGKILL)

    def start(self) -> None:
        """Start it; `lines` are from now on what this process says, with CLOCK_MONOTONIC."""
        self.lines = lines = []
        self._process = process = subprocess.Popen(
            self._command, env=self._graph.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
            start_new_session=True)

        def read() -> None:
            with process.stdout:
                lines.extend((time.monotonic(), line.strip()) for line in process.stdout)
        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    def end(self, number: int) -> int:
        """Send a signal and return the exit code; one that does not end is killed."""
        self._process.send_signal(number)
        try:
            return self.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.wait(PATIENCE)
            raise PeerError(f'end {self._command[-1]}',
                            f'it did not react to signal {number}') from None

    def wait(self, timeout: float) -> int:
        """Return the exit code when it has ended and all that it said is in `lines`."""
        code = self._process.wait(timeout)
        self._reader.join(5)
        return code

    def check(self) -> None:
        """Raise PeerError where it has ended."""
        if self._process.poll() is not None:
            raise PeerError(f'run {" ".join(self._command[-4:])}',
                            f'exit code {self._process.returncode}; it said ' + self.said())

    def said(self) -> str:
        """Return its last lines, as one."""
        return ' / '.join(line for _, line in self.lines[-3:])

    def told(self, kind: str) -> list[dict]:
        """Return what a demo listener told: the records of 'second' or of 'summary'."""
        found = [json.loads(line) for _, line in [*self.lines] if line.startswith('{')]
        return [record for record in found if record['kind'] == kind]


def demo_command(role: str, stream: str, **parameters: object) -> tuple[str, ...]:
    """Return the command of a demo node."""
    words = [sys.executable, '-m', f'ipc_bypass.nodes.demo_{role}', '--ros-args']
    for name, value in {'stream': stream, **parameters}.items():
        words += ['-p', f'{name}:={json.dumps(value) if isinstance(value, bool) else value}']
    return tuple(words)


@contextmanager
def _cgroup() -> Iterator[str]:
    """Give the path of a new cgroup, which is removed when its processes have ended."""
    path = tempfile.mkdtemp(prefix='ipc_bypass_soak_', dir=find_cgroup2())
    try:
        yield path
    finally:
        deadline = time.monotonic() + 10
        while os.path.exists(path) and time.monotonic() < deadline:
            with suppress(OSError):
                os.rmdir(path)
            time.sleep(0.05)
