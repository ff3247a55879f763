"""The graph in /diagnostics: how pairs of processes talk, and whether something is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from ipc_bypass.graph.connections import find_connections
from ipc_bypass.graph.losses import difference, of_nodes, read_losses
from ipc_bypass.graph.model import Loss
from ipc_bypass.graph.pairs import process_pairs
from ipc_bypass.graph.processes import scan_processes
from ipc_bypass.graph.survey import by_way
from ipc_bypass.graph.ways import decide, Surroundings, without_guesses

#: Seconds between two looks at /proc.
PERIOD = 10.0
#: What they may cost, in processors: on a host of many processes looks are further apart.
MOST_SHARE = 0.02
#: Most counters, or pairs, that one status names.
SHOWN = 20
#: Seconds that the end of the node waits for a look; the kernel can hold one up for longer.
WAIT_SECONDS = 2.0

#: Flows of the TCP path, counters of the UDP path, (rule, why it has no effect) of each rule.
Facts = tuple[Iterable, Mapping[str, int], Iterable[tuple]]

_FLOW_FIELDS = ('path', 'reason', 'bytes', 'local_pid', 'remote_pid', 'local_address',
                'local_port', 'remote_address', 'remote_port')


class GraphDiagnostics:
    """
    Looks at the processes of this host in a thread, at most once in PERIOD; thread-safe.

    Nothing is joined and nothing is sent: pairs are those of processes, not of topics.

    :param logger: is told once where a look fails
    :param period: shortest time between two looks, in seconds
    :param most_share: processor time that looks may take of all the time
    """

    def __init__(self, logger=None, period: float = PERIOD,
                 most_share: float = MOST_SHARE) -> None:
        self._log, self._shortest, self._most_share = logger, period, most_share
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._forget()

    def statuses(self, node_name: str, hardware_id: str, facts: Callable[[], Facts],
                 active: bool) -> list[DiagnosticStatus]:
        """
        Return what the last look found, [] before the first one; begin another where it is due.

        :param facts: is asked only where a look begins
        """
        with self._lock:
            found = list(self._statuses)
            # While a look hangs (the kernel can hold up who reads of a process) no other begins.
            due = (self._thread is None or not self._thread.is_alive()) and \
                time.monotonic() - self._last > self._period
            if due:
                self._last = time.monotonic()
                self._begin(node_name, facts(), active)
        return [DiagnosticStatus(
            name=f'{node_name}: {name}', level=level, message=text, hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
            for name, level, text, values in found]

    def _begin(self, *about):
        thread = threading.Thread(target=self._look, args=(*about, self._generation), daemon=True,
                                  name='graph-diagnostics')
        try:
            thread.start()
        except RuntimeError:
            return  # no thread is to be had now: no reason to end the node
        self._thread = thread

    def wait(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait for a look that is under way, for so many seconds at most."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout)

    def close(self) -> None:
        """Wait for a look that is under way, and forget what was found."""
        self.wait()
        with self._lock:
            self._forget()

    def _forget(self):
        """Begin anew; a look that is still under way counts no more."""
        self._generation = object()
        self._last = self._before_when = float('-inf')
        self._period = self._shortest
        self._statuses: list[tuple] = []
        self._before: list[Loss] | None = None

    def _look(self, node_name, facts, active, generation):
        try:
            node = _node(node_name, facts, active)
            scan = scan_processes()
            found = [('graph', *_graph_status(scan, node))]
            counted = [*read_losses(scan.processes), *of_nodes([node])]
            with self._lock:
                if generation is self._generation:
                    self._statuses = [*found, ('losses', *self._losses_status(counted))]
        except Exception as error:  # said, not lost in a thread
            if self._log is not None:
                self._log.error(f'the graph cannot be looked at: {error}', once=True)
        finally:
            self._period = max(self._shortest, time.thread_time() / self._most_share)

    def _losses_status(self, counted):
        now = time.monotonic()
        before, self._before = self._before, counted
        period, self._before_when = now - self._before_when, now
        if before is None:
            return DiagnosticStatus.OK, 'counted from now on', {}
        grown = [loss for loss in difference(before, counted, new_sockets=False) if loss.count]
        # What the counters of a whole namespace say of UDP may be of sockets that are not DDS's.
        lost = sorted((loss for loss in grown if loss.loses_data and loss.kind != 'udp_errors'),
                      key=lambda loss: -loss.count)
        values = {f'{loss.counter} {_place(loss)}': loss.count
                  for loss in sorted(grown, key=lambda loss: -loss.count)[:SHOWN]}
        if lost:
            worst = lost[0]
            return (DiagnosticStatus.WARN, f'{worst.count} {worst.counter}, {_place(worst)}, in '
                    f'{period:.0f} s', values)
        return DiagnosticStatus.OK, f'nothing lost in {period:.0f} s', values


def _node(name, facts, active):
    """Return what this node knows of itself, in the form of `Joined.nodes`."""
    flows, counters, rules = facts
    return {'name': name, 'state': 'active' if active else 'inactive',
            'flows': [{field: getattr(flow, field) for field in _FLOW_FIELDS} for flow in flows],
            'rules': [{'transport': rule.transport, 'port_first': rule.port_first,
                       'port_last': rule.port_last, 'effective': not obstacle, 'reason': obstacle}
                      for rule, obstacle in rules],
            'statistics': {'counters': [{'name': f'udp_{name}', 'value': value}
                                        for name, value in counters.items()]}}


def _graph_status(scan, node):
    """Return (level, text, values) of the processes and their pairs."""
    connections = find_connections(scan.processes)
    pairs = process_pairs(scan.processes, [], connections)
    around = Surroundings({process.pid: process for process in scan.processes}, {}, connections,
                          [node], True)
    decide(pairs, around)
    pairs = without_guesses(pairs, around)
    ways = by_way(pairs)
    values = {'processes': len(scan.processes),
              **{f'pairs of processes by {way}': count for way, count in ways.items()}}
    for pair in [pair for pair in pairs if pair.next_step][:SHOWN]:
        values[f'{pair.publisher.comm} ({pair.publisher.pid}) and {pair.subscriber.comm} '
               f'({pair.subscriber.pid}): {pair.way}'] = f'{pair.reason} -> {pair.next_step}'
    if scan.unseen or scan.left_out:
        values['processes that were not looked into'] = scan.unseen + scan.left_out
    text = f'{len(scan.processes)} DDS processes' + ''.join(
        f', {count} pairs {way}' for way, count in ways.items())
    return DiagnosticStatus.OK, text, values


def _place(loss):
    return f'{loss.comm} ({loss.pid}) port {loss.port}' if loss.pid else loss.where
