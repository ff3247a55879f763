"""What the tests in the virtual machine share: a machine for each suite."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from vm import kernel, machine
from vm.suites import SUITES


@dataclass
class Outcome:
    """
    What came of a suite.

    `release` is that of the kernel it ran on; `tests` has for each test '' or why it did not pass.
    """

    result: machine.Result
    release: str = ''
    tests: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope='session')
def emulator():
    """Skip where the machine cannot be had, with what is missing."""
    lacking = machine.missing()
    if lacking:
        pytest.skip('the virtual machine needs ' + ', '.join(lacking))
    try:
        kernel.debian_kernel()
    except kernel.NoKernelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope='session')
def outcomes(emulator, tmp_path_factory):
    """
    Return {suite: Future of its Outcome}, the suites under way.

    Each has a machine of its own. Two run at once, since compiling keeps one processor busy.
    """
    with ThreadPoolExecutor(max_workers=2) as workers:
        longest_first = sorted(SUITES, key=lambda name: -SUITES[name].seconds)
        yield {name: workers.submit(_run, SUITES[name], tmp_path_factory.mktemp(name))
               for name in longest_first}


def _run(suite, folder):
    command = [sys.executable, '-m', 'pytest', '-v', '-p', 'no:cacheprovider',
               '--junitxml=/exchange/junit.xml', '-o', 'junit_family=xunit1', *suite.tests]
    if suite.keywords:
        command += ['-k', suite.keywords]
    # As in CI, a skipped test is a failure there.
    result = machine.run(
        ['bash', '-c', 'uname -r >/exchange/release; exec "$@"', 'bash', *command],
        exchange=folder, environment={'CI': 'true', 'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1'})
    outcome = Outcome(result)
    if (folder / 'release').exists():
        outcome.release = (folder / 'release').read_text().strip()
    if (folder / 'junit.xml').exists():
        for case in ElementTree.parse(folder / 'junit.xml').iter('testcase'):
            outcome.tests[f"{case.get('file')}::{case.get('name')}"] = _fault(case)
    return outcome


def _fault(case):
    """Return why a test case did not pass, '' where it did."""
    for kind in ('failure', 'error', 'skipped'):
        found = case.find(kind)
        if found is not None:
            return f"{kind}: {found.get('message')}\n{found.text or ''}"
    return ''
