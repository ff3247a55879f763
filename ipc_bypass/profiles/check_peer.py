"""
One end of a check: a process that sends numbered messages, or that receives them.

`python3 -m ipc_bypass.profiles.check_peer talker|listener KIND TOPIC FIRST-LAST`. It prints one
line of JSON: how it heard of the other end, what came, and by which TCP ports.
"""

from __future__ import annotations

import array
from collections.abc import Callable
import json
import os
from pathlib import Path
import sys
import time

from ipc_bypass.profiles.sockets import established_ports, listening_ports

MESSAGES = 20
#: More than one fragment of any DDS.
BYTES = 200_000
#: Seconds to find the other end, and to exchange the messages after that.
DISCOVERY, EXCHANGE = 15.0, 10.0
_PERIOD = 0.05


def main(words: list[str]) -> int:
    """Run one end and print what it saw; return 0."""
    role, kind, topic, span = words
    first, _, last = span.partition('-')
    ports = range(int(first), int(last) + 1)
    end = (Zenoh if kind == 'zenoh' and not has_rmw('rmw_zenoh_cpp') else Ros)(topic, role)
    begin = time.monotonic()
    while not end.matched() and time.monotonic() - begin < DISCOVERY:
        end.wait(_PERIOD)
    seen = {'role': role, 'pid': os.getpid(), 'rmw': end.name, 'matched': end.matched(),
            'seconds': round(time.monotonic() - begin, 2)}
    used: set[int] = set()
    if seen['matched']:
        # While both ends are there: the first one to go takes the connection with it.
        _exchange(end, role, lambda: used.update(established_ports(os.getpid(), ports)))
    seen.update(received=end.numbers, wrong=end.wrong, established=sorted(used),
                listening=listening_ports(os.getpid(), ports))
    print(json.dumps(seen), flush=True)
    # Not by way of the middleware's own end, which may wait for ever for the other one.
    os._exit(0)


def _exchange(end, role: str, look: Callable[[], None]) -> None:
    deadline = time.monotonic() + EXCHANGE
    number = 0
    while time.monotonic() < deadline:
        if role == 'talker':
            # It goes on after the last one: the first ones may be too early for the other end.
            end.send(number % MESSAGES)
            number += 1
            if number >= 3 * MESSAGES:
                return
        elif len(set(end.numbers)) >= MESSAGES:
            return
        end.wait(_PERIOD)
        look()


class Ros:
    """An end by rclpy, of whatever RMW_IMPLEMENTATION says."""

    def __init__(self, topic: str, role: str) -> None:
        import rclpy
        from rclpy.utilities import get_rmw_implementation_identifier
        from std_msgs.msg import UInt8MultiArray
        rclpy.init(args=[])
        self._rclpy, self._message = rclpy, UInt8MultiArray
        self.name = get_rmw_implementation_identifier()
        self.numbers: list[int] = []
        self.wrong = 0
        self._node = rclpy.create_node(f'ipc_bypass_check_{os.getpid()}', enable_rosout=False,
                                       start_parameter_services=False)
        self._topic = topic
        if role == 'talker':
            self._publisher = self._node.create_publisher(UInt8MultiArray, topic, MESSAGES)
            self._count = self._publisher.get_subscription_count
        else:
            self._subscription = self._node.create_subscription(
                UInt8MultiArray, topic, lambda message: take(self, message.data), MESSAGES)
            self._count = self._subscription.get_publisher_count

    def matched(self) -> bool:
        """Return whether the other end is known."""
        return self._count() > 0

    def send(self, number: int) -> None:
        """Publish one message."""
        self._publisher.publish(self._message(data=array.array('B', content(number))))

    def wait(self, seconds: float) -> None:
        """Handle what comes for about so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._rclpy.spin_once(self._node, timeout_sec=max(0.0, end - time.monotonic()))


class Zenoh:
    """An end by zenoh itself, where rmw_zenoh is not installed."""

    def __init__(self, topic: str, role: str) -> None:
        import zenoh
        self.name = 'zenoh'
        self.numbers: list[int] = []
        self.wrong = 0
        self._session = zenoh.open(zenoh.Config.from_env())
        self._sent, self._peers = role == 'talker', self._session.info
        if self._sent:
            self._publisher = self._session.declare_publisher(
                topic, congestion_control=zenoh.CongestionControl.BLOCK)
        else:
            self._subscriber = self._session.declare_subscriber(
                topic, lambda sample: take(self, sample.payload.to_bytes()))

    def matched(self) -> bool:
        """Return whether the other end is known."""
        if self._sent:
            return bool(self._publisher.matching_status.matching)
        return bool(list(self._peers.peers_zid()) + list(self._peers.routers_zid()))

    def send(self, number: int) -> None:
        """Put one message."""
        self._publisher.put(content(number))

    def wait(self, seconds: float) -> None:
        """Let messages come for so long, on zenoh's own threads."""
        time.sleep(seconds)


def content(number: int) -> bytes:
    """Return the bytes of a message."""
    return bytes((number,)) * BYTES


def take(end, data) -> None:
    """Note a message that came to an end; only the first round counts."""
    number = data[0] if len(data) else 255
    if len(data) != BYTES or bytes(data) != content(number):
        end.wrong += 1
    elif len(end.numbers) < MESSAGES:
        end.numbers.append(number)


def has_rmw(name: str) -> bool:
    """Return whether an RMW is installed in a prefix of this shell."""
    return any(Path(prefix, 'share/ament_index/resource_index/rmw_typesupport', name).is_file()
               for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
