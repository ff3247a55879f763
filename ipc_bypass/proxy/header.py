"""The PROXY protocol, version 2: what tells a backend who the client is (haproxy.org, 2.2)."""

from __future__ import annotations

import socket
import struct

from ipc_bypass.proxy.endpoint import plain_address

_SIGNATURE = b'\r\n\r\n\0\r\nQUIT\n'
_VERSION_AND_PROXY = 0x21
_FORMS = {socket.AF_INET: (0x11, '4s4sHH'), socket.AF_INET6: (0x21, '16s16sHH')}


def proxy_header(client: socket.socket) -> bytes:
    """
    Return the header for an accepted connection: the client's address and the one it asked for.

    :raises OSError: when the connection is gone
    """
    ends = [client.getpeername()[:2], client.getsockname()[:2]]
    hosts = [plain_address(host) for host, _port in ends]
    # Only of one family can both be told: IPv4 is given in its IPv6 form then.
    family = socket.AF_INET if all('.' in host for host in hosts) else socket.AF_INET6
    packed = [_packed(host, family) for host in hosts]
    kind, form = _FORMS[family]
    body = struct.pack(f'>{form}', *packed, ends[0][1], ends[1][1])
    return _SIGNATURE + struct.pack('>BBH', _VERSION_AND_PROXY, kind, len(body)) + body


def _packed(host: str, family: int) -> bytes:
    if family == socket.AF_INET6 and ':' not in host:
        host = f'::ffff:{host}'
    return socket.inet_pton(family, host)
