"""Real DDS traffic while the node is stopped, killed, and ended and started again."""

from __future__ import annotations

from contextlib import suppress
import os
import shutil
import signal
import threading
import time

from fault_lab.trial import Trial
from graph_peers import Graph
import graph_soak
from ipc_bypass.bench.bypass import Bypass
from ipc_bypass.kernel import bpffs
from ipc_bypass.kernel.errors import BypassError

_HARMS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)


class NodeInHarm(threading.Thread):
    """
    A thread that harms the node of a graph until it is told to end.

    A node ends with the thread that started it, so that this one starts all of them. `harms`
    counts them by signal, `redirected` are the messages that took the short way.

    :param pause: seconds between two harms, and for which the node is stopped or away
    """

    def __init__(self, graph: Graph, pause: float) -> None:
        super().__init__(name='harm')
        self._graph, self._pause = graph, pause
        self._pins = f'{bpffs.MOUNT_POINT}/ipcb_soak_graph_{os.getpid()}'
        self._ended, self.ready = threading.Event(), threading.Event()
        self.harms: dict[str, int] = {}
        self.redirected, self.problems = 0, []
        self._node: Bypass | None = None

    def end(self) -> None:
        """End it, with its node, and wait."""
        self._ended.set()
        self.join()
        # Connections were open when the last node ended: their pins are nobody's now.
        shutil.rmtree(self._pins, ignore_errors=True)

    def run(self) -> None:
        """Take the place of the graph's own node, which pins nothing, and harm it."""
        try:
            os.kill(self._graph.bypass.pid, signal.SIGKILL)
            self._start()
            self.ready.set()
            while not self._ended.wait(self._pause):
                self._harm(_HARMS[sum(self.harms.values()) % len(_HARMS)])
            self._count()
        except (BypassError, OSError) as error:
            self.problems.append(f'{type(error).__name__}: {error}')
        finally:
            self.ready.set()
            if self._node:
                self._node.__exit__()

    def _start(self) -> None:
        node = Bypass(range(7400, 7650), domains=['0'], udp_path='loopback',
                      cgroup_path=str(self._graph._cgroup), pin_directory=self._pins)
        self._node = node.__enter__()

    def _harm(self, number: int) -> None:
        if number != signal.SIGSTOP:
            self._count()
        os.kill(self._node.pid, number)
        time.sleep(self._pause)
        if number == signal.SIGSTOP:
            os.kill(self._node.pid, signal.SIGCONT)
        else:
            self._node.__exit__()
            self._node = None
            self._start()
        name = signal.Signals(number).name
        self.harms[name] = self.harms.get(name, 0) + 1

    def _count(self) -> None:
        with suppress(BypassError):
            self.redirected = max(
                self.redirected, int(self._node.statistics()['redirected_messages']))


def node_in_harm(trial: Trial, kind: str, *, seconds: float = 12.0, pause: float = 2.0) -> None:
    """
    Have nodes of a middleware talk over a node in harm; every message has to arrive, in order.

    :param kind: of graph_peers.KINDS: rclpy's nodes on Fast DDS, or ddsperf on Cyclone DDS
    """
    with Graph(kind) as graph:
        harm = NodeInHarm(graph, pause)
        harm.start()
        try:
            harm.ready.wait()
            for stream, told in graph_soak.steady(graph, seconds, ('camera',)).items():
                trial.told = f"{told['received']} messages of {stream}, {told['lost']} lost"
                if told['faults']:
                    trial.problems.append(f"{kind} {stream}: {told['faults']}")
        finally:
            harm.end()
        trial.problems += harm.problems
        trial.told += f', {harm.redirected} redirected, node: {harm.harms}'
        if not harm.redirected:
            trial.problems.append('nothing was redirected')
