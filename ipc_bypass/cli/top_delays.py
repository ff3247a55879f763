"""
Queue delay, from queued bytes and rate.

A flow's record has no latency of messages, and TCP's own round-trip estimate does not move for
redirected data. What can be had without a probe is Little's law: bytes that wait in the
receiver's queue, divided by the rate at which bytes come, is for how long a byte waits there,
averaged over a steady flow. One sample a message of ~/flows; the time before and after the
queue is not in it.
"""

from __future__ import annotations

#: Buckets: 0 for an empty queue, then [2^(i-1), 2^i) microseconds; the last one is open.
BUCKETS = 26
_BLOCKS = '▏▎▍▌▋▊▉█'
_SPARKS = '▁▂▃▄▅▆▇█'
#: What takes the place of what is not ASCII, for str.translate.
ASCII = str.maketrans(_SPARKS + _BLOCKS[:-1] + '…▲▼', '.:-=+*#@' + '#' * 7 + '~^v')


class Delays:
    """A histogram of queue delays in log2 buckets."""

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS

    def add(self, delay: float) -> None:
        """Count a delay in seconds."""
        self.counts[bucket(delay)] += 1

    def merge(self, other: Delays) -> None:
        """Add the counts of another one."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]

    @property
    def samples(self) -> int:
        """Return how many were counted."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the upper end in seconds of the bucket with this share below, None for none."""
        wanted, sums = share * self.samples, 0
        for index, count in enumerate(self.counts):
            sums += count
            if count and sums >= wanted:
                return upper(index)
        return None

    def as_dict(self) -> dict[str, int]:
        """Return {upper end in microseconds: samples} of the buckets that are not empty."""
        return {str(round(upper(index) * 1e6)): count
                for index, count in enumerate(self.counts) if count}

    def shown(self) -> range:
        """Return the buckets from the first to the last one that is not empty."""
        filled = [index for index, count in enumerate(self.counts) if count]
        return range(filled[0], filled[-1] + 1) if filled else range(0)


def bucket(delay: float) -> int:
    """Return the number of the bucket of a delay in seconds."""
    microseconds = delay * 1e6
    if microseconds <= 0:
        return 0
    return min(BUCKETS - 1, int(min(microseconds, 2.0 ** 62)).bit_length() or 1)


def upper(index: int) -> float:
    """Return the upper end of a bucket, in seconds."""
    return 0.0 if index == 0 else 2.0 ** index / 1e6


def label(index: int) -> str:
    """Return a bucket as text, at most 9 columns."""
    if index == 0:
        return 'empty'
    if index == BUCKETS - 1:
        return f'>= {duration(upper(index - 1))}'
    return f'< {duration(upper(index))}'


def delay_name() -> str:
    """Return what the histogram is called wherever it is shown."""
    return 'queue delay, from queued bytes and rate'


def duration(seconds: float) -> str:
    """Return a time as text with a unit, at most 6 columns."""
    for factor, unit in ((1e6, 'us'), (1e3, 'ms')):
        value = seconds * factor
        if value < 999.5:
            return f'{value:.1f}{unit}' if 0 < value < 9.95 else f'{value:.0f}{unit}'
    return f'{seconds:.1f}s' if seconds < 999 else f'{seconds:.0f}s'[:6]


def bars(delays: Delays, width: int) -> list[str]:
    """Return a line a bucket: its range, a bar of at most `width` columns, the samples."""
    most = max(delays.counts)
    return [f'{label(index):>9} {_bar(delays.counts[index] / most, width)} '
            f'{delays.counts[index]}' for index in delays.shown()]


def spark(delays: Delays) -> str:
    """Return a character a bucket, for a cell of a table."""
    most = max(delays.counts)
    return ''.join(_SPARKS[max(0, -(-delays.counts[index] * len(_SPARKS) // most) - 1)]
                   if delays.counts[index] else ' ' for index in delays.shown())


def _bar(share: float, width: int) -> str:
    eighths = max(1 if share else 0, round(share * width * 8))
    return '█' * (eighths // 8) + (_BLOCKS[eighths % 8 - 1] if eighths % 8 else '')
