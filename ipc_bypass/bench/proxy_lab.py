"""
Where the proxy bench runs: backends, the proxies before them, and the clients.

`local` is one network namespace, whose loopback interface takes everything. `remote` is a client
and a backend in a namespace each, and the proxy in a third one, which routes what has no proxy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
import json
from pathlib import Path
import resource
import shutil
import signal
import subprocess
import sys
import time

from ipc_bypass.bench import proxy_rivals
from ipc_bypass.bench.containers import Namespace, Routed
from ipc_bypass.bench.ports import wait_for_listener
from ipc_bypass.bench.proxy_plan import (
    BULK,
    connections_of,
    DIRECT,
    HAPROXY,
    KB,
    LOCAL,
    metrics_of,
    NGINX,
    OURS,
    SK_SKB,
    SPARE_DESCRIPTORS,
    SPLICE,
)
from ipc_bypass.bench.rows import Cell
from ipc_bypass.bench.udp_peers import Peer, PeerError
from ipc_bypass.kernel.errors import BypassError, UnsupportedError
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.xdp.managed import raise_open_files

#: Ports of the backends, and of the proxy before each; local ports are above all of them.
ECHO_PORT, SINK_PORT, BEFORE = 7001, 7002, 100
_LOCAL_PORTS = '10000 65000'
#: path -> kernel_path, option of the forwards, and what the gateway calls it.
_OURS = {SPLICE: ('never', 'splice', 'splice'), SK_SKB: ('auto', 'sk_skb', 'sk_skb'),
         OURS: ('auto', 'auto', 'shortcut')}
#: Of a run's connections, those that have to have taken the path.
_TAKEN = 0.9
_ANSWER, _ENDED, _PATIENCE = 5.0, 5.0, 30.0


@dataclass(frozen=True)
class Site:
    """Where client, proxy and backend are; `address` is the proxy's."""

    client: Namespace
    proxy: Namespace
    backend: Namespace
    program: Path

    @property
    def address(self) -> str:
        """Return the address of the proxy."""
        return self.proxy.address

    def peer(self, place: Namespace, *words: object) -> Peer:
        """Start bench/proxy_peer.c in a namespace."""
        return Peer(f'{words[0]} of proxy_peer', place.command(
            str(self.program), *map(str, words)))


def most_connections() -> int:
    """Return how many connections a proxy can have by the limit of open files, raised for it."""
    raise_open_files()
    return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS) // 2


@contextmanager
def site(scenario: str, folder: Path) -> Iterator[Site]:
    """Yield the namespaces of a scenario with the backends running; raises BypassError."""
    with ExitStack() as stack:
        if scenario == LOCAL:
            place = stack.enter_context(Namespace('host'))
            places = place, place, place
        else:
            places = stack.enter_context(Routed())
        for place in dict.fromkeys(places):
            place.set_network('ipv4/ip_local_port_range', _LOCAL_PORTS)
            # A port that waits for the last segment of an earlier run is used again.
            place.set_network('ipv4/tcp_tw_reuse', '1')
        made = Site(*places, folder / 'proxy_peer')
        address = made.backend.address
        for words in (('echo', address, ECHO_PORT, KB), ('sink', address, SINK_PORT)):
            stack.enter_context(made.peer(made.backend, *words)).wait_ready()
        yield made


