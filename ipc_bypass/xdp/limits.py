"""Limits of the rate limiter: as people write them, and as the program reads them."""

from __future__ import annotations

from dataclasses import dataclass
import errno
import ipaddress
import re

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.limiter_layout import (
    BYTES,
    COST_SHIFT,
    DRY_RUN,
    KINDS,
    LIMIT,
    PACKETS,
    PREFIX,
    PREFIX_HEAD_BITS,
    RANGES,
    TIME_SHIFT,
)

#: Bounds of rates, and of the time in which an empty bucket is full again: what the program's
#: numbers of 64 bits hold.
LEAST_PACKETS, MOST_PACKETS, LEAST_BYTES, MOST_BYTES, MOST_SECONDS = 0.01, 1e8, 64, 1e11, 86_400
#: Bursts where none is asked for: a tenth of a second, and no less than so much.
DEFAULT_PACKETS, DEFAULT_BYTES = 16, 65_536
_SECOND = 1_000_000_000 << COST_SHIFT
_FORM = ("write it as '10.0.0.0/8 each /24 packets 1000 burst 200 bytes 1000000 byte_burst "
         "100000 ports 7400-7500,9000', or 'discovery' in place of ports, or both; 'dry_run' at "
         'the end counts only')
_RANGE = re.compile(r'(\d{1,5})(?:-(\d{1,5}))?')


