"""
Turn rules into what the maps of the filter hold; nothing here touches a map.

Every value of a field has a class, the set of rules that ask for it, reduced to what the program
needs of it: the best of the rules that ask for nothing else, and a bit for each rule that asks
for more (bpf/xdp_filter.bpf.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
import heapq
import random
from typing import NamedTuple

from ipc_bypass.kernel.errors import RuleError
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.rules.table import LAST_PORT
from ipc_bypass.xdp.filter.rules import FilterRule, NOT_RTPS, RTPS, TCP, UDP
from ipc_bypass.xdp.filter.settings import FilterSettings
import numpy as np

SOURCE, DESTINATION, SOURCE_PORT, SERVICE = range(4)
_WORDS, _MOST_COMBINED = 8, 512
_NONE = 0xffffffff
# FILTER_BUCKETS and FILTER_BUCKET_HOSTS of bpf/xdp_filter.h.
_BUCKETS, _BUCKET_HOSTS, _TRIES = 4096, 8, 256


class Reduced(NamedTuple):
    """A set of rules, reduced: choices by payload (other, RTPS), and bits of combined rules."""

    other: int = _NONE
    rtps: int = _NONE
    bits: int = 0

    def joined(self, rest: Reduced) -> Reduced:
        """Return the union of two sets."""
        return Reduced(min(self.other, rest.other), min(self.rtps, rest.rtps),
                       self.bits | rest.bits)


@dataclass
class Compiled:
    """
    What the maps hold; classes and groups are numbers of rows.

    ports      u16 of shape (65,536, 4), by enum filter_port_place
    protocols  u16 of shape (256, 4), the first of which counts
    classes    u32 of shape (classes, 4), struct filter_class
    groups     u64 of shape (groups, 8), struct filter_group
    combined   u32 of shape (rules, 2), struct filter_combined
    buckets    u32 of shape (4,096, 2, 8), struct filter_bucket: IPv4 hosts
    multiplier that finds an address in them
    hosts      {address: (source class, destination class)} of IPv6
    prefixes   {(bits, address): (source class, destination class)}
    flags      enum filter_flag, without the generation
    """

    ports: np.ndarray
    protocols: np.ndarray
    classes: np.ndarray
    groups: np.ndarray
    combined: np.ndarray
    buckets: np.ndarray
    multiplier: int
    hosts: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    prefixes: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    flags: int = 0


def compile_rules(settings: FilterSettings, rules: Iterable[FilterRule],
                  indices: Mapping[int, int]) -> Compiled:
    """
    Return what the maps hold for these rules.

    :param indices: {rule id: index of its counters}
    :raises RuleError: TOO_MANY_RULES where they have more classes than there is room for
    """
    return _Compiler(rules, indices).compile(settings)


def in_buckets(hosts: Mapping[bytes, tuple[int, int]]) -> tuple[np.ndarray, int]:
    """
    Return (buckets, multiplier) of IPv4 hosts.

    :param hosts: {address: (source class, destination class)}
    :raises RuleError: TOO_MANY_RULES where no multiplier was found that keeps every bucket small
    """
    addresses = np.frombuffer(b''.join(hosts), '<u4')
    classes = np.array([source | destination << 16 for source, destination in hosts.values()],
                       '<u4')
    buckets = np.zeros((_BUCKETS, 2, _BUCKET_HOSTS), '<u4')
    # Knuth's multiplicative hashing; a fixed order of multipliers, so that the same rules make
    # the same maps.
    chance = random.Random(_BUCKETS)
    for _ in range(_TRIES):
        multiplier = chance.getrandbits(32) | 1
        rows = addresses * np.uint32(multiplier) >> np.uint32(20)
        order = np.argsort(rows, kind='stable')
        ordered = rows[order]
        places = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        if not len(places) or places.max() < _BUCKET_HOSTS:
            buckets[ordered, 0, places] = addresses[order]
            buckets[ordered, 1, places] = classes[order]
            return buckets, multiplier
    raise RuleError('write the rules of the filter', f'{len(hosts)} IPv4 hosts do not fit',
                    code='TOO_MANY_RULES', next_step='use prefixes instead of hosts')


class _Compiler:
    """One run of compile_rules."""

    def __init__(self, rules, indices):
        constants = enumerations(bpf_source('xdp_filter.h'))
        self._sizes, self._flags = constants['filter_size'], constants['filter_flag']
        self._shape, self._rows = constants['filter_choice'], constants['filter_group_row']
        self._ordered = sorted(rules, key=lambda rule: rule.rank)
        self._alone: dict[int, Reduced] = {}
        self._combined = []  # (rule, choice), in the order of their ranks
        for rank, rule in enumerate(self._ordered):
            choice = self._choice(rank, indices[rule.id], rule)
            if sum(rule.fields) > 1:
                self._alone[rule.id] = Reduced(bits=1 << len(self._combined))
                self._combined.append((rule, choice))
            else:
                self._alone[rule.id] = Reduced(
                    _NONE if rule.payload == RTPS else choice,
                    _NONE if rule.payload == NOT_RTPS else choice)
        self._any = [self._bits(lambda rule, place=place: not rule.fields[place])
                     for place in range(4)]
        self._class_numbers, self._class_rows = {}, [(_NONE, _NONE, 0, 0)]
        self._group_numbers, self._group_rows = {}, [
            *self._any, self._bits(lambda rule: rule.payload != RTPS),
            self._bits(lambda rule: rule.payload != NOT_RTPS)]
        assert len(self._group_rows) == self._rows['GROUPS_FIXED']

    def compile(self, settings):  # noqa: A003
        ports = np.zeros((LAST_PORT + 1, 4), '<u2')
        for place, (protocol, which) in enumerate(
                ((UDP, SERVICE), (UDP, SOURCE_PORT), (TCP, SERVICE), (TCP, SOURCE_PORT))):
            self._fill_ports(ports[:, place], protocol, which)
        protocols = np.zeros((256, 4), '<u2')
        for protocol, state in self._by_protocol().items():
            protocols[protocol, 0] = self._class(SERVICE, state)
        hosts4, hosts6, prefixes = {}, {}, {}
        self._fill_addresses(4, hosts4, prefixes)
        self._fill_addresses(6, hosts6, prefixes)
        self._check_room()
        return Compiled(ports, protocols, np.array(self._class_rows, '<u4'),
                        _vectors(self._group_rows),
                        np.array([(choice, 0) for _, choice in self._combined],
                                 '<u4').reshape(-1, 2), *in_buckets(hosts4), hosts6, prefixes,
                        self._used() | self._asked(settings))

    def _choice(self, rank, index, rule):
        shape = self._shape
        return (rank << shape['CHOICE_RANK_SHIFT'] | index << shape['CHOICE_INDEX_SHIFT']
                | (shape['CHOICE_DENY'] if rule.action == 'deny' else 0)
                | (shape['CHOICE_NOT_RTPS'] if rule.payload == NOT_RTPS else 0))

    def _bits(self, wanted):
        return sum(1 << number for number, (rule, _) in enumerate(self._combined)
                   if wanted(rule))

    def _class(self, place, state):
        """Return the number of the class of a reduced set, 0 for the empty one."""
        if state == Reduced():
            return 0
        key = place, state
        if key not in self._class_numbers:
            self._class_numbers[key] = len(self._class_rows)
            self._class_rows.append((state.other, state.rtps, self._group(place, state.bits), 0))
        return self._class_numbers[key]

    def _group(self, place, bits):
        if not bits:
            return 0
        vector = bits | self._any[place]
        if vector not in self._group_numbers:
            self._group_numbers[vector] = len(self._group_rows)
            self._group_rows.append(vector)
        return self._group_numbers[vector]

    def _by_protocol(self):
        """Return {protocol: reduced set} of what packets without ports obey."""
        found = {}
        for rule in self._ordered:
            if rule.asks_service and rule.destination_ports is None and not rule.payload:
                found[rule.protocol] = found.get(rule.protocol, Reduced()).joined(
                    self._alone[rule.id])
        return found

    def _fill_ports(self, column, protocol, which):
        """Sweep over the ports with the ranges that are open at each; write their classes."""
        events = {}
        for rule in self._ordered:
            if rule.protocol != protocol or not rule.fields[which]:
                continue
            span = rule.source_ports if which == SOURCE_PORT else rule.destination_ports
            first, last = span or (0, LAST_PORT)
            events.setdefault(first, ([], []))[0].append((rule.id, last))
            events.setdefault(last + 1, ([], []))[1].append(rule.id)
        best, bits = ([], []), 0  # heaps of (choice, last port), by payload
        places = [*sorted(events), LAST_PORT + 1]
        for start, end in zip(places[:-1], places[1:], strict=True):
            for number, last in events[start][0]:
                state = self._alone[number]
                bits ^= state.bits
                for heap, choice in zip(best, state[:2], strict=True):
                    if choice != _NONE:
                        heapq.heappush(heap, (choice, last))
            for number in events[start][1]:
                bits ^= self._alone[number].bits
            for heap in best:
                while heap and heap[0][1] < start:
                    heapq.heappop(heap)
            column[start:end] = self._class(
                which, Reduced(*(heap[0][0] if heap else _NONE for heap in best), bits))

    def _fill_addresses(self, version, hosts, prefixes):
        """Add the classes of all prefixes of a family: each has what shorter ones ask for."""
        nodes = {}
        for rule in self._ordered:
            for place, network in ((SOURCE, rule.source), (DESTINATION, rule.destination)):
                if network is not None and network.version == version:
                    key = network.prefixlen, int(network.network_address)
                    states = nodes.setdefault(key, [Reduced(), Reduced()])
                    states[place] = states[place].joined(self._alone[rule.id])
        width, size = (32, 4) if version == 4 else (128, 16)
        lengths = sorted({bits for bits, _ in nodes})
        for (bits, address), states in sorted(nodes.items()):
            # Those that are shorter have all of theirs by now: the longest is enough.
            for shorter in reversed([length for length in lengths if length < bits]):
                parent = nodes.get((shorter, address >> (width - shorter) << (width - shorter)))
                if parent:
                    states[:] = [mine.joined(more)
                                 for mine, more in zip(states, parent, strict=True)]
                    break
            value = self._class(SOURCE, states[0]), self._class(DESTINATION, states[1])
            packed = address.to_bytes(size, 'big')
            if bits == width:
                hosts[packed] = value
            else:
                prefixes[bits, packed] = value

    def _check_room(self):
        for what, rows, most in (('classes', self._class_rows, self._sizes['FILTER_CLASSES']),
                                 ('groups', self._group_rows, self._sizes['FILTER_GROUPS'])):
            if len(rows) > most:
                raise RuleError('write the rules of the filter', f'they make {len(rows)} {what} '
                                f'of ports and prefixes, {most} have room',
                                code='TOO_MANY_RULES', next_step='let fewer of them overlap')
        if len(self._combined) > _MOST_COMBINED:
            raise RuleError('write the rules of the filter', f'{len(self._combined)} of them ask '
                            f'for several fields, {_MOST_COMBINED} have room',
                            code='TOO_MANY_RULES', next_step='remove some')

    def _used(self):
        """Return the flags of the features that the rules use."""
        found = 0
        for rule in self._ordered:
            for name, network in (('SOURCE', rule.source), ('DESTINATION', rule.destination)):
                if network is not None:
                    host = network.prefixlen == network.max_prefixlen
                    found |= self._flags[f'FILTER_{name}_{"HOSTS" if host else "PREFIXES"}'
                                         f'{network.version}']
            if rule.source_ports:
                found |= self._flags['FILTER_SOURCE_PORTS']
            if rule.destination_ports or (rule.asks_service and rule.protocol in (UDP, TCP)):
                found |= self._flags['FILTER_DESTINATION_PORTS']
            if rule.asks_service and rule.destination_ports is None:
                found |= self._flags['FILTER_BY_PROTOCOL']
            if rule.payload:
                found |= self._flags['FILTER_PAYLOAD']
        return found | (self._flags['FILTER_COMBINED'] if self._combined else 0)

    def _asked(self, settings):
        """Return the flags that the settings ask for."""
        return sum(self._flags[name] for name, wanted in (
            ('FILTER_DROP_FRAGMENTS', settings.frags_drop),
            ('FILTER_DEFAULT_DENY', settings.default_action == 'deny'),
            ('FILTER_DROP_MALFORMED', settings.malformed_drop),
            ('FILTER_DROP_OTHER', settings.other_drop),
            ('FILTER_ANSWER_TOO_BIG', settings.ptb_send)) if wanted)


def _vectors(rows):
    """Return vectors of bits as u64 of shape (rows, 8)."""
    return np.frombuffer(b''.join(row.to_bytes(8 * _WORDS, 'little') for row in rows),
                         '<u8').reshape(-1, _WORDS)
