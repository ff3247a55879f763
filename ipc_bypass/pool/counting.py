"""Count by names that consumers choose."""

from __future__ import annotations

from collections import Counter

#: Names of one counter; what comes after them is counted as OTHERS.
MOST_NAMES = 64
OTHERS = 'others'


def count(counter: Counter[str], name: str, number: int = 1) -> None:
    """Add to what is counted under a name; a consumer that goes by ever new ones adds no more."""
    if name not in counter and len(counter) >= MOST_NAMES:
        name = OTHERS
    counter[name] += number
