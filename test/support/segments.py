"""A TCP peer that is made of frames: it sends any segment that a test wants, twice or torn."""

import random
import socket
import struct

from support.namespaces import SERVER

ADDRESS = '10.123.0.77'  # in the network of a bridged pair, and nobody's
_SYN, _RST, _ACK, _PUSH_ACK = 0x02, 0x04, 0x10, 0x18
_ETH_IP = 0x0800


class Segments:
    """
    The client of one connection to a server of a bridged pair, in frames of the client's space.

    `connect` shakes hands; `send(offset, data)` sends one segment whose first byte is at an
    offset of the stream; nothing is sent by itself, and answers are not read.
    """

    def __init__(self, pair, port):
        """Open a packet socket; `pair` is (server's, client's) Namespace."""
        server, client = pair
        self._raw, ours = _packet_socket(client)
        other, theirs = _packet_socket(server)
        other.close()
        self._head = theirs + ours + struct.pack('!H', _ETH_IP)
        server.ip('neighbour', 'replace', ADDRESS, 'lladdr', ours.hex(':'), 'dev', 'eth0')
        self._ports = random.randrange(40_000, 60_000), port
        self._first, self._acknowledged = random.randrange(1 << 32), 0

    def connect(self):
        """Shake hands; the server's listener has to be there."""
        self._send(self._first, _SYN)
        while True:
            frame = self._raw.recv(2048)
            if frame[23] == socket.IPPROTO_TCP and frame[47] & (_SYN | _ACK) == _SYN | _ACK \
                    and struct.unpack_from('!H', frame, 36)[0] == self._ports[0]:
                break
        self._acknowledged = struct.unpack_from('!I', frame, 38)[0] + 1
        self._send(self._first + 1, _ACK)

    def send(self, offset, data):
        """Send one segment of the stream."""
        self._send(self._first + 1 + offset, _PUSH_ACK, data)

    def reset(self, offset):
        """End the connection: RST with the next byte's number."""
        self._send(self._first + 1 + offset, _RST)
        self._raw.close()

    def _send(self, sequence, flags, data=b''):
        addresses = socket.inet_aton(ADDRESS) + socket.inet_aton(SERVER)
        tcp = struct.pack('!HHIIBBHHH', *self._ports, sequence % (1 << 32),
                          self._acknowledged % (1 << 32), 5 << 4, flags, 65_535, 0, 0) + data
        pseudo = addresses + struct.pack('!HH', socket.IPPROTO_TCP, len(tcp))
        tcp = tcp[:16] + _checksum(pseudo + tcp) + tcp[18:]
        ip = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(tcp), 1, 0, 64, socket.IPPROTO_TCP,
                         0) + addresses
        ip = ip[:10] + _checksum(ip) + ip[12:]
        self._raw.send(self._head + ip + tcp)


def _packet_socket(space):
    """Return a packet socket on eth0 of a namespace, and the address of that interface."""
    with space.entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_IP))
        raw.bind(('eth0', 0))
    raw.settimeout(5)
    return raw, raw.getsockname()[4]


def _checksum(data):
    """Return the Internet checksum (RFC 1071) of bytes, as two bytes."""
    words = struct.unpack(f'!{(len(data) + 1) // 2}H', data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack('!H', ~total & 0xffff)
