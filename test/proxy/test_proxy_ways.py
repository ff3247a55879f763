"""Which way a connection takes, why, and that the bytes keep their order when it changes."""

from contextlib import contextmanager
import os
from pathlib import Path
import socket
import time

from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.proxy import choice
from ipc_bypass.proxy.choice import Ways
from ipc_bypass.proxy.engine import Engine
from ipc_bypass.proxy.forward import Forward
from ipc_bypass.proxy.shortcut import Shortcut, ShortcutSettings
from proxy_tools import connect, listening, read_exactly, settle
import pytest
from support.namespaces import bridged_pair, CLIENT, CLIENT_V6, PREFIX, SERVER, SERVER_V6
from support.traffic import Job, random_sizes, receive, send, steady
from support.waiting import PATIENCE, wait_until


@contextmanager
def gateway(ways, forwards, space=None):
    """Yield an Engine in a namespace, with these forwards."""
    with space.entered():
        made = Engine(ways, health_interval_s=0.0)
        for text in forwards:
            made.add(Forward.parse(text))
        made.start()
    yield made
    made.close()


def paths(engine):
    """Return {(path, reason)} of the open connections, once it is decided for each."""
    def decided():
        with engine.listeners() as listeners:
            found = [each for listener in listeners for each in listener.connections]
        return all(each.decided for each in found) and [
            {(each.path, each.reason) for each in found}]
    return wait_until(decided, 'each way is decided')[0]


@pytest.mark.parametrize('listen, host, target', [
    ('0.0.0.0', '127.0.0.1', '127.0.0.1'), ('::', '127.0.0.1', '127.0.0.1'),
    ('::', '::1', '127.0.0.1'), ('::', '::1', '::1'), ('::1', '::1', '::1'),
    ('127.0.0.1', '127.0.0.1', '::1')])
@pytest.mark.parametrize('path', ['auto', 'sk_skb'])
def test_families(engine, forward, listen, host, target, path):
    """IPv4, IPv6, dual stack, and from one to the other."""
    with listening(target) as backend:
        port, _ours = forward(backend.getsockname()[1], host=target, listen=listen, path=path)
        with connect(port, host) as client, backend.accept()[0] as server:
            server.settimeout(PATIENCE)
            settle(client, server)
            expected, chosen = {'auto': 'shortcut'}.get(path, path), paths(engine)
            assert {way for way, _ in chosen} == {expected}, chosen
            sent = Job(send, client, random_sizes(1, 2 << 20), 1, finish=True)
            assert receive(server) == sent.result()


def test_only_ipv4(forward):
    """A forward of one family is not there for the other."""
    with listening() as backend:
        port, _ours = forward(backend.getsockname()[1], listen='0.0.0.0')
        with pytest.raises(ConnectionRefusedError):
            connect(port, '::1')


@pytest.mark.parametrize('client_host, server_host', [(CLIENT, SERVER), (CLIENT_V6, SERVER_V6)])
def test_across_namespaces(ways, ports, client_host, server_host):
    """Client, gateway and backend of one host, in three containers: the short cut holds."""
    with bridged_pair() as (server_space, client_space):
        port, target = next(ports), next(ports)
        bracketed = f'[{server_host}]' if ':' in server_host else server_host
        with server_space.entered():
            backend = listening(server_host, target)
        # The gateway lives where the client does, and listens on another address of it.
        with backend, gateway(ways, [f':{port} -> {bracketed}:{target}'],
                              client_space) as engine:
            with client_space.entered():
                client = connect(port, client_host)
            server, _address = backend.accept()
            server.settimeout(PATIENCE)
            with client, server:
                settle(client, server)
                assert paths(engine) == {('shortcut', '')}
                before = ways.shortcut.counters()['redirected_bytes']
                sent = Job(send, client, random_sizes(2, 4 << 20), 2, finish=True)
                assert receive(server) == sent.result()
                assert ways.shortcut.counters()['redirected_bytes'] - before > 3 << 20


