"""Capabilities: names of what is missing, never 'be root'."""

from ipc_bypass.kernel import capabilities
from ipc_bypass.kernel.errors import PrivilegeError
import pytest


def test_effective_capabilities_come_from_status(tmp_path):
    (tmp_path / 'status').write_text('Name:\tx\nCapEff:\t0000008000001000\n')
    assert capabilities.effective(str(tmp_path / 'status')) == {'CAP_BPF', 'CAP_NET_ADMIN'}
    (tmp_path / 'status').write_text('CapEff:\t0000000000000000\n')
    assert capabilities.effective(str(tmp_path / 'status')) == set()


@pytest.mark.parametrize('without, expected', [
    (['bpf', 'sys_admin'], "['CAP_BPF']"),
    (['bpf'], '[]'),  # CAP_SYS_ADMIN stands for it
    (['net_admin'], '[]'),
    (['net_admin', 'sys_admin'], "['CAP_NET_ADMIN']"),
    (['perfmon', 'sys_admin'], "['CAP_PERFMON']"),
])
def test_a_process_without(run_python, without, expected, privileged):
    result = run_python('from ipc_bypass.kernel.capabilities import missing\n'
                        'print(missing(["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]))',
                        without=without)
    assert result.stdout.strip() == expected, result.stderr


def test_a_refusal_names_the_capability(run_python, privileged):
    result = run_python('from ipc_bypass.kernel.capabilities import privilege_error\n'
                        'print(privilege_error("load", ["CAP_BPF", "CAP_NET_ADMIN"]))',
                        without=['all'])
    assert 'needs CAP_BPF (or CAP_SYS_ADMIN) and CAP_NET_ADMIN (or' in result.stdout
    assert 'root' not in result.stdout


def test_a_refusal_in_spite_of_the_capability_says_so(privileged):
    error = capabilities.privilege_error('load', ['CAP_BPF'])
    assert isinstance(error, PrivilegeError)
    assert 'though this process has CAP_BPF' in str(error)
