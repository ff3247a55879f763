"""The linters of ROS 2 and of this project; a linter that is missing is a failure."""

from importlib.metadata import distribution
from pathlib import Path
import shutil
import subprocess
import sys

from catkin_pkg.package import parse_package
import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON_FOLDERS = ('ipc_bypass', 'bench', 'launch', 'scripts', 'test')
# Those that ament_flake8 brings.
FLAKE8_PLUGINS = (
    'blind-except', 'builtins', 'class-newline', 'comprehensions', 'deprecated', 'docstrings',
    'import-order', 'quotes')
# As in ament_pep257.
PEP257_IGNORED = 'D100,D101,D102,D103,D104,D105,D106,D107,D203,D212,D404'


def python_files():
    found = [ROOT / 'setup.py']
    for folder in PYTHON_FOLDERS:
        found += (ROOT / folder).rglob('*.py')
    return sorted(found)


def shell_files():
    found = [*(ROOT / '.ci').iterdir(), *(ROOT / 'scripts').rglob('*'),
             *(ROOT / 'systemd').iterdir()]
    return sorted(
        path for path in found if path.is_file() and (
            path.suffix == '.sh' or path.read_bytes().startswith((b'#!/bin/sh', b'#!/bin/bash'))))


def tool(name):
    """Return the path of a program: the one beside this Python comes before PATH's."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    assert found, f'{name} is missing: run scripts/setup'
    return found


def check(*command):
    """Run a linter in the source folder; what it prints is the failure."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        pytest.fail(done.stdout or f'{command[0]}: exit code {done.returncode}', pytrace=False)


def test_flake8():
    for plugin in FLAKE8_PLUGINS:
        # Raises where it is missing: flake8 itself would say nothing.
        distribution(f'flake8-{plugin}')
    check(sys.executable, '-m', 'flake8', *python_files())


def test_pep257():
    check(sys.executable, '-m', 'pydocstyle', f'--ignore={PEP257_IGNORED}', *python_files())


def test_ruff():
    check(tool('ruff'), 'check', '--no-cache', '--output-format=concise', *python_files())


def test_clang_format():
    sources = sorted(path for folder in ('bench', 'bpf')
                     for path in (ROOT / folder).glob('*.[ch]'))
    assert sources
    check(tool('clang-format'), '--dry-run', '-Werror', *sources)


def test_xmllint():
    check(tool('xmllint'), '--noout', *sorted(ROOT.glob('*/*.xml')), ROOT / 'package.xml')


def test_package_manifests():
    versions = set()
    for path in (ROOT / 'package.xml', ROOT / 'ipc_bypass_interfaces' / 'package.xml'):
        warnings = []
        # Raises where a tag that format 3 asks for is missing or wrong.
        package = parse_package(str(path), warnings=warnings)
        assert package.package_format == 3
        assert package.licenses == ['Apache-2.0']
        assert not warnings
        versions.add(package.version)
    setup_py = (ROOT / 'setup.py').read_text()
    assert len(versions) == 1
    assert f"version='{versions.pop()}'" in setup_py


@pytest.mark.parametrize('path', shell_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_syntax(path):
    check('bash', '-n', path)


def test_shellcheck():
    check(tool('shellcheck'), '--external-sources', *shell_files())