@pytest.mark.parametrize('path, taken, reason', [
    ('splice', 'splice', 'shortcut_forbidden, sk_skb_forbidden'),
    ('sk_skb', 'sk_skb', 'shortcut_forbidden'), ('shortcut', 'shortcut', ''),
    ('auto', 'shortcut', '')])
def test_by_rule(engine, forward, path, taken, reason):
    """A forward says which way; every connection says why it is not on a faster one."""
    with listening() as backend:
        port, _ours = forward(backend.getsockname()[1], path=path)
        with connect(port) as client, backend.accept()[0] as server:
            server.settimeout(PATIENCE)
            settle(client, server)
            assert paths(engine) == {(taken, reason)}
    counted = {name for name in reason.split(', ') if name}
    assert {name for name, count in engine.fallbacks.items() if count} == counted


def test_nothing_of_the_kernel(ports):
    """Without any way of the kernel's, the process moves all, and says why."""
    told = []
    engine = Engine(Ways(), told.append, health_interval_s=0.0)
    try:
        engine.start()
        with listening() as backend:
            port, target = next(ports), backend.getsockname()[1]
            engine.add(Forward.parse(f'127.0.0.1:{port} -> 127.0.0.1:{target}'))
            with connect(port) as client, backend.accept()[0] as server:
                server.settimeout(PATIENCE)
                settle(client, server)
                assert paths(engine) == {
                    ('splice', 'shortcut_unavailable, sk_skb_unavailable')}
        assert engine.fallbacks == {'shortcut_unavailable': 1, 'sk_skb_unavailable': 1}
        assert not told
    finally:
        engine.close()


@pytest.fixture
def cgroups(ways):
    """Yield (root, a folder below) of the cgroup v2 hierarchy; we are in the root at the end."""
    root = Path(find_cgroup2())
    other = root / f'{PREFIX}{os.getpid()}_elsewhere'
    other.mkdir()
    yield root, other
    (root / 'cgroup.procs').write_text(str(os.getpid()))
    wait_until(lambda: _removed(other), 'the cgroup is empty')


def _removed(folder):
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def test_the_backend_is_elsewhere(cgroups, ports, monkeypatch):
    """A backend that the programs do not see is as far away as another host; it is tried again."""
    root, ours = cgroups
    monkeypatch.setattr(choice, '_MISSES', 1)
    (ours / 'cgroup.procs').write_text(str(os.getpid()))
    shortcut = Shortcut(ShortcutSettings(max_connections=64, cgroup_path=str(ours)))
    shortcut.configure()
    try:
        shortcut.activate()
        engine = Engine(Ways(shortcut), health_interval_s=0.0)
        try:
            engine.start()
            # A listener's cgroup is that of the process that made it, then.
            (root / 'cgroup.procs').write_text(str(os.getpid()))
            backend = listening()
            (ours / 'cgroup.procs').write_text(str(os.getpid()))
            port, target = next(ports), backend.getsockname()[1]
            listener = engine.add(Forward.parse(f'127.0.0.1:{port} -> 127.0.0.1:{target}'))
            with backend:
                for _ in range(2):
                    with connect(port) as client, backend.accept()[0] as server:
                        server.settimeout(PATIENCE)
                        settle(client, server)
                        wait_until(lambda: paths(engine) == {
                            ('splice', 'shortcut_backend_elsewhere, sk_skb_unavailable')},
                            'it is known to be elsewhere')
                    wait_until(lambda: not listener.connections, 'it has ended')
                # The second client's socket was not put into the kernel's map any more.
                assert shortcut.counters()['ends_enrolled'] == 1
                listener.elsewhere_until = 1.0
                wait_until(lambda: listener.elsewhere_until == 0.0, 'it is tried again')
                with engine._lock:  # its port is noted by then
                    pass
                with connect(port) as client, backend.accept()[0] as server:
                    server.settimeout(PATIENCE)
                    settle(client, server)
                    assert shortcut.counters()['ends_enrolled'] == 2
        finally:
            engine.close()
    finally:
        shortcut.close()


