"""The messages that a graph sends: sizes and rates, as a user gives them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipc_bypass.bench.report import size_text
from ipc_bypass.kernel.errors import BypassError
import yaml

#: Sequence number and time of sending stand at the beginning of each message.
HEADER_BYTES = 16
LARGEST = 64 << 20
FASTEST = 10_000.0
#: More than these at once would take long to measure, and no one would read it.
MOST = 8
#: Depth of ROS 2's default history: so many messages a reader may be behind before it loses one.
HISTORY = 10
_LEAST_BUDGET, _LARGEST_BUDGET = 16 << 20, 256 << 20
_UNITS = {'k': 1 << 10, 'm': 1 << 20}


class MessagesError(BypassError):
    """The messages to measure with cannot be read, or there are none."""


@dataclass(frozen=True)
class Message:
    """
    One kind of message.

    :param size: payload in bytes
    :param rate: in Hz
    :param topic: where it was seen, '' for one that was given
    """

    size: int
    rate: float
    topic: str = ''

    def __str__(self) -> str:
        name = f'{size_text(self.size)} at {self.rate:g} Hz'
        return f'{name} ({self.topic})' if self.topic else name


#: Where a user names none: an image, and a state.
DEFAULT = (Message(1 << 20, 30.0), Message(200, 1000.0))


def message(text: str) -> Message:
    """
    Return the message of 'SIZE@HZ', for example '1M@30' or '200@1000'.

    :raises ArgumentTypeError: for anything else
    """
    size, at, rate = text.partition('@')
    try:
        if not at:
            raise MessagesError(text, 'write SIZE@HZ, such as 1M@30')
        return _checked(size, rate)
    except MessagesError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def load(path: Path) -> tuple[Message, ...]:
    """
    Return the messages of a YAML file: `messages: [{size: 1M, rate: 30}, ...]`.

    :raises MessagesError: naming the file and what is wrong with it
    """
    what = f'read the messages of {path}'
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise MessagesError(what, errno=error.errno or 0) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise MessagesError(what, f'it is no YAML: {error}') from error
    entries = found.get('messages') if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise MessagesError(what, 'it has no list `messages`',
                            next_step='write `messages: [{size: 1M, rate: 30}]`')
    messages = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {'size', 'rate'} <= set(entry) <= {
                'size', 'rate', 'topic'}:
            raise MessagesError(what, f'entry {number} is not size, rate and perhaps topic')
        try:
            messages.append(_checked(entry['size'], entry['rate'], str(entry.get('topic', ''))))
        except MessagesError as error:
            raise MessagesError(what, f'entry {number}: {error}') from None
    return limited(messages)


def budget_bytes(messages: Sequence[Message]) -> int:
    """
    Return the node's `budget_bytes` for these messages: what a reader may have unread.

    The history of the largest, so that a reader which is still within that does not turn its
    connection to the usual way. Never less than the node's default, nor more than its limit.
    """
    wanted = HISTORY * max(message.size for message in messages)
    return min(max(wanted, _LEAST_BUDGET), _LARGEST_BUDGET)


def limited(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages without doubles; raises MessagesError for none or too many."""
    kept = tuple(dict.fromkeys(messages))
    if not 1 <= len(kept) <= MOST:
        raise MessagesError('measure the messages', f'there are {len(kept)}',
                            next_step=f'give 1 to {MOST} of them')
    return kept


def _checked(size: object, rate: object, topic: str = '') -> Message:
    """Return a message within the limits; raises MessagesError."""
    text = str(size).strip()
    factor = _UNITS.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    size_bytes = int(digits) * factor if digits.isascii() and digits.isdigit() else 0
    if not HEADER_BYTES <= size_bytes <= LARGEST:
        raise MessagesError(f"size '{size}'", f'it is not {HEADER_BYTES} to 64M, such as 200, 16k '
                            'or 1M')
    try:
        hertz = float(rate)
    except (TypeError, ValueError):
        hertz = 0.0
    if not 0.1 <= hertz <= FASTEST:
        raise MessagesError(f"rate '{rate}'", f'it is not 0.1 to {FASTEST:g} Hz')
    return Message(size_bytes, hertz, topic)
