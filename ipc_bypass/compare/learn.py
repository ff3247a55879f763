"""The messages of a running graph: sizes and rates of each topic, seen by subscribing to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import importlib
import os
from statistics import median
import time

from ipc_bypass.compare.messages import FASTEST, HEADER_BYTES, LARGEST, Message, MOST
import rclpy
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions

#: Topics of ROS 2 itself, which are not what a graph is for.
_OWN = ('/rosout', '/parameter_events')
_DISCOVERY_SECONDS = 2.0
#: From fewer messages there is no rate.
_FEWEST = 3


@dataclass
class Learned:
    """
    What was seen of a graph.

    :param messages: those that carry the most bytes first, at most messages.MOST
    :param not_learned: a line for each topic without a message, and why
    """

    messages: list[Message] = field(default_factory=list)
    not_learned: list[str] = field(default_factory=list)


@dataclass
class _Seen:
    sizes: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def learn(seconds: float) -> Learned:
    """
    Join the graph of ROS_DOMAIN_ID for some seconds; return what was seen of it.

    Subscriptions are best-effort, which every publisher serves, and take the messages as they
    are on the wire, without reading them.
    """
    seen: dict[str, _Seen] = {}
    learned = Learned()
    # Signals stay this process's: Ctrl-C ends the command as everywhere.
    rclpy.init(args=['ipc-bypass'], signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(f'ipc_bypass_learning_{os.getpid()}', enable_rosout=False,
                                 start_parameter_services=False)
        refused: dict[str, str] = {}
        deadline = time.monotonic() + _DISCOVERY_SECONDS + seconds
        look = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() >= look:
                look = time.monotonic() + 0.5
                _subscribe(node, seen, refused)
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        rclpy.try_shutdown()
    for topic, found in seen.items():
        message = _message(topic, found)
        if isinstance(message, Message):
            learned.messages.append(message)
        else:
            learned.not_learned.append(f'{topic}: {message}')
    learned.not_learned += [f'{topic}: {reason}' for topic, reason in refused.items()]
    learned.messages.sort(key=lambda each: each.size * each.rate, reverse=True)
    learned.not_learned += [f'{each.topic}: {MOST} others carry more'
                            for each in learned.messages[MOST:]]
    del learned.messages[MOST:]
    return learned


def _subscribe(node, seen: dict[str, _Seen], refused: dict[str, str]) -> None:
    """Subscribe to the topics with a publisher that are new."""
    for topic, types in node.get_topic_names_and_types():
        if topic in seen or topic in refused or topic in _OWN:
            continue
        if not node.count_publishers(topic):
            continue
        message_type = _type(types)
        if message_type is None:
            refused[topic] = f'not learned: no Python module of {types[0]} is installed here'
            continue
        found = seen[topic] = _Seen()
        node.create_subscription(message_type, topic, _noting(found), qos_profile_sensor_data,
                                 raw=True)


def _noting(found: _Seen):
    def note(data: bytes) -> None:
        found.sizes.append(len(data))
        found.times.append(time.monotonic())
    return note


def _type(types: Sequence[str]):
    """Return the class of the first of 'package/msg/Name' that is here, None without one."""
    for name in types:
        package, _, rest = name.partition('/')
        folder, _, message = rest.rpartition('/')
        try:
            return getattr(importlib.import_module(f'{package}.{folder or "msg"}'), message)
        except (AttributeError, ImportError):
            continue
    return None


def _message(topic: str, found: _Seen) -> Message | str:
    """Return the message of a topic, or why there is none."""
    if len(found.times) < _FEWEST:
        return f'not learned: {len(found.times)} messages came'
    # By the time between messages: what was lost or came in bursts does not count.
    took = found.times[-1] - found.times[0]
    rate = (len(found.times) - 1) / took if took > 0 else FASTEST
    size = int(median(found.sizes))
    return Message(min(max(size, HEADER_BYTES), LARGEST),
                   float(f'{min(max(rate, 0.1), FASTEST):.3g}'), topic)