@dataclass(frozen=True)
class Limit:
    """
    So many packets and bytes a second for each source of a prefix.

    :param prefix: of the source; the longest one that holds it decides
    :param packets: a second, 0 for any number
    :param burst: packets that may come at once, 0 for a tenth of a second's, at least 16
    :param bytes_: of whole frames, a second; 0 for any number
    :param byte_burst: bytes that may come at once, 0 for a tenth of a second's, at least 65,536;
        a larger frame never passes
    :param each: length of the prefix of which each has its own share; None: all of `prefix` share
    :param ports: (first, last) of UDP and TCP destinations for which it holds, at most 8; () for
        all packets
    :param discovery: it holds for announcements of DDS participants only, multicast to port
        7400 + 250 * domain; with `ports`, to those of these
    :param dry_run: count what would be dropped, and drop nothing
    """

    prefix: str
    packets: float = 0
    burst: int = 0
    bytes_: float = 0
    byte_burst: int = 0
    each: int | None = None
    ports: tuple[tuple[int, int], ...] = ()
    discovery: bool = False
    dry_run: bool = False

    @property
    def kind(self) -> str:
        """Return what it holds for: 'discovery', 'ports' or 'all'."""
        return 'discovery' if self.discovery else 'ports' if self.ports else 'all'

    @property
    def packet_burst(self) -> int:
        """Return how many packets may come at once."""
        return self.burst or max(DEFAULT_PACKETS, int(self.packets / 10))

    @property
    def burst_of_bytes(self) -> int:
        """Return how many bytes may come at once."""
        return self.byte_burst or max(DEFAULT_BYTES, int(self.bytes_ / 10))

    def __str__(self) -> str:
        """Return it as parse_limit() reads it."""
        words = [self.prefix]
        if self.each is not None:
            words.append(f'each /{self.each}')
        for word, value in (('packets', self.packets), ('burst', self.burst),
                            ('bytes', self.bytes_), ('byte_burst', self.byte_burst)):
            if value:
                words.append(f'{word} {value:.15g}')
        if self.ports:
            words.append('ports ' + ','.join(
                f'{first}' if first == last else f'{first}-{last}' for first, last in self.ports))
        words += [word for word, said in (('discovery', self.discovery),
                                          ('dry_run', self.dry_run)) if said]
        return ' '.join(words)

    def key(self) -> bytes:
        """Return where it stands, a struct limiter_prefix; raises BypassError as packed()."""
        network = self._network()
        return PREFIX.pack(PREFIX_HEAD_BITS + network.prefixlen, KINDS.index(self.kind),
                           network.version, 0, network.network_address.packed)

    def packed(self, identity: int, place: int) -> bytes:
        """
        Return it as struct limiter_limit.

        :param identity: number of its buckets
        :param place: of its counters
        :raises BypassError: where it makes no sense
        """
        network, flags = self._network(), DRY_RUN if self.dry_run else 0
        bits = network.max_prefixlen
        each = network.prefixlen if self.each is None else self.each
        if not network.prefixlen <= each <= bits:
            raise _error(str(self), f'each is /{network.prefixlen} to /{bits} there')
        if len(self.ports) > RANGES or not all(
                0 <= first <= last <= 0xffff and last for first, last in self.ports):
            raise _error(str(self), f'it has more than {RANGES} ranges of ports, or ports that '
                         'are none')
        if not (self.packets or self.bytes_):
            raise _error(str(self), 'it limits neither packets nor bytes')
        numbers = []
        for name, least, most, flag in (('packets', LEAST_PACKETS, MOST_PACKETS, PACKETS),
                                        ('bytes', LEAST_BYTES, MOST_BYTES, BYTES)):
            rate = self.packets if flag == PACKETS else self.bytes_
            if not rate:
                numbers += [0, 0]
                continue
            if not least <= rate <= most:
                raise _error(str(self), f'{name} are {least:g} to {most:g} a second')
            burst = self.packet_burst if flag == PACKETS else self.burst_of_bytes
            if not 0 < burst <= rate * MOST_SECONDS:
                raise _error(str(self), f'a burst of {name} is at most what comes in a day')
            flags |= flag
            numbers += costs(rate, burst)
        mask = ((1 << each) - 1 << bits - each).to_bytes(bits // 8, 'big')
        ranges = [port for pair in self.ports for port in pair]
        return LIMIT.pack(*numbers, identity, place, flags, 0, mask,
                          *ranges, *[0] * (2 * RANGES - len(ranges)))

    def _network(self):
        try:
            return ipaddress.ip_network(self.prefix)
        except ValueError as error:
            raise _error(self.prefix, str(error)) from None


def costs(rate: float, burst: int) -> tuple[int, int]:
    """
    Return what one packet or byte costs, and what a bucket holds.

    :param rate: a second
    :param burst: what a full bucket holds
    :returns: (2^-22 ns, 1/256 ns): the time in which one comes, and `burst` of them
    """
    cost = round(_SECOND / rate)
    shift = COST_SHIFT - TIME_SHIFT
    # A packet's cost is cut before it is added up, so that exactly `burst` fit.
    return cost, max((cost >> shift) * burst, cost * burst >> shift)


def parse_limit(text: str) -> Limit:
    """Return the limit that a text names, of the form of str(Limit); raises BypassError."""
    words = text.split()
    if not words:
        raise _error(text, 'it is empty')
    values: dict = {}
    readers = {
        'each': ('each', _length), 'packets': ('packets', _number), 'burst': ('burst', _whole),
        'bytes': ('bytes_', _number), 'byte_burst': ('byte_burst', _whole),
        'ports': ('ports', _ports), 'discovery': ('discovery', None), 'dry_run': ('dry_run', None)}
    rest = iter(words[1:])
    for word in rest:
        name, read = readers.get(word, ('', None))
        if not name or name in values:
            raise _error(text, f"'{word}' stands there twice, or means nothing")
        try:
            values[name] = True if read is None else read(next(rest, ''))
        except ValueError:
            raise _error(text, f"what stands behind '{word}' is not right") from None
    limit = Limit(words[0], **values)
    limit.packed(0, 0)
    return limit


def _length(text: str) -> int:
    if not text.startswith('/'):
        raise ValueError
    return int(text[1:])


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer() or number < 1:
        raise ValueError
    return int(number)


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    found = []
    for part in text.split(','):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError
        found.append((int(match[1]), int(match[2] or match[1])))
    return tuple(found)


def _error(text: str, reason: str) -> BypassError:
    return BypassError(f"read the limit '{text}'", reason, errno=errno.EINVAL, next_step=_FORM)
