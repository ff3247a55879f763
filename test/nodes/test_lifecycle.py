"""Every transition, twice around; a failed one leaves nothing attached and says why in a line."""

import contextlib
import os
import signal

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.instructions import leave
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass_interfaces.srv import ListRules
from lifecycle_msgs.msg import State
from node_tools import attached, NodeProcess
import pytest

#: For a failed configure: parameters, how to start the node, and what the line says.
FAULTS = {
    'no capability': (
        {}, {'prefix': ('setpriv', '--bounding-set', '-bpf,-sys_admin,-net_admin,-perfmon')},
        'CAP_BPF'),
    'no headers': ({}, {'environment': {'BCC_KERNEL_SOURCE': '/n7_no_headers'}}, 'headers'),
    'cgroup missing': ({'cgroup_path': '/n7_no_cgroup'}, {}, '/n7_no_cgroup'),
    'cgroup of another kind': ({'cgroup_path': '/tmp'}, {}, 'cgroup'),
    'pins outside of bpffs': ({'pin_directory': '/tmp/n7_pins'}, {}, '/tmp/n7_pins'),
}
FINAL = State.PRIMARY_STATE_FINALIZED


def check_failure(node, cgroup, says):
    """Assert that configure fails in one line and leaves nothing attached."""
    assert not node.change('configure')
    assert node.state() == 'unconfigured'
    assert attached(cgroup) == []
    errors = node.errors()
    assert len(errors) == 1, node.output()
    assert 'configure failed: ' in errors[0]
    assert says in errors[0]


def test_every_transition_twice(start, cgroup):
    node = start()
    statistics = node.statistics()
    for _ in range(2):
        for transition, state, programs in (
                ('configure', 'inactive', 0), ('activate', 'active', 1),
                ('deactivate', 'inactive', 0), ('activate', 'active', 1),
                ('deactivate', 'inactive', 0), ('cleanup', 'unconfigured', 0)):
            assert node.change(transition), node.output()
            assert node.state() == state
            assert len(attached(cgroup)) == programs
            # Who comes late sees the state as well.
            node.client.spin_until(
                lambda: statistics and statistics[-1].state == {
                    'unconfigured': State.PRIMARY_STATE_UNCONFIGURED,
                    'inactive': State.PRIMARY_STATE_INACTIVE,
                    'active': State.PRIMARY_STATE_ACTIVE}[state],  # noqa: B023 - called at once
                'the statistics tell the state')
    assert node.errors() == []
    assert node.end() == 0


@pytest.mark.parametrize('transitions', [(), ('configure',), ('configure', 'activate')],
                         ids=['unconfigured', 'inactive', 'active'])
def test_shutdown_from_every_state(start, cgroup, transitions):
    node = start()
    statistics = node.statistics()
    for transition in transitions:
        assert node.change(transition)
    assert node.change('shutdown')
    assert node.state() == 'finalized'
    assert attached(cgroup) == []
    node.client.spin_until(lambda: statistics and statistics[-1].state == FINAL, 'finalized')
    assert node.end() == 0
    assert node.errors() == []


def test_transition_that_the_state_does_not_have(start, cgroup):
    node = start()
    for transition in ('activate', 'deactivate', 'cleanup'):
        assert not node.change(transition)
        assert node.state() == 'unconfigured'
    node.bring_up()
    assert not node.change('configure')
    assert node.state() == 'active'
    assert len(attached(cgroup)) == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_while_active(start, cgroup, number):
    node = start(autostart=True)
    node.client.spin_until(lambda: 'active: tcp by' in node.output(), 'the node is active')
    assert len(attached(cgroup)) == 1
    assert node.end(number) == 0
    assert attached(cgroup) == []
    assert node.errors() == []


def test_killed_then_started_again(start, cgroup):
    node = start(autostart=True)
    node.client.spin_until(lambda: 'active: tcp by' in node.output(), 'the node is active')
    node.process.kill()
    node.process.wait()
    node.client.spin_until(lambda: attached(cgroup) == [], 'the link ends with its process')
    again = start(autostart=True)
    again.client.spin_until(lambda: 'active: tcp by' in again.output(), 'the node is active')
    assert len(attached(cgroup)) == 1
    assert again.end() == 0
    assert attached(cgroup) == []


@pytest.mark.parametrize('fault', FAULTS)
def test_configure_fails(start, cgroup, fault):
    parameters, how, says = FAULTS[fault]
    node = start(how=how, **parameters)
    check_failure(node, cgroup, says)
    assert not node.change('activate')
    assert node.state() == 'unconfigured'
    assert attached(cgroup) == []
    assert node.end() == 0


