"""What `ipc-bypass top` knows: flows with their rates, and the processes at their ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ipc_bypass.cli.top_delays import Delays


@dataclass(frozen=True)
class FlowRow:
    """
    One direction of a connection.

    Rates are of the time between the last two messages, in bytes and messages a second;
    `delay` is in seconds, None where nothing was redirected in that time; `port` is the one
    that a rule enrolled. The rest is as in the message Flow.
    """

    flow_id: int
    local: str
    remote: str
    port: int
    rule_id: int
    sender: str
    sender_pid: int
    receiver: str
    receiver_pid: int
    path: str
    reason: str
    rate: float
    messages: float
    bytes: int  # noqa: A003
    redirected: int
    passed: int
    queued: int
    budget: int
    age: float
    reasons: dict
    delay: float | None
    delays: Delays

    @property
    def key(self) -> int:
        """Return what tells it from others."""
        return self.flow_id

    @property
    def reason_now(self) -> str:
        """Return why it is not on the fast path now, '' where it is."""
        return self.reason

    @property
    def way(self) -> str:
        """Return the path where it is a fast one, else the reason why it is not."""
        return self.reason or self.path

    @property
    def text(self) -> str:
        """Return what a filter looks in."""
        return (f'{self.local} {self.remote} {self.sender}({self.sender_pid}) '
                f'{self.receiver}({self.receiver_pid}) {self.path} {self.reason} :{self.port}')


@dataclass
class ProcessRow:
    """
    One process, with what it sends and receives; rates in bytes a second.

    `delay` is the longest of the flows that it receives, `delays` are of all of these.
    """

    pid: int
    command: str
    flows: int = 0
    out_rate: float = 0.0
    in_rate: float = 0.0
    sent: int = 0
    received: int = 0
    redirected: int = 0
    queued: int = 0
    delay: float | None = None
    reasons: dict = field(default_factory=dict)
    paths: set = field(default_factory=set)
    ports: set = field(default_factory=set)
    delays: Delays = field(default_factory=Delays)

    @property
    def key(self) -> int:
        """Return what tells it from others."""
        return self.pid

    @property
    def rate(self) -> float:
        """Return what it sends and receives."""
        return self.out_rate + self.in_rate

    @property
    def fast(self) -> float:
        """Return the share of its bytes that was redirected, 0 to 1."""
        both = self.sent + self.received
        return self.redirected / both if both else 0.0

    @property
    def reason_now(self) -> str:
        """Return the reasons where no flow of it is on a fast path now, else ''."""
        return '' if self.paths else ' '.join(self.reasons)

    @property
    def way(self) -> str:
        """Return the fast paths and the reasons of its flows."""
        return ' '.join((*sorted(self.paths), *sorted(self.reasons, key=self.reasons.get,
                                                      reverse=True)))

    @property
    def text(self) -> str:
        """Return what a filter looks in."""
        ports = ' '.join(f':{port}' for port in sorted(self.ports))
        return f'{self.command}({self.pid}) {self.way} {ports}'


class Model:
    """
    Turns messages of ~/flows into rows.

    :param port_of: called with a Flow message, returns the port that a rule enrolled
    """

    def __init__(self, port_of) -> None:
        self._port_of = port_of
        self._before: dict = {}
        self._stamp: float | None = None
        self._delays: dict[int, Delays] = {}
        self.flows: list[FlowRow] = []

    def take(self, flows: Iterable, stamp: float) -> None:
        """
        Take the flows of a message of `stamp` seconds.

        A message that is not newer than the last one is a new beginning: another node's, or
        that of a clock that was set.
        """
        flows = list(flows)
        elapsed = 0.0 if self._stamp is None else stamp - self._stamp
        if elapsed < 0:
            self._before, elapsed = {}, 0.0
        if elapsed == 0 and self._stamp is not None and self._before:
            return
        self._delays = {flow.flow_id: self._delays.get(flow.flow_id) or Delays()
                        for flow in flows}
        self.flows = [self._row(flow, elapsed) for flow in flows]
        self._before = {flow.flow_id: (flow.bytes, flow.messages, flow.redirected_bytes)
                        for flow in flows}
        self._stamp = stamp

    def clear(self) -> None:
        """Forget all: the node has no flows any more, and what comes next is a new beginning."""
        self._before, self._delays, self._stamp, self.flows = {}, {}, None, []

    def _row(self, flow, elapsed: float) -> FlowRow:
        counters = flow.bytes, flow.messages, flow.redirected_bytes
        before = self._before.get(flow.flow_id)
        if before is None and elapsed and 0 < flow.age < elapsed:
            before = 0, 0, 0  # it began since the last message
        growth = (0.0, 0.0, 0.0)
        if before is not None and elapsed > 0:
            growth = tuple(max(0, now - then) / elapsed
                           for now, then in zip(counters, before, strict=True))
        delays, delay = self._delays[flow.flow_id], None
        if growth[2] > 0:
            delay = flow.queued_bytes / growth[2]
            delays.add(delay)
        return FlowRow(
            flow_id=flow.flow_id, local=end_text(flow.local_address, flow.local_port),
            remote=end_text(flow.remote_address, flow.remote_port), port=self._port_of(flow),
            rule_id=flow.rule_id, sender=flow.local_comm or '?', sender_pid=flow.local_pid,
            receiver=flow.remote_comm or '?', receiver_pid=flow.remote_pid, path=flow.path,
            reason=flow.reason, rate=growth[0], messages=growth[1], bytes=flow.bytes,
            redirected=flow.redirected_bytes, passed=flow.passed_bytes, queued=flow.queued_bytes,
            budget=flow.budget_left, age=flow.age,
            reasons={each.name: each.value for each in flow.passed_by_reason},
            delay=delay, delays=delays)

    @property
    def processes(self) -> list[ProcessRow]:
        """Return the processes at the ends of flows; 0 is for ends whose owner is not known."""
        found: dict[int, ProcessRow] = {}
        for flow in self.flows:
            sender = found.setdefault(flow.sender_pid, ProcessRow(flow.sender_pid, flow.sender))
            receiver = found.setdefault(flow.receiver_pid,
                                        ProcessRow(flow.receiver_pid, flow.receiver))
            sender.out_rate += flow.rate
            sender.sent += flow.bytes
            receiver.in_rate += flow.rate
            receiver.received += flow.bytes
            receiver.queued += flow.queued
            receiver.delays.merge(flow.delays)
            if flow.delay is not None:
                receiver.delay = max(flow.delay, receiver.delay or 0.0)
            for row in (sender, receiver):
                row.flows += 1
                row.redirected += flow.redirected
                row.ports.add(flow.port)
                if flow.reason:
                    row.reasons[flow.reason] = row.reasons.get(flow.reason, 0) + 1
                else:
                    row.paths.add(flow.path)
        return list(found.values())


def end_text(address: str, port: int) -> str:
    """Return 'address:port', IPv6 in brackets."""
    return f'[{address}]:{port}' if ':' in address else f'{address}:{port}'
