"""The rate limiter's slot: its limits, changed while packets flow, and what it counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import errno
import ipaddress
import random
import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError, MapFullError
from ipc_bypass.kernel.loader import LoadedMap
from ipc_bypass.kernel.maps import possible_cpus
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.xdp.limiter_layout import (
    BUCKET,
    BUCKET_KEY,
    COUNTS,
    COUNTS_STRUCT,
    KINDS,
    LIMIT,
    LIMITS,
    PREFIX,
    PREFIX_HEAD_BITS,
    TOTALS,
    TOTALS_STRUCT,
    WORD_DRY_RUN,
    WORD_KINDS,
)
from ipc_bypass.xdp.limits import Limit

_WORD, _INDEX = struct.Struct('=Q'), struct.Struct('=I')
_KIND = PREFIX.size - 20  # where limiter_prefix.kind stands
# Where `identity`, `place` and `mask` stand among the fields of LIMIT.
_IDENTITY, _PLACE, _MASK = 4, 5, 8


@dataclass(frozen=True)
class LimitStatus:
    """
    One limit.

    :param text: as parse_limit() reads it; of a limit that another process made, its prefix and
        what it holds for
    :param counts: packets and bytes by name (limiter_layout.COUNTS) since it was made
    """

    text: str
    counts: dict[str, int]


@dataclass(frozen=True)
class LimiterStatus:
    """
    What a rate limiter does and did.

    :param limits: LimitStatus of each
    :param dry_run: whether nothing is dropped, whatever the limits say
    :param totals: packets and bytes since it was loaded: limiter_layout.COUNTS over all limits,
        and `off`, `not_ip` and `unlimited`; but for bytes, they add up to `seen`
    :param seen: packets
    :param buckets: how many there are
    :param evicted: how many made room for others, the longest unused first
    """

    limits: tuple[LimitStatus, ...]
    dry_run: bool
    totals: dict[str, int]
    seen: int
    buckets: int
    evicted: int


class RateLimiter:
    """
    The rate limiter of one interface, by its maps.

    :param maps: the slot's maps by name, as LoadedSlot.maps; they stay the caller's
    """

    def __init__(self, maps: Mapping[str, LoadedMap]) -> None:
        self._maps = {name: entry.fd for name, entry in maps.items()}
        self._most = min(LIMITS, maps['limiter_limits'].max_entries)
        self._cpus = possible_cpus()
        self._texts: dict[bytes, str] = {}

    def apply(self, limits: Iterable[Limit], *, dry_run: bool = False) -> None:
        """
        Have these limits hold in place of those before.

        One after the other: each packet meets an old limit or a new one, whole. A limit that
        stays keeps its buckets and counters, also where only its rates change.

        :param dry_run: drop nothing, and count what would be dropped
        :raises MapFullError: when there are too many; nothing is changed
        :raises BypassError: when one makes no sense, or two say the same; nothing is changed
        """
        wanted, present = self._checked(limits), self._present()
        gone = set(present) - set(wanted)
        if len(present.keys() | wanted.keys()) > self._most:
            self._delete(gone)  # no room for both
        kept = {key: entry for key, entry in present.items() if key in wanted}
        taken = {entry[_PLACE] for entry in present.values()}
        free = [place for place in range(LIMITS) if place not in taken]
        free += [present[key][_PLACE] for key in gone]
        places = {key: kept[key][_PLACE] if key in kept else free.pop(0) for key in wanted}
        fresh = [place for key, place in places.items() if key not in kept]
        self._clear_counts(fresh)
        self._set_word(WORD_DRY_RUN, int(dry_run))
        for key, limit in wanted.items():
            self._update('limiter_limits', key, _packed(limit, places[key], kept.get(key)))
        self._set_word(WORD_KINDS, sum(1 << kind for kind in {key[_KIND] for key in wanted}))
        self._delete(gone)
        self._texts = {key: str(limit) for key, limit in wanted.items()}

    def status(self) -> LimiterStatus:
        """Return what it does and did."""
        raw = self._per_cpu('limiter_totals', 0, TOTALS_STRUCT)
        totals = dict(zip((*TOTALS, *COUNTS), raw, strict=True))
        made = totals.pop('buckets_made')
        buckets = len(syscall.map_items(self._maps['limiter_buckets'], BUCKET_KEY.size,
                                        BUCKET.size))
        limits = []
        for key, entry in sorted(self._present().items()):
            counts = self._per_cpu('limiter_counts', entry[_PLACE], COUNTS_STRUCT)
            limits.append(LimitStatus(self._texts.get(key) or _described(key),
                                      dict(zip(COUNTS, counts, strict=True))))
        seen = sum(count for name, count in totals.items() if not name.endswith('_bytes')
                   or name in ('dropped_by_bytes', 'would_drop_by_bytes'))
        dry_run = self._look_up('limiter_words', _INDEX.pack(WORD_DRY_RUN), _WORD.size)
        return LimiterStatus(tuple(limits), any(dry_run), totals, seen, buckets,
                             max(0, made - buckets))

    def _checked(self, limits: Iterable[Limit]) -> dict[bytes, Limit]:
        """Return the limits by their keys; raises BypassError."""
        wanted: dict[bytes, Limit] = {}
        for limit in limits:
            limit.packed(0, 0)
            other = wanted.setdefault(limit.key(), limit)
            if other is not limit:
                raise BypassError(
                    f"set the limit '{limit}'", f"'{other}' holds for the same packets",
                    errno=errno.EEXIST, next_step='leave one of them out; two on one prefix are '
                    'of different kinds: discovery, ports, all')
        if len(wanted) > self._most:
            raise MapFullError('set the limits', f'{len(wanted)} are more than {self._most}',
                               errno=errno.E2BIG, next_step='use shorter prefixes')
        return wanted

    def _present(self) -> dict[bytes, tuple]:
        """Return {key: fields of struct limiter_limit} of the limits in the map."""
        return {key: LIMIT.unpack(value) for key, value in syscall.map_items(
            self._maps['limiter_limits'], PREFIX.size, LIMIT.size)}

    def _per_cpu(self, name: str, index: int, form: struct.Struct) -> list[int]:
        raw = self._look_up(name, _INDEX.pack(index), form.size * self._cpus)
        return [sum(column) for column in zip(*(
            form.unpack_from(raw, cpu * form.size) for cpu in range(self._cpus)), strict=True)]

    def _set_word(self, word: int, value: int) -> None:
        self._update('limiter_words', _INDEX.pack(word), _WORD.pack(value))

    def _clear_counts(self, places: Iterable[int]) -> None:
        """Set the counters of limits that are new to 0."""
        if places:
            # Whoever counts in the name of a limit that went is done after this.
            wait_for_programs()
        for place in places:
            self._update('limiter_counts', _INDEX.pack(place),
                         bytes(COUNTS_STRUCT.size * self._cpus))

    def _delete(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            syscall.map_delete(self._maps['limiter_limits'], key)

    def _look_up(self, name: str, key: bytes, size: int) -> bytes:
        return syscall.map_lookup(self._maps[name], key, size)

    def _update(self, name: str, key: bytes, value: bytes) -> None:
        syscall.map_update(self._maps[name], key, value)


def _packed(limit: Limit, place: int, before: tuple | None) -> bytes:
    """Return struct limiter_limit, with the buckets of the limit before where they fit."""
    if before is not None:
        packed = limit.packed(before[_IDENTITY], place)
        if LIMIT.unpack(packed)[_MASK] == before[_MASK]:
            return packed
    return limit.packed(random.getrandbits(32), place)


def _described(key: bytes) -> str:
    """Return what a struct limiter_prefix says of a limit."""
    bits, kind, family, _, address = PREFIX.unpack(key)
    host = ipaddress.ip_address(address[:4] if family == 4 else address)
    return f'{host}/{bits - PREFIX_HEAD_BITS} ({KINDS[kind]})'
