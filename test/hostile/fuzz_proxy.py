"""Clients of the proxy that send PROXY headers of their own, halves of them, and anything."""

import atexit
import ipaddress
import socket
import struct

from ipc_bypass.proxy.choice import Ways
from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.engine import Engine
from ipc_bypass.proxy.forward import Forward
from mutations import Values

#: One of these inputs takes as long as so many of the others.
COST = 6
_SIGNATURE = b'\r\n\r\n\0\r\nQUIT\n'
_PATIENCE = 10


def _listening(family, address):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 0))
    sock.listen(16)
    sock.settimeout(_PATIENCE)
    return sock


_engine = Engine(Ways(), health_interval_s=0.0)
_backends = {4: _listening(socket.AF_INET, '127.0.0.1'), 6: _listening(socket.AF_INET6, '::1')}


def _forward(family, told):
    port = _listening(socket.AF_INET6, '::')
    number = port.getsockname()[1]
    port.close()
    backend = Endpoint('127.0.0.1' if family == 4 else '::1', _backends[family].getsockname()[1])
    _engine.add(Forward(Endpoint('::', number), backend, path='splice', proxy_protocol=told))
    return number


_ports = {(family, told): _forward(family, told) for family in (4, 6) for told in (False, True)}
_engine.start()


@atexit.register
def _end():
    _engine.close()
    for backend in _backends.values():
        backend.close()


def seeds():
    """Yield conversations: where it goes, from where, and what the client says."""
    two = _SIGNATURE + struct.pack('>BBH4s4sHH', 0x21, 0x11, 12, bytes(4), bytes(4), 1, 2)
    for said in (b'', b'PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /', b'PROXY UNKNOWN\r\n', two,
                 two + b'x' * 900, two[:9], _SIGNATURE + b'\x20\0\0\0',
                 b'PROXY TCP6 ' + b'f' * 200):
        for where in range(4):
            yield bytes((where, 1, 2, 3, 40)) + said


def one(data):
    """Hold one: the backend gets one header of ours at most, and every byte as it was."""
    values = Values(data)
    family, told = ((4, False), (4, True), (6, False), (6, True))[values.number() & 3]
    source, cut = f'127.{values.number()}.{values.number()}.{1 + values.number() % 254}', \
        values.number()
    said = values.rest()
    port = _ports[family, told]
    with socket.socket(socket.AF_INET if cut & 1 else socket.AF_INET6) as client:
        client.settimeout(_PATIENCE)
        if cut & 1:
            client.bind((source, 0))
        client.connect(('127.0.0.1' if cut & 1 else '::1', port))
        name = client.getsockname()[:2]
        with _backends[family].accept()[0] as there:
            there.settimeout(_PATIENCE)
            for part in (said[:cut], said[cut:]):
                client.sendall(part)
            client.shutdown(socket.SHUT_WR)
            got = _all(there)
            if told:
                ends, got = header(got)
                assert ends == (name, ('127.0.0.1' if cut & 1 else '::1', port)), (ends, name)
            assert got == said
            there.sendall(said[::-1])
        assert _all(client) == said[::-1]


def header(data):
    """Return (((source, port), (destination, port)), what follows) of a version 2 header."""
    assert data[:12] == _SIGNATURE and data[12] == 0x21, data[:16]
    length, = struct.unpack_from('>H', data, 14)
    size = {0x11: 4, 0x21: 16}[data[13]]
    assert length == 2 * size + 4
    source, destination = (str(ipaddress.ip_address(data[at:at + size]))
                           for at in (16, 16 + size))
    ports = struct.unpack_from('>HH', data, 16 + 2 * size)
    return ((source, ports[0]), (destination, ports[1])), data[16 + length:]


def _all(sock):
    found = b''
    while part := sock.recv(1 << 16):
        found += part
    return found
