"""Netlink by hand: requests to the kernel with its own words on a refusal; no library needed."""

from __future__ import annotations

from collections.abc import Iterator
import errno
import os
import socket
import struct

# uapi/linux/netlink.h
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_REQUEST, _ACK, _DUMP, _INTERRUPTED = 1, 4, 0x300, 0x10
_ERROR, _DONE = 2, 3
_ACK_TLVS, _ERROR_MESSAGE = 0x200, 1
_HEADER = struct.Struct('=IHHII')  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct('=HH')  # length, type
_NUMBER = struct.Struct('=i')
_LARGEST_ERROR = 4095  # MAX_ERRNO of linux/err.h
_TYPE_MASK = 0x3fff
_NESTED = 0x8000
# The kernel's largest message of a dump is 32 KiB.
_ROOM = 1 << 16
# How often a dump is asked for that changes while the kernel writes it.
_DUMPS = 5


class NetlinkError(OSError):
    """The kernel refused a request; `said` are its own words, '' where it gave none."""

    def __init__(self, number: int, said: str) -> None:
        super().__init__(number, said or os.strerror(number))
        self.said = said


class NetlinkSocket:
    """
    A netlink socket of the namespace in which the calling thread is; for one thread at a time.

    :param protocol: socket.NETLINK_ROUTE, or another family's number
    :raises OSError: when it cannot be made
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                     protocol)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def ask(self, kind: int, body: bytes, *, dump: bool = False) -> list[bytes]:
        """
        Send a request and return the bodies of what the kernel answers.

        :param kind: the message's type, for example RTM_GETLINK
        :param body: what follows the netlink header
        :param dump: ask for everything of that kind
        :raises NetlinkError: when the kernel refuses; EINTR when what a dump tells of changed
            each time while it was written, so that something may be missing or twice in it
        """
        for _ in range(_DUMPS):
            answers, whole = self._ask(kind, body, dump)
            if whole:
                return answers
        raise NetlinkError(errno.EINTR, f'it changed in {_DUMPS} dumps, one after the other')

    def _ask(self, kind: int, body: bytes, dump: bool) -> tuple[list[bytes], bool]:
        """Send a request once; return the answers, and whether nothing changed meanwhile."""
        self._sequence += 1
        flags = _REQUEST | (_DUMP if dump else _ACK)
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
                          + body)
        answers, whole = [], True
        while True:
            for number, flags, sequence, content in messages(self._socket.recv(_ROOM)):
                if sequence != self._sequence:
                    continue  # an answer that an interrupted request left
                whole = whole and not (dump and flags & _INTERRUPTED)
                if number == _DONE:
                    return answers, whole
                if number == _ERROR:
                    _raise_refusal(flags, content)
                    return answers, whole
                answers.append(content)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        """Return itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the socket."""
        self.close()


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """
    Yield (type, flags, sequence, body) of the messages in what was received.

    :raises NetlinkError: EBADMSG where one is longer than what is there, or shorter than its head
    """
    at = 0
    while at + _HEADER.size <= len(data):
        length, number, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise _cut_off()
        yield number, flags, sequence, data[at + _HEADER.size:at + length]
        at += length + 3 & ~3


def head(form: struct.Struct, body: bytes) -> tuple:
    """Return what stands at the beginning of a message's body; raises NetlinkError EBADMSG."""
    if len(body) < form.size:
        raise _cut_off()
    return form.unpack_from(body)


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the attributes that begin at an offset, by type; of several alike the last one."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size:offset + length]
        offset += length + 3 & ~3
    return found


def attribute(kind: int, value: bytes | int) -> bytes:
    """Return an attribute as bytes; an int is written as 32 bits."""
    if isinstance(value, int):
        value = struct.pack('=i' if value < 0 else '=I', value)
    head = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind)
    return head + value + bytes(-len(value) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | _NESTED, b''.join(parts))


def text_of(value: bytes | None) -> str:
    """Return the text of an attribute, '' for None."""
    return (value or b'').split(b'\0', 1)[0].decode('utf-8', 'surrogateescape')


def number_of(value: bytes | None, default: int = 0) -> int:
    """Return the unsigned number of an attribute of any size, the default for None."""
    return default if value is None else int.from_bytes(value, _ORDER)


_ORDER = 'little' if struct.pack('=H', 1)[0] else 'big'


def _cut_off() -> NetlinkError:
    return NetlinkError(errno.EBADMSG, 'a message of netlink is cut off')


def _raise_refusal(flags: int, content: bytes) -> None:
    """Raise NetlinkError for an error message; return for one that only acknowledges."""
    number, = head(_NUMBER, content)
    if not -_LARGEST_ERROR <= number <= 0:
        raise NetlinkError(errno.EBADMSG, f'netlink answers with the error {number}')
    if number:
        # struct nlmsgerr: the number, the header of the request, then the kernel's words.
        said = attributes(content, 4 + _HEADER.size) if flags & _ACK_TLVS else {}
        raise NetlinkError(-number, text_of(said.get(_ERROR_MESSAGE)))
