"""Requests at the control socket: no JSON, half of it, values of every kind, descriptors."""

import array
import atexit
import json
import os
from pathlib import Path
import socket
import tempfile

from ipc_bypass.pool.channel import Client, receive, VERSION
from ipc_bypass.rules.table import Rule
from mutations import Values
from support.file_pool import FilePool

LONGEST = 2048
_OPS = ('open', 'maps', 'lease', 'revoked', 'exempt', 'counters', 'close', '', None, 5, [1], {})
_ODD = (None, True, -1, 0, 1 << 70, 1e400, -0.5, '', '\ud800', 'a\0b', [], [[]], {}, {'a': 1},
        'udp:7400', ['udp:7400-7500:divert'], ['10.9.0.0/16'], ['::/0'], 'x' * 300)
_KEYS = ('version', 'name', 'rules', 'claims', 'observe', 'fallback', 'ring', 'generation')
_SOUND = {'version': VERSION, 'name': 'fuzz', 'rules': [], 'claims': [], 'observe': False,
          'ring': 0, 'generation': 1}

_folder = tempfile.TemporaryDirectory(prefix='ipc_bypass_fuzz_')
_pool = FilePool(Path(_folder.name))
_pool._leases.set_rules([Rule('udp', 7400, 7500, 'divert', 1), Rule('udp', 1, 99, 'mirror', 2)])
_null = os.open('/dev/null', os.O_RDONLY | os.O_CLOEXEC)
_state = {'tried': 0}


@atexit.register
def _close():
    _pool.close()
    os.close(_null)
    _folder.cleanup()


def seeds():
    """Yield conversations."""
    yield bytes((1, 0, 0, 0, 1, 2, 0, 0, 1, 1, 0, 0))
    yield bytes((1, 0, 0, 1, 1, 0, 2, 0, 1, 3, 0, 0, 1, 4, 0, 3))
    yield bytes((1, 0, 3, 5, 15, 6, 0, 1, 2, 0, 0, 1, 2, 0, 0, 1, 3, 0, 0))
    for text in (b'{"op": "open"', b'[]', b'{"op": "open", "version": 1}', b'\xff\xfe',
                 b'[' * 500, b'{"op": {"a": []}}', b'{"op": "lease"}', b'12345678901234567890'):
        yield bytes((0, 2, min(len(text), 255))) + text


def one(data):
    """Say it all on one connection; the server answers each or ends it, and serves others."""
    values, server = Values(data), _pool.server
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10)
        sock.connect(_pool.socket)
        for _ in range(8):
            if not len(values) or not _say(sock, values):
                break
    _state['tried'] += 1
    if not _state['tried'] % 64:
        honest = Client(_pool.socket, 10)
        answer, _ = honest.ask(op='open', **{**_SOUND, 'observe': True})
        assert answer['backing'] == 'file'
        honest.close()
        assert len(os.listdir('/proc/self/fd')) < 400
    assert not server.problems, server.problems


def _say(sock, values):
    """Send one request and look at the answer; return whether the connection goes on."""
    if values.number() & 1:
        message = _request(values)
    else:
        descriptors = values.number() % 4
        message = values.take(values.number())
        return bool(message) and _exchange(sock, message, descriptors)
    return _exchange(sock, message, values.number() % 4)


def _request(values):
    op = values.choice(_OPS)
    message = {'op': op, **_SOUND}
    for _ in range(values.number() % 4):
        message[values.choice(_KEYS)] = values.choice(_ODD)
    return json.dumps(message).encode()


def _exchange(sock, message, descriptors):
    handed = array.array('i', [_null] * descriptors)
    try:
        sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)] if handed else [])
        answer, found = receive(sock)
    except (ConnectionResetError, BrokenPipeError):
        return False
    for fd in found:
        os.close(fd)
    if answer is None:
        return False
    assert isinstance(answer['ok'], bool) and (answer['ok'] or answer['error'])
    json.dumps(answer)
    return True
