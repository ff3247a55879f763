"""What the node shows of flows and counters, from the records that the program keeps."""

from dataclasses import dataclass, field
import time

from ipc_bypass.tcp.owners import comm
from ipc_bypass.tcp.views import endpoints

#: The four counters that add up to everything the programs saw.
SUMS = ('redirected_bytes', 'redirected_messages', 'passed_bytes', 'passed_messages')


@dataclass(frozen=True)
class Flow:
    """
    One direction of one connection, from its sending end.

    Addresses are text, sizes in bytes, `age_seconds` since the connection was established;
    `path` is 'sk_msg' or 'loopback', `reason` a name of PASS_* in lower case or ''.
    """

    flow_id: int
    family: int
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    rule_id: int
    path: str
    reason: str
    local_pid: int = 0
    local_comm: str = ''
    remote_pid: int = 0
    remote_comm: str = ''
    bytes: int = 0  # noqa: A003
    messages: int = 0
    redirected_bytes: int = 0
    redirected_messages: int = 0
    passed_bytes: int = 0
    passed_messages: int = 0
    passed_by_reason: dict = field(default_factory=dict)
    queued_bytes: int = 0
    budget_left: int = 0
    age_seconds: float = 0.0


class Reader:
    """Reads the records of a TcpObjects."""

    def __init__(self, objects, owners, rule_of_port):
        """Name processes by `owners`; `rule_of_port(port)` returns the Rule or None."""
        self._objects, self._owners, self._rule_of_port = objects, owners, rule_of_port
        self.reasons = _names(objects.enums['pass_reason'], 'PASS_')
        self.events = _names(objects.enums['total_event'], 'EVENT_')
        self._redirect = objects.enums['steering']['STEER_REDIRECT']

    def records(self):
        """Return {index: record as a dict} of the flows that are open."""
        view = self._objects.flows
        found = {index: view.record(index) for index in view.live()}
        return {index: record for index, record in found.items() if record['cookie']}

    def flows(self, active):
        """Return the open flows; `active` says whether the node steers now."""
        records = self.records()
        cookies = {record['cookie'] for record in records.values()}
        self._owners.forget(cookies)
        self._owners.find([record['cookie'] for record in records.values() if not record['pid']])
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        by_key = {tuple(record['key'].values()): record for record in records.values()}
        return [self._flow(record, by_key, active, now) for record in records.values()]

    def counters(self):
        """
        Return the counters by name, monotonic.

        redirected_messages + passed_messages is every message that the program saw; the
        passed_* by reason add up to passed_messages.
        """
        totals, records = self._objects.totals.consistent(self.records)
        sums = {name: totals[name] + sum(record[name] for record in records.values())
                for name in SUMS}
        for number, name in self.reasons.items():
            if number:
                sums[f'passed_{name}'] = totals['passed_by_reason'][number] + sum(
                    record['passed_by_reason'][number] for record in records.values())
        for number, name in self.events.items():
            sums[name] = totals['events'][number]
        return sums

    def _flow(self, record, by_key, active, now):
        family, local, remote = endpoints(record['key'])
        # Not by `peer_cookie`: that is noted when the end sends, and it may never send.
        peer = by_key.get(tuple(record['peer_key'].values()), {'cookie': 0, 'pid': 0})
        local_pid = record['pid'] or self._owners.pid(record['cookie'])
        remote_pid = peer['pid'] or self._owners.pid(peer['cookie'])
        rule = self._rule_of_port(record['rule_port'])
        reason = ''
        if not active:
            reason = 'inactive'
        elif rule is None:
            reason = 'withdrawn'
        elif record['steer'] != self._redirect:
            reason = self.reasons[record['reason']]
        redirected = record['redirected_bytes']
        budget = max(record['budget_limit'], record['program_limit']) - redirected
        return Flow(
            flow_id=record['cookie'], family=family, local_address=local.address,
            local_port=local.port, remote_address=remote.address, remote_port=remote.port,
            rule_id=rule.id if rule else 0, path='loopback' if reason else 'sk_msg',
            reason=reason, local_pid=local_pid, local_comm=comm(local_pid),
            remote_pid=remote_pid, remote_comm=comm(remote_pid),
            bytes=redirected + record['passed_bytes'],
            messages=record['redirected_messages'] + record['passed_messages'],
            redirected_bytes=redirected, redirected_messages=record['redirected_messages'],
            passed_bytes=record['passed_bytes'], passed_messages=record['passed_messages'],
            passed_by_reason={self.reasons[number]: count for number, count
                              in enumerate(record['passed_by_reason']) if count},
            queued_bytes=record['queued_bytes'], budget_left=max(0, budget),
            age_seconds=max(0, now - record['established_ns']) / 1e9)


def unit_of(counter):
    """Return the unit of a counter's value: bytes, messages, connections (ends) or events."""
    if counter.endswith('_bytes'):
        return 'bytes'
    if counter.startswith(('redirected_', 'passed_')):
        return 'messages'
    return 'connections' if counter.startswith(('ends_', 'left_out_')) else 'events'


def _names(enumeration, prefix):
    """Return {number: name without its prefix, lower case}, without the last one, the count."""
    count = max(enumeration.values())
    return {number: name.removeprefix(prefix).lower() for name, number in enumeration.items()
            if number != count}
