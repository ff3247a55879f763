"""`ipc-bypass proxy run`: forwards without any node."""

from contextlib import contextmanager
import signal
import subprocess
import sys
import urllib.request

import pytest
from support.capability import need_capabilities
from support.streams import connect, echoing, listening, read_exactly
from support.waiting import PATIENCE, wait_until

COMMAND = (sys.executable, '-m', 'ipc_bypass.cli.main', 'proxy', 'run')


@contextmanager
def running(*words):
    """Yield (process, function that returns its lines so far), once it is ready."""
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True) as process:
        lines = []
        try:
            while 'ready\n' not in lines:
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            yield process, lines
        finally:
            process.kill()


@pytest.mark.parametrize('kernel_path, number, says', [
    ('never', signal.SIGTERM, 'shortcut: no: forbidden by parameter kernel_path\n'),
    ('required', signal.SIGINT, 'sk_skb: ')])
def test_run(ports, kernel_path, number, says):
    """It forwards until a signal, says what it does, and ends with 0."""
    if kernel_path != 'never':
        need_capabilities()
    port, metrics = next(ports), next(ports)
    with echoing() as backend:
        text = f'127.0.0.1:{port} -> 127.0.0.1:{backend}'
        with running(text, f'[::1]:{port} -> 127.0.0.1:{backend} path=splice', '--kernel-path',
                     kernel_path, '--metrics-port', str(metrics)) as (process, lines):
            assert f'forward 1: {text}\n' in lines
            assert f'forward 2: [::1]:{port} -> 127.0.0.1:{backend} path=splice\n' in lines
            assert any(line.startswith(says) for line in lines), lines
            with connect(port) as four, connect(port, '::1') as six:
                for sock in four, six:
                    for size in 10, 100, 100_000:
                        sock.sendall(bytes(size))
                        assert read_exactly(sock, size) == bytes(size)
                with urllib.request.urlopen(f'http://127.0.0.1:{metrics}/metrics',
                                            timeout=PATIENCE) as answer:
                    text = answer.read().decode()
                path = 'shortcut' if kernel_path == 'required' else 'splice'
                for place, shown in ((f'127.0.0.1:{port}', path), (f'[::1]:{port}', 'splice')):
                    assert f'listen="{place}",path="{shown}"}} 1.0' in text
                process.send_signal(number)
                assert process.wait(PATIENCE) == 0
                for sock in four, six:
                    assert sock.recv(1) == b''
            assert 'Traceback' not in process.stderr.read()
        with pytest.raises(ConnectionRefusedError):
            connect(port)


def test_backend_comes_and_goes(ports):
    """A line tells each time."""
    port, backend = next(ports), next(ports)
    with running(f':{port} -> 127.0.0.1:{backend}', '--kernel-path', 'never') as (process, _lines):
        assert process.stderr.readline() == (
            f'127.0.0.1:{backend} does not accept connections: refused: Connection refused\n')
        with echoing(port=backend):
            def answered():
                try:
                    with connect(port) as sock:
                        sock.sendall(b'x')
                        return sock.recv(1) == b'x'
                except ConnectionResetError:
                    return False
            wait_until(answered, 'the backend answers')
        assert process.stderr.readline() == f'127.0.0.1:{backend} accepts connections\n'
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def refused(*words):
    """Return the one line with which it ends at once."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 1, done.stderr
    line, = done.stderr.splitlines()
    return line


@pytest.mark.parametrize('words, says', [
    (('nonsense',), "ipc-bypass: read the forward 'nonsense': it is not of the form"),
    ((':1 -> there-is-none.invalid:9', '--kernel-path', 'never'),
     "look up 'there-is-none.invalid'")], ids=str)
def test_refused(words, says):
    assert says in refused(*words)


def test_port_in_use(ports):
    """The second of two: the first is free again."""
    first, second = next(ports), next(ports)
    with listening(port=second):
        for metrics in (), ('--metrics-port', str(second)):
            words = [f'127.0.0.1:{first} -> 127.0.0.1:9', *metrics, '--kernel-path', 'never']
            if not metrics:
                words.insert(1, f'127.0.0.1:{second} -> 127.0.0.1:9')
            assert 'Address already in use; ' in refused(*words)
    listening(port=first).close()
