"""Real clients and servers through the proxy, on every way."""

import asyncio
from contextlib import ExitStack
import hashlib
import json
import os
import socket
import struct
import subprocess
import threading

from proxy_tools import connect, listening, PATHS
import pytest
from support.programs import digest_of, program
from support.waiting import PATIENCE, wait_until
import websockets

each_path = pytest.mark.parametrize('path', PATHS)
_GIGABYTE = 1 << 30
_BLOCK = 1 << 20


@pytest.fixture
def running():
    """Return a function that starts a process, which is ended after the test."""
    with ExitStack() as stack:
        def start(*command, **options):
            process = stack.enter_context(subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options))
            stack.callback(process.kill)
            return process
        yield start


def run(*command, timeout=4 * PATIENCE, **options):
    """Run a client to its end and return what it printed; fails with what it said."""
    done = subprocess.run([str(word) for word in command], timeout=timeout, text=True,
                          capture_output=True, **options)
    assert not done.returncode, f'{command[0]}: {done.stdout}{done.stderr}'
    return done.stdout


def until_it_listens(port):
    """Wait until something listens on a port."""
    def there():
        try:
            connect(port).close()
        except OSError:
            return False
        return True
    wait_until(there, f'port {port} listens')


def serve_gigabyte(listener, ended):
    """Answer one HTTP request with a gigabyte whose every block is another; return its hash."""
    block, content = bytearray(os.urandom(_BLOCK)), hashlib.blake2b(digest_size=16)
    sock, _address = listener.accept()
    with sock:
        sock.settimeout(PATIENCE)
        while not sock.recv(1 << 16).endswith(b'\r\n\r\n'):
            pass
        sock.sendall(b'HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n' % _GIGABYTE)
        for number in range(_GIGABYTE // _BLOCK):
            struct.pack_into('=Q', block, 0, number)
            content.update(block)
            sock.sendall(block)
    ended.append(content.hexdigest())


@each_path
def test_curl(forward, path):
    """A gigabyte, by its hash."""
    with listening() as backend:
        port, ours = forward(backend.getsockname()[1], path=path)
        ended = []
        thread = threading.Thread(target=serve_gigabyte, args=(backend, ended), daemon=True)
        thread.start()
        with subprocess.Popen(['curl', '-sS', '--noproxy', '*', f'http://127.0.0.1:{port}/'],
                              stdout=subprocess.PIPE) as curl:
            digest, size = digest_of(curl.stdout)
        thread.join(PATIENCE)
        assert (curl.returncode, size, [digest]) == (0, _GIGABYTE, ended)
        wait_until(lambda: ours.counters['bytes_back'] > _GIGABYTE, 'the bytes are counted')


@each_path
def test_redis(forward, running, ports, tmp_path, path):
    server = program('redis-server', 'redis-server')
    target = next(ports)
    running(server.path, '--port', target, '--bind', '127.0.0.1', '--save', '',
            '--dir', tmp_path, env=server.environment)
    until_it_listens(target)
    port, ours = forward(target, path=path)
    client = program('redis-benchmark', 'redis-tools')
    out = run(client.path, '-h', '127.0.0.1', '-p', port, '-n', 20_000, '-c', 50, '-d', 1024,
              '-t', 'set,get,lrange_100', '--csv', env=client.environment)
    assert {line.split(',')[0].strip('"').split()[0] for line in out.splitlines()[1:]} >= {
        'SET', 'GET'}
    wait_until(lambda: not ours.connections, 'all have ended')


@each_path
def test_wrk(forward, running, ports, tmp_path, path):
    """Many keep-alive connections to nginx: no socket error, no answer but 200."""
    server = program('nginx', 'nginx-light')
    target = next(ports)
    (tmp_path / 'page').write_bytes(os.urandom(5000))
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'nginx.conf').write_text(f"""
daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;
  fastcgi_temp_path {tmp_path}/fastcgi; uwsgi_temp_path {tmp_path}/uwsgi;
  scgi_temp_path {tmp_path}/scgi;
  server {{ listen 127.0.0.1:{target}; root {tmp_path}; }} }}
""")
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.name.startswith('pytest-'):
            folder.chmod(0o755)
    running(server.path, '-p', tmp_path, '-c', tmp_path / 'nginx.conf', '-g', 'user root;',
            env=server.environment)
    until_it_listens(target)
    port, ours = forward(target, path=path)
    out = run('wrk', '-t', 1, '-c', 50, '-d', '2s', f'http://127.0.0.1:{port}/page')
    assert 'requests in' in out and 'Socket errors' not in out and 'Non-2xx' not in out
    wait_until(lambda: not ours.connections, 'all have ended')


@each_path
@pytest.mark.parametrize('options', [(), ('-R',), ('-P', '4', '--bidir')])
def test_iperf3(forward, running, ports, path, options):
    target = next(ports)
    running('iperf3', '-s', '-p', target, '-B', '127.0.0.1')
    until_it_listens(target)
    port, _ours = forward(target, path=path)
    out = json.loads(run('iperf3', '-c', '127.0.0.1', '-p', port, '-J', '-n', '200M', *options))
    assert 'error' not in out
    sent, received = (out['end'][name]['bytes'] for name in ('sum_sent', 'sum_received'))
    assert 0 < received <= sent
    assert sent >= 200 << 20 or '--bidir' in options  # there it is the sum of both ways


@each_path
def test_socat(forward, running, ports, path):
    """A server that answers at the end of what it reads: the half-close gets through."""
    target = next(ports)
    running('socat', f'TCP-LISTEN:{target},bind=127.0.0.1,fork,reuseaddr', 'EXEC:sha256sum')
    until_it_listens(target)
    port, _ours = forward(target, path=path)
    data = os.urandom(3_000_000)
    done = subprocess.run(['socat', '-t', '30', '-', f'TCP:127.0.0.1:{port}'], input=data,
                          capture_output=True, timeout=2 * PATIENCE)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


@each_path
def test_websocket(forward, path):
    """An echo server of WebSocket: texts, megabytes, pings, and a proper close."""
    async def echo(socket_):
        async for message in socket_:
            await socket_.send(message)

    async def converse(backend):
        server = await websockets.serve(echo, sock=backend, max_size=None)
        try:
            port, _ours = forward(backend.getsockname()[1], path=path)
            async with websockets.connect(f'ws://127.0.0.1:{port}', max_size=None) as client:
                for message in ('hello', os.urandom(3 << 20), '', 'x' * 70_000, b'\0'):
                    await client.send(message)
                    assert await client.recv() == message
                await (await client.ping())
            assert client.close_code == 1000
        finally:
            server.close()
            await server.wait_closed()
    with socket.create_server(('127.0.0.1', 0)) as backend:
        asyncio.run(asyncio.wait_for(converse(backend), 2 * PATIENCE))
