"""The ends of a pair as sessions of zenoh, with the configuration that ZENOH_CONFIG names."""

from __future__ import annotations

from collections.abc import Callable
import json
import os

import zenoh

#: Of scouting, by zenoh's own default.
_FIRST_PORT = 7446


class Session:
    """A session; a context manager."""

    def __init__(self, _end: str) -> None:
        config = zenoh.Config.from_env() if 'ZENOH_CONFIG' in os.environ else zenoh.Config()
        # zenoh has no domains: the pairs of two ways would find each other, and share a topic.
        group = f'224.0.0.224:{_FIRST_PORT + int(os.environ.get("ROS_DOMAIN_ID", 0))}'
        config.insert_json5('scouting/multicast/address', json.dumps(group))
        self._session = zenoh.open(config)
        self._publishers, self._subscribers = [], []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exception) -> None:
        self._session.close()

    def publisher(self, name: str) -> Callable[[bytearray], None]:
        """Return what sends a message on a key; like ROS 2's, it waits where there is no room."""
        publisher = self._session.declare_publisher(
            name, congestion_control=zenoh.CongestionControl.BLOCK)
        self._publishers.append(publisher)
        return lambda data: publisher.put(bytes(data))

    def subscribe(self, name: str, callback: Callable[[bytes], None]) -> None:
        """Have each message of a key given to `callback`."""
        self._subscribers.append(self._session.declare_subscriber(
            name, lambda sample: callback(sample.payload.to_bytes())))

    def matched(self) -> bool:
        """Return whether each publisher has its other end."""
        return all(each.matching_status.matching for each in self._publishers)

    @staticmethod
    def payload(size: int) -> bytearray:
        """Return a message of `size` bytes."""
        return bytearray(size)

    @staticmethod
    def buffer(message: bytes) -> bytes:
        """Return the data of a message."""
        return message
