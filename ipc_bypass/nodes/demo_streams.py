"""
The streams of messages of the demo graph: what a robot sends, in sizes and rates.

Each message says which one it is, when it was sent and, spread over its content, its number, so
that a listener finds what is lost, late, out of order or damaged without reading all of it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
import time

from ipc_bypass.kernel.errors import BypassError
import numpy as np
from sensor_msgs.msg import Image, JointState, PointCloud2, PointField

#: Words of 8 bytes between two marks: every fragment of 64 KB has some of them.
_STRIDE = 16384 // 8
#: The first mark's word. In a point of 32 bytes that is padding, so that the cloud stays valid.
_FIRST = 3
_POINT_BYTES = 32
_JOINTS = 12


class DemoError(BypassError):
    """The demo graph has no such stream."""


@dataclass(frozen=True)
class Identity:
    """
    What a message says of itself.

    :param session: of the talker: one that is started again begins another one
    :param sequence: number of the message in its session, from 0
    :param total: how many the session has, 0 as long as that is open
    :param sent_ns: CLOCK_MONOTONIC, which all processes of a host share, in nanoseconds
    """

    session: str
    sequence: int
    total: int
    sent_ns: int


class Stream:
    """
    One topic of the demo graph.

    :param name: as users give it; also the topic's, below `demo/`
    :param rate_hz: messages a second
    :param message_type: class of its messages
    :param size: bytes of the content
    """

    def __init__(self, name: str, rate_hz: float, message_type: type, size: int) -> None:
        self.name, self.rate_hz, self.message_type, self.size = name, rate_hz, message_type, size

    @property
    def topic(self) -> str:
        """Return the name of the topic, relative."""
        return f'demo/{self.name}'

    def message(self):
        """Return a new message, without a number."""
        raise NotImplementedError

    def mark(self, message, session: str, sequence: int, total: int) -> None:
        """Write a number into a message, all over it, and the time last."""
        self._write(message, sequence)
        message.header.frame_id = f'{session} {sequence} {total}'
        now = time.monotonic_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)

    def identity(self, message) -> Identity | None:
        """Return what a message says of itself, None where it is not from a demo talker."""
        try:
            session, sequence, total = message.header.frame_id.split(' ')
            stamp = message.header.stamp
            return Identity(session, int(sequence), int(total), stamp.sec * 10**9 + stamp.nanosec)
        except ValueError:
            return None

    def intact(self, message, sequence: int) -> bool:
        """Return whether all of the content that is looked at is that of this number."""
        raise NotImplementedError

    def _write(self, message, sequence: int) -> None:
        raise NotImplementedError


class BytesStream(Stream):
    """A stream whose content is the bytes `data`: a mark of 8 bytes each 16 KB and at the end."""

    def _write(self, message, sequence):
        words = _words(message)
        marked = words[_FIRST::_STRIDE]
        marked[:] = _marks(len(marked), sequence)
        words[-1] = sequence

    def intact(self, message, sequence):
        """Return whether size and marks are right."""
        if len(message.data) != self.size:
            return False
        words = _words(message)
        marked = words[_FIRST::_STRIDE]
        return bool(words[-1] == sequence
                    and np.array_equal(marked, _marks(len(marked), sequence)))


class CameraStream(BytesStream):
    """Raw colour images."""

    def __init__(self, name, rate_hz, width, height):
        super().__init__(name, rate_hz, Image, 3 * width * height)
        self._width, self._height = width, height

    def message(self):
        """Return an Image, rgb8."""
        return Image(width=self._width, height=self._height, encoding='rgb8',
                     step=3 * self._width, data=array('B', bytes(self.size)))


class PointCloudStream(BytesStream):
    """Points with an intensity, in the layout of PCL's PointXYZI: 32 bytes each."""

    def __init__(self, name, rate_hz, points):
        super().__init__(name, rate_hz, PointCloud2, points * _POINT_BYTES)
        self._points = points

    def message(self):
        """Return a PointCloud2 of one row."""
        fields = [PointField(name=name, offset=offset, datatype=PointField.FLOAT32, count=1)
                  for name, offset in (('x', 0), ('y', 4), ('z', 8), ('intensity', 16))]
        return PointCloud2(height=1, width=self._points, fields=fields, point_step=_POINT_BYTES,
                           row_step=self.size, is_dense=True, data=array('B', bytes(self.size)))


class StateStream(Stream):
    """Positions of joints: small, and often."""

    def __init__(self, name, rate_hz):
        super().__init__(name, rate_hz, JointState, 8 * _JOINTS)
        self._names = [f'joint_{number}' for number in range(_JOINTS)]

    def message(self):
        """Return a JointState."""
        return JointState(name=self._names, position=array('d', [0.0] * _JOINTS))

    def _write(self, message, sequence):
        message.position = array('d', range(sequence, sequence + _JOINTS))

    def intact(self, message, sequence):
        """Return whether every position is right."""
        return message.position == array('d', range(sequence, sequence + _JOINTS))


STREAMS = {stream.name: stream for stream in (
    CameraStream('camera', 30.0, 720, 480),             # 1.04 MB
    CameraStream('camera_6mb', 30.0, 1920, 1080),       # 6.2 MB
    PointCloudStream('point_cloud', 10.0, 65536),       # 2.1 MB
    StateStream('state', 1000.0))}


def stream_named(name: str) -> Stream:
    """Return a stream by its name; raises DemoError."""
    if name not in STREAMS:
        raise DemoError(f"use stream '{name}'", 'the demo graph has no such stream',
                        next_step=f"use one of {', '.join(STREAMS)}")
    return STREAMS[name]


def _words(message) -> np.ndarray:
    """Return the content as whole words of 8 bytes, without a copy."""
    data = message.data
    return np.frombuffer(data, np.uint64, len(data) // 8)


def _marks(count: int, sequence: int) -> np.ndarray:
    """Return what the marks of a message are: their place and the message's number."""
    return (np.arange(count, dtype=np.uint64) << np.uint64(40)) + np.uint64(sequence)