@contextmanager
def way(where: Site, path: str, folder: Path, connections: int) -> Iterator[Way]:
    """Yield a Way through a proxy that was started; raises BypassError."""
    forwards = [proxy_rivals.Forward(f'{where.address}:{port + BEFORE}',
                                     f'{where.backend.address}:{port}', port == SINK_PORT)
                for port in (ECHO_PORT, SINK_PORT)]
    if path == DIRECT:
        yield Way(where, where.backend.address, 0)
    elif path in (HAPROXY, NGINX):
        argv = proxy_rivals.command(path, folder, forwards, connections)
        with Peer(path, where.proxy.command(*argv)):
            for port in (ECHO_PORT, SINK_PORT):
                wait_for_listener(port + BEFORE, process=where.proxy.holder_pid)
            yield Way(where, where.address, BEFORE)
    else:
        kernel_path, option, name = _OURS[path]
        texts = [f'{one.listen} -> {one.backend} path={option} '
                 f'max_connections={connections + 16}' for one in forwards]
        # It needs this host's cgroups, which a namespace's own mounts hide.
        with Gateway(path, where.proxy.outside_command(
                sys.executable, '-m', 'ipc_bypass.bench.proxy_gateway', kernel_path,
                *texts)) as gateway:
            gateway.wait_ready()
            try:
                yield GatewayWay(where, gateway, name)
            finally:
                gateway.end()


class Gateway(Peer):
    """The process of ipc_bypass.bench.proxy_gateway."""

    def report(self) -> dict:
        """Return what it says of itself now; raises PeerError."""
        self._process.send_signal(signal.SIGUSR1)
        try:
            return json.loads(self._line(_ANSWER) or '')
        except ValueError:
            raise self._error('it does not say how it is') from None

    def end(self) -> None:
        """Have it end in order, in a few seconds at the most."""
        self._process.terminate()
        try:
            self._process.wait(_ANSWER)
        except subprocess.TimeoutExpired:
            pass  # then it is killed


class Way:
    """What the clients connect to: a proxy, or the backend itself."""

    def __init__(self, where: Site, address: str, before: int) -> None:
        self._site, self._address, self._before = where, address, before

    def run(self, cell: Cell, seconds: float) -> dict[str, float]:
        """Return the metrics of one run of a cell; raises PeerError."""
        count = connections_of(cell)
        role, port = ('bulk', SINK_PORT) if cell.workload == BULK else ('ask', ECHO_PORT)
        with self._site.peer(self._site.client, role, self._address, port + self._before,
                             cell.size, count, seconds) as client:
            found = metrics_of(cell, client.result(_PATIENCE + seconds + count / 200))
        if not found:
            raise PeerError(f'measure {cell.workload}', 'nothing came back')
        return found


class GatewayWay(Way):
    """
    The gateway, whose connections have to take the path that is measured.

    `status` is what it said last.
    """

    def __init__(self, where: Site, gateway: Gateway, name: str) -> None:
        super().__init__(where, where.address, BEFORE)
        self._gateway, self._name = gateway, name
        self.status = gateway.report()

    def run(self, cell: Cell, seconds: float) -> dict[str, float]:
        """Return the metrics; raises PeerError also where another path was taken."""
        before, count = self.status['ended'], connections_of(cell)
        found = super().run(cell, seconds)
        deadline = time.monotonic() + _ENDED
        while True:
            self.status = self._gateway.report()
            ended = {path: number - before.get(path, 0)
                     for path, number in self.status['ended'].items()}
            if sum(ended.values()) >= count or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if ended.get(self._name, 0) < _TAKEN * count:
            words = [f'{name} {number}' for name, number in self.status['fallbacks'].items()]
            told = self.status['reasons'].values()
            reasons = '; '.join(dict.fromkeys((*words, *told)))
            raise PeerError(f'measure {cell.workload}', f'{ended.get(self._name, 0)} of {count} '
                            f'connections took the path {self._name}: {reasons}')
        return found


def compile_peer(folder: Path) -> None:
    """Compile bench/proxy_peer.c into a folder; raises BypassError."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        raise UnsupportedError('compile the clients and the backends', 'there is no C compiler',
                               next_step='apt-get install gcc')
    # Beside the folder bpf/, in the source tree as in an installation.
    source = bpf_source('ipc_bypass_common.h').parent.parent / 'bench' / 'proxy_peer.c'
    done = subprocess.run([compiler, '-O2', '-o', str(folder / 'proxy_peer'), str(source)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or ['no reason given']
        raise BypassError('compile proxy_peer.c', next(
            (line for line in lines if 'error' in line), lines[0]),
            next_step='apt-get install gcc libc6-dev')
