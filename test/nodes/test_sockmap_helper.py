"""The node sockmap_helper: transitions, health, and what is left when it ends."""

from contextlib import ExitStack
import importlib.util
import signal

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ipc_bypass.kernel import syscall
from lifecycle_msgs.msg import State
import pytest
from sockmap_tools import (
    echo,
    ended,
    LAUNCH_FILE,
    levels,
    nothing,
    refused,
    SHORTCUT,
    SPLICED,
)
from support.leaks import alive
from support.streams import connect, echoing, listening, settle
from support.traffic import Job
from support.waiting import PATIENCE, wait_until

needs_launch = pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None, reason='launch_ros is in no registry')


def test_transitions(privileged, client, start_sockmap, forward):
    """It listens while active; open connections outlive that, and end with cleanup."""
    port, text = forward
    node = start_sockmap(forwards=[text], kernel_path='required', status_period_s=0.1)
    heard = node.status()

    def change(transition, state):
        assert node.change(transition), node.output()
        client.spin_until(lambda: heard and heard[-1].state == getattr(
            State, f'PRIMARY_STATE_{state.upper()}'), 'the status tells the state')
        assert node.state() == state
    for _turn in 1, 2:
        socks = []
        change('configure', 'inactive')
        assert refused(port)
        for number in 1, 2:
            held = node.held()
            assert held['programs'] and not held['links']
            change('activate', 'active')
            assert node.held()['links']
            socks.append(connect(port))
            for sock in socks:
                for size in 100, 1000, 1_000_000:
                    echo(sock, bytes(size))
            node.wait_for_paths(*[SHORTCUT] * number)
            change('deactivate', 'inactive')
            assert not node.held()['links']
            assert refused(port)
            for sock in socks:
                echo(sock, bytes(1_000_000))
            shown, = node.look()[0].values()
            assert (shown.listening, shown.open, shown.accepted) == (False, number, number)
        for _ in 1, 2:
            assert not node.change('configure')
            assert not node.change('deactivate')
        change('cleanup', 'unconfigured')
        assert all(ended(sock) for sock in socks)
        assert nothing(node.held())
        for sock in socks:
            sock.close()
    assert node.errors() == []
    late = node.status()
    client.spin_until(lambda: late, 'the last status comes to a late subscriber')
    assert (late[-1].state, late[-1].forwards) == (State.PRIMARY_STATE_UNCONFIGURED, [])
    change('shutdown', 'finalized')
    assert node.end() == 0


def test_kernel_path_off(client, start_sockmap, forward):
    """Nothing is loaded; that is as it should be, with the reason."""
    port, text = forward
    node = start_sockmap(forwards=[text], kernel_path='never', diagnostics_period_s=0.1)
    heard, health = node.status(), client.listen(DiagnosticArray, '/diagnostics')
    node.bring_up()
    client.spin_until(lambda: health and levels(health[-1])['forward 1'] == (
        DiagnosticStatus.WARN, f'{text}: nobody has connected yet'), 'it is not known yet')
    with connect(port) as sock:
        echo(sock, bytes(1000))
        node.wait_for_paths(SPLICED)
    client.spin_until(lambda: heard and heard[-1].state == State.PRIMARY_STATE_ACTIVE and health,
                      'status and diagnostics')
    assert nothing(node.held())
    reason = 'forbidden by parameter kernel_path'
    assert not heard[-1].shortcut_available
    assert heard[-1].shortcut_reason == heard[-1].sk_skb_reason == reason
    assert levels(health[-1])['ways'] == (
        DiagnosticStatus.OK, f'connections are moved in user space: {reason}')
    assert node.end(signal.SIGINT) == 0
    assert node.errors() == []


def test_killed_while_bytes_flow(privileged, client, start_sockmap, ports):
    """Both ends see the end, nothing is left, and another node takes the port at once."""
    port = next(ports)
    with listening() as backend, ExitStack() as stack:
        parameters = {'forwards': [f'127.0.0.1:{port} -> '
                                   f'127.0.0.1:{backend.getsockname()[1]}']}
        node = start_sockmap(**parameters)
        node.bring_up()
        sock = stack.enter_context(connect(port))
        server = stack.enter_context(backend.accept()[0])
        server.settimeout(PATIENCE)
        settle(sock, server)
        node.wait_for_paths(SHORTCUT)
        held = node.held()
        moved = node.look()[1][0].bytes_onward

        def pour(target):
            try:
                while True:
                    target.sendall(bytes(10_000))
            except OSError:
                pass
        jobs = [Job(pour, each) for each in (sock, server)] + [
            Job(ended, each) for each in (sock, server)]
        wait_until(lambda: node.look()[1][0].bytes_onward > moved + 1_000_000, 'bytes flow')
        assert all(job.is_alive() for job in jobs)
        assert node.end(signal.SIGKILL) == -signal.SIGKILL
        assert [job.result() for job in jobs] == [None, None, True, True]
        wait_until(lambda: not held['links'] & {*syscall.link_ids()}, 'the links go')
        assert refused(port)
        stack.pop_all().close()
        for kind in 'programs', 'maps':
            wait_until(lambda: not alive(kind, held[kind]), f'the {kind} go')  # noqa: B023
        again = start_sockmap(**parameters)
        again.bring_up()
        with connect(port) as sock, backend.accept()[0] as server:
            settle(sock, server)
            again.wait_for_paths(SHORTCUT)
        assert again.end() == 0
        assert again.errors() == []