def test_a_reader_that_stops(connected, ways):
    """The budget is spent, bytes go by the gateway, and the short cut comes back."""
    client, server, ours = connected('shortcut')
    begun = ways.shortcut.counters()
    # More than the budget of 8 MiB, and what sockets hold.
    block = os.urandom(1 << 20)
    job = Job(lambda: [client.sendall(block) for _ in range(64)])
    wait_until(lambda: ways.shortcut.counters()['budget_spent'] > begun['budget_spent'],
               'the budget is spent')
    time.sleep(0.2)
    assert job.is_alive()
    for _ in range(64):
        assert read_exactly(server, 1 << 20) == block
    job.result()

    def returned():
        client.sendall(b'again')
        assert read_exactly(server, 5) == b'again'
        time.sleep(0.01)
        return ways.shortcut.counters()['returned'] > begun['returned']
    wait_until(returned, 'it comes back')
    assert {each.path for each in list(ours.connections)} == {'shortcut'}


def test_deactivated_while_bytes_flow(connected, ways):
    """All passes at once, nothing is lost, and it goes on by the gateway."""
    client, server, _ours = connected('shortcut')
    sent = Job(send, client, random_sizes(3, 48 << 20), 3, finish=True)
    got = Job(receive, server)
    time.sleep(0.02)
    for _ in range(5):
        ways.shortcut.deactivate()
        time.sleep(0.01)
        ways.shortcut.activate()
        time.sleep(0.01)
    assert got.result() == sent.result()


def test_a_stream_without_pauses_comes_back(connected, ways):
    """As beyond a gateway: what the far end has read is enough, acknowledged or not."""
    client, server, _ours = connected('shortcut')
    ways.shortcut.deactivate()
    with steady(client, server, ways.shortcut.activate):
        before = ways.shortcut.counters()['redirected_bytes']
        wait_until(lambda: ways.shortcut.counters()['redirected_bytes'] > before,
                   'it is redirected', timeout=PATIENCE / 3)


def test_removed_while_bytes_flow(engine, connected):
    """The forward listens no more; what is open goes on, and ends as it would have."""
    client, server, ours = connected('shortcut')
    port = ours.forward.listen.port
    sent = Job(send, client, random_sizes(4, 32 << 20), 4, finish=True)
    got = Job(receive, server)
    engine.remove(ours.id)
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    assert got.result() == sent.result()
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b''
    wait_until(lambda: not engine._listeners, 'it is forgotten')


def test_the_gateway_holds_bytes(engine, forward, ways):
    """What the gateway has read and not written keeps its direction from the short cut."""
    with listening() as backend:
        port, _ours = forward(backend.getsockname()[1])
        with connect(port) as client, backend.accept()[0] as server:
            server.settimeout(PATIENCE)
            settle(client, server)
            before = ways.shortcut.counters()
            with engine._lock:
                # By TCP, to a gateway that does not move now, as one that is stopped.
                ways.shortcut.deactivate()
                client.sendall(b'1' * 5000)
                ways.shortcut.activate()
                for digit in b'23456':
                    client.sendall(bytes([digit]) * 5000)
                after = ways.shortcut.counters()
                assert after['redirected_bytes'] == before['redirected_bytes']
                assert after['passed_queues_not_empty'] - before['passed_queues_not_empty'] == 5
            assert read_exactly(server, 30_000) == b''.join(
                bytes([digit]) * 5000 for digit in b'123456')

            def returned():
                client.sendall(b'again')
                assert read_exactly(server, 5) == b'again'
                return ways.shortcut.counters()['redirected_bytes'] > before['redirected_bytes']
            wait_until(returned, 'it comes back')