def test_unwritable_bpffs(start, cgroup, tmp_path):
    folder = tmp_path / 'bpffs'
    folder.mkdir()
    script = f'mount -t bpf bpf {folder} && mount -o remount,ro {folder} && exec "$@"'
    node = start(how={'prefix': ('unshare', '--mount', 'sh', '-c', script, 'sh')},
                 pin_directory=str(folder / 'pins'))
    check_failure(node, cgroup, str(folder / 'pins'))


def test_compiler_log_at_level_debug(start, cgroup, tmp_path):
    """Headers that are there and empty: one line of error, and the compiler's own words."""
    for name in ('include/linux/kconfig.h', 'include/uapi/linux/bpf.h',
                 'include/generated/autoconf.h', 'arch/x86/include/generated/x.h',
                 'arch/x86/include/uapi/x.h'):
        path = tmp_path / 'headers' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    node = start(how={'environment': {'BCC_KERNEL_SOURCE': str(tmp_path / 'headers')}})
    check_failure(node, cgroup, 'compile')
    log = node.output().partition('the full log\n')[2]
    assert '[DEBUG]' in node.output()
    assert "fatal error: 'linux/types.h' file not found" in log


def test_serves_a_cgroup_that_it_is_not_in(client, cgroup, pin_directory, tmp_path):
    """As a node on the host that serves one container."""
    with NodeProcess(client, tmp_path, {'tcp_path': 'sk_msg', 'cgroup_path': str(cgroup),
                                        'pin_directory': pin_directory}) as node:
        node.bring_up()
        assert len(attached(cgroup)) == 1


def test_failure_can_be_mended(start, cgroup):
    node = start(cgroup_path='/n7_no_cgroup')
    check_failure(node, cgroup, '/n7_no_cgroup')
    assert node.set_parameters(cgroup_path=str(cgroup)).successful
    node.bring_up()
    assert len(attached(cgroup)) == 1


@pytest.fixture
def exclusive(cgroup):
    """Return a context manager that attaches a program which suffers no other beside it."""
    @contextlib.contextmanager
    def hold():
        folder = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        program = syscall.prog_load(ProgType.SOCK_OPS, leave(1), name='n7_exclusive')
        syscall.prog_attach(folder, program, AttachType.CGROUP_SOCK_OPS)
        try:
            yield
        finally:
            syscall.prog_detach(folder, program, AttachType.CGROUP_SOCK_OPS)
            os.close(program)
            os.close(folder)
    return hold


def test_activate_fails(start, cgroup, exclusive):
    node = start()
    assert node.change('configure')
    with exclusive():
        assert not node.change('activate')
        assert node.state() == 'inactive'
        assert len(attached(cgroup)) == 1
    assert len(node.errors()) == 1
    assert 'activate failed: ' in node.errors()[0]
    assert node.change('activate')
    assert len(attached(cgroup)) == 1


@pytest.mark.parametrize('fault', FAULTS)
def test_auto_falls_back(start, cgroup, fault):
    """With tcp_path auto, the same faults make loopback the path, and the reason is shown."""
    parameters, how, says = FAULTS[fault]
    node = start(how=how, rules=['tcp:23999'], **{**parameters, 'tcp_path': 'auto'})
    statistics = node.statistics()
    health = node.client.listen(DiagnosticArray, '/diagnostics')
    node.bring_up()
    assert attached(cgroup) == []
    assert node.errors() == []
    node.client.spin_until(lambda: statistics and statistics[-1].paths
                           and statistics[-1].state == State.PRIMARY_STATE_ACTIVE, 'statistics')
    paths = {path.name: path for path in statistics[-1].paths}
    assert paths['loopback'].selected
    assert not paths['sk_msg'].selected
    assert not paths['sk_msg'].available
    assert says in paths['sk_msg'].reason
    rule = node.call(ListRules, 'list_rules').rules[0]
    assert not rule.effective
    assert rule.reason == paths['sk_msg'].reason
    node.client.spin_until(
        lambda: levels(health, node).get('rules') == DiagnosticStatus.ERROR, 'the health')
    assert levels(health, node)['tcp path'] == DiagnosticStatus.WARN


def levels(heard, node):
    """Return {what: level} of a node's last diagnostics."""
    found = {}
    for message in heard:
        for status in message.status:
            owner, _, what = status.name.partition(': ')
            if owner == node.name:
                found[what] = status.level
    return found


def test_loopback_is_forced(start, cgroup):
    node = start(tcp_path='loopback', rules=['tcp:23999'])
    node.bring_up()
    assert attached(cgroup) == []
    rule = node.call(ListRules, 'list_rules').rules[0]
    assert not rule.effective
    assert rule.reason == 'forbidden by parameter tcp_path'
