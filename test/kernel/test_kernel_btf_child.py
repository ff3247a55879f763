"""Looking things up in the kernel's type information, in a child."""

import os
import subprocess

from ipc_bypass.kernel import btf_child
from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.errors import UnsupportedError
import pytest

REAL = Btf.from_kernel


def answer(**given):
    """Return a stand-in for what runs the child."""
    def run(_module, timeout):
        assert timeout > 0
        if isinstance(given.get('error'), Exception):
            raise given['error']
        return subprocess.CompletedProcess([], 0, given.get('stdout', ''), given.get('stderr', ''))
    return run


def test_an_answer(capsys, monkeypatch):
    btf_child.print_answer(lambda btf: {'size': btf.size('in6_addr')})
    monkeypatch.setattr(btf_child, 'run_module', answer(stdout=capsys.readouterr().out))
    assert btf_child.from_child('any') == {'size': 16}


def test_what_is_not_there_is_told(capsys, monkeypatch):
    btf_child.print_answer(lambda btf: {'size': btf.size('no_such')})
    monkeypatch.setattr(btf_child, 'run_module', answer(stdout=capsys.readouterr().out))
    with pytest.raises(UnsupportedError, match='find type no_such'):
        btf_child.from_child('any')


@pytest.mark.parametrize('given, reason', [
    ({'stderr': 'Traceback\nMemoryError: it is full\n'}, 'MemoryError: it is full'),
    ({'error': subprocess.TimeoutExpired(['python'], 60)}, 'timed out'),
    ({'error': OSError(12, os.strerror(12))}, 'Cannot allocate memory')])
def test_a_child_that_fails(monkeypatch, given, reason):
    monkeypatch.setattr(btf_child, 'run_module', answer(**given))
    with pytest.raises(UnsupportedError, match=reason) as caught:
        btf_child.from_child('any')
    assert '\n' not in str(caught.value)


def test_a_kernel_without_type_information(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(Btf, 'from_kernel', lambda: REAL(tmp_path / 'nothing'))
    btf_child.print_answer(lambda btf: {})
    monkeypatch.setattr(btf_child, 'run_module', answer(stdout=capsys.readouterr().out))
    with pytest.raises(UnsupportedError, match='No such file'):
        btf_child.from_child('any')


def test_a_module_that_is_not_there():
    with pytest.raises(UnsupportedError, match='ipc_bypass.no_such'):
        btf_child.from_child('ipc_bypass.no_such')