def test_removed_with_a_connection_open(start_sockmap, forward):
    """Its place is free, also after activate; cleanup ends the connection."""
    port, text = forward
    node = start_sockmap(kernel_path='never')
    node.bring_up()
    listen, _, backend = text.partition(' -> ')
    assert node.code('add_forward', listen=listen, backend=backend) == 'SUCCESS'
    with connect(port) as sock:
        echo(sock, b'before')
        assert node.code('remove_forward', forward_id=1) == 'SUCCESS'
        assert node.change('deactivate')
        assert node.change('activate'), node.output()
        assert refused(port)
        assert node.code('add_forward', listen=f'127.0.0.1:{port}',
                         backend='127.0.0.1:9') == 'SUCCESS'
        echo(sock, b'after')
        assert node.change('deactivate')
        assert node.change('cleanup'), node.output()
        assert ended(sock)
    assert node.errors() == []
    assert node.end() == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_with_a_connection(start_sockmap, forward, number):
    port, text = forward
    node = start_sockmap(forwards=[text], kernel_path='never', autostart=True)
    node.client.spin_until(lambda: 'active: ' in node.output(), 'the node is active')
    with connect(port) as sock:
        echo(sock, bytes(1000))
        assert node.end(number) == 0
        assert ended(sock)
    assert refused(port)
    assert node.errors() == []


def test_health(client, start_sockmap, forward, ports):
    """WARN while it is not active, ERROR where the backend is down, OK where it accepts."""
    port, text = forward
    down = next(ports)
    node = start_sockmap(forwards=[text, f'127.0.0.1:{next(ports)} -> 127.0.0.1:{down}'],
                         kernel_path='never', health_interval_s=0.1, diagnostics_period_s=0.1,
                         status_period_s=0.1)
    heard, health = node.status(), client.listen(DiagnosticArray, '/diagnostics')
    expected = {'forward 1': DiagnosticStatus.WARN, 'forward 2': DiagnosticStatus.WARN}

    def wait():
        client.spin_until(lambda: health and expected.items() <= {
            name: level for name, (level, _) in levels(health[-1]).items()}.items(), expected)
        return [levels(health[-1])[name][1].partition(' -> ')[2] for name in expected]
    first, second = f'127.0.0.1:{forward[1].rpartition(":")[2]}', f'127.0.0.1:{down}'
    assert node.change('configure')
    assert wait() == [f'{first}: the node is not active', f'{second}: the node is not active']
    assert node.change('activate')
    expected.update({'forward 1': DiagnosticStatus.OK, 'forward 2': DiagnosticStatus.ERROR})
    assert wait() == [f'{first}: 0 open', f'{second} is down: refused: Connection refused']
    client.spin_until(lambda: heard[-1].problems == [
        f'forward 2: {second} is down: refused: Connection refused'], 'the problem is told')
    assert [(each.health, bool(each.health_reason)) for each in heard[-1].forwards] == [
        ('up', False), ('down', True)]
    with echoing(port=down):
        expected['forward 2'] = DiagnosticStatus.OK
        wait()
    expected['forward 2'] = DiagnosticStatus.ERROR
    wait()
    assert node.errors() == []


@needs_launch
def test_launch_arguments():
    from launch.actions import DeclareLaunchArgument
    spec = importlib.util.spec_from_file_location('launch_file', LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = [entity for entity in module.generate_launch_description().entities
                 if isinstance(entity, DeclareLaunchArgument)]
    assert {argument.name for argument in arguments} == {
        'namespace', 'params_file', 'autostart', 'log_level', 'use_respawn'}


def test_launch_file_compiles():
    compile(LAUNCH_FILE.read_text(), str(LAUNCH_FILE), 'exec')
