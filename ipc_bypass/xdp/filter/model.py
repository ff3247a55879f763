"""
The filter's decision in Python.

It is what the kernel program is tested against, and the filter itself where XDP cannot be had.
It looks at the rules one by one in the order of their ranks; the program knows nothing of that
way, which is what makes the comparison worth something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import time

from ipc_bypass.xdp.filter.headers import Facts, IPV4, read_headers
from ipc_bypass.xdp.filter.rules import FilterRule, RTPS, UDP
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.too_big import answer_too_big

DROP, PASS, TX = 'drop', 'pass', 'tx'
#: Outcomes in the order of enum filter_outcome of bpf/xdp_filter.h.
OUTCOMES = (
    'rule_pass', 'default_pass', 'other_pass', 'eth_frame_err', 'ip_header_err',
    'ip6_header_err', 'transport_err', 'ip_drop_count', 'ip6_drop_count', 'ip_frag_drop_count',
    'ip6_frag_drop_count', 'not_rtps', 'default_drop', 'other_drop', 'ptb_sent_count',
    'ptb_err_count', 'ptb_mem_err_count', 'ptb_rate_limited', 'ptb_suppressed')
PASSED = ('rule_pass', 'default_pass', 'other_pass', 'ptb_suppressed')
MALFORMED = ('eth_frame_err', 'ip_header_err', 'ip6_header_err', 'transport_err')
# Most decisions that are remembered; then all are forgotten.
_REMEMBERED = 65536


@dataclass(frozen=True)
class Decision:
    """What becomes of a frame: an outcome, the rule that decided, the frame that goes back."""

    outcome: str
    rule: FilterRule | None = None
    answer: bytes = b''


def verdict_of(outcome: str, settings: FilterSettings) -> str:
    """Return DROP, PASS or TX."""
    if outcome == 'ptb_sent_count':
        return TX
    if outcome in PASSED or (outcome in MALFORMED and not settings.malformed_drop):
        return PASS
    return DROP


class Model:
    """
    The filter with one set of rules.

    :param may_answer: says whether an answer may go out now; by default a bucket as settings say
    """

    def __init__(self, settings: FilterSettings, rules: Iterable[FilterRule],
                 may_answer: Callable[[], bool] | None = None) -> None:
        self.settings = settings
        self.rules = sorted(rules, key=lambda rule: rule.rank)
        self._may_answer = may_answer or Bucket(settings).take
        self._payload = any(rule.payload for rule in self.rules)
        self._known: dict[tuple, FilterRule | None] = {}

    def judge(self, frame: bytes | memoryview) -> Decision:
        """Return the decision about an Ethernet frame."""
        facts, settings = read_headers(frame), self.settings
        if facts.frame_error:
            return Decision('eth_frame_err')
        if facts.transport_error:
            return Decision('transport_err')
        if facts.ip_error:
            return Decision('ip_header_err' if facts.ethertype == IPV4 else 'ip6_header_err')
        if not facts.family:
            return Decision('other_drop' if settings.other_drop else 'other_pass')
        if settings.frags_drop and facts.fragment:
            return Decision('ip_frag_drop_count' if facts.family == 4 else 'ip6_frag_drop_count')
        rule = self._choose(frame, facts)
        if rule is None:
            outcome = 'default_drop' if settings.default_action == 'deny' else 'default_pass'
        elif rule.action == 'allow':
            outcome = 'rule_pass'
        elif rule.payload and rule.payload != RTPS:
            outcome = 'not_rtps'
        else:
            outcome = 'ip_drop_count' if facts.family == 4 else 'ip6_drop_count'
        if settings.ptb_send and outcome in PASSED and facts.dont_fragment:
            told, answer = answer_too_big(frame, facts, settings.ptb_mtu, self._may_answer)
            if told:
                return Decision(told, rule, answer)
        return Decision(outcome, rule)

    def _choose(self, frame, facts):
        """Return the first rule that matches; the answers of earlier packets are remembered."""
        rtps = self._payload and is_rtps(frame, facts)
        key = (facts.source, facts.destination, facts.protocol, facts.ports, facts.source_port,
               facts.destination_port, rtps)
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = next(
                (rule for rule in self.rules if matches(rule, facts, rtps)), None)
        return self._known[key]


def matches(rule: FilterRule, facts: Facts, rtps: bool) -> bool:
    """Return whether all conditions of a rule hold."""
    if rule.protocol is not None and rule.protocol != facts.protocol:
        return False
    for asked, port in ((rule.source_ports, facts.source_port),
                        (rule.destination_ports, facts.destination_port)):
        if asked and not (facts.ports and asked[0] <= port <= asked[1]):
            return False
    if rule.payload and not (facts.ports and (rule.payload == RTPS) == rtps):
        return False
    return _within(facts.source, rule.source) and _within(facts.destination, rule.destination)


def is_rtps(frame: bytes | memoryview, facts: Facts) -> bool:
    """Return whether a UDP payload begins with 'RTPS', within the datagram's own length."""
    start = facts.l4_offset
    return (facts.ports and facts.protocol == UDP
            and int.from_bytes(frame[start + 4:start + 6], 'big') >= 12
            and bytes(frame[start + 8:start + 12]) == b'RTPS')


class Bucket:
    """Tokens for answers, as the program counts them: the time at which the bucket is full."""

    def __init__(self, settings: FilterSettings,
                 now: Callable[[], int] = time.monotonic_ns) -> None:
        """Begin with a full bucket; `now` in ns."""
        self._interval, self._tolerance = settings.ptb_interval_ns, settings.ptb_tolerance_ns
        self._now, self._full = now, 0

    def take(self) -> bool:
        """Return whether there was a token."""
        now = self._now()
        start = max(self._full, now)
        if not self._interval or start - now > self._tolerance:
            return False
        self._full = start + self._interval
        return True


def _within(address, network):
    if network is None:
        return True
    wanted = network.network_address.packed
    if len(wanted) != len(address):
        return False
    shift = network.max_prefixlen - network.prefixlen
    return int.from_bytes(address, 'big') >> shift == int.from_bytes(wanted, 'big') >> shift
