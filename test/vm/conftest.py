"""
What the tests of the virtual machines share: the machines of CI, which run beside the other tests.

They start when the session does, one after the other, with what processor time nobody else
wants, and their tests are moved to the session's end, where they wait for what is left.
"""

from concurrent.futures import ThreadPoolExecutor
import threading

import pytest

from vm import kernel, machine, matrix, plan

_FILE = 'test_vm_suites.py'
_MACHINES = pytest.StashKey()


class Machines:
    """The machines of one session; `outcomes` are futures of matrix.Outcome by kernel."""

    def __init__(self, folder, versions):
        """Start those of some kernels, one at a time."""
        self._workers, self._stop = ThreadPoolExecutor(max_workers=1), threading.Event()
        self.outcomes = {version: self._workers.submit(self._run, version, chosen, folder)
                         for version, chosen in plan.IN_CI.items() if version in versions}

    def close(self):
        """End the one that runs, and forget the others."""
        self._stop.set()
        self._workers.shutdown(cancel_futures=True)

    def _run(self, version, chosen, folder):
        place = folder / version
        place.mkdir()
        return matrix.run(version, chosen.suites, place, quick=chosen.quick, idle=True,
                          timeout=plan.PATIENCE, stop=self._stop)


def _wanted(items):
    return [item for item in items if item.path.name == _FILE]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Have the tests that wait for the machines be the last."""
    late = _wanted(items)
    items[:] = [item for item in items if item not in late] + late


def pytest_collection_finish(session):
    """Start the machines, where they can be had and their tests are going to run."""
    config = session.config
    versions = {item.callspec.params['version'] for item in _wanted(session.items)
                if hasattr(item, 'callspec')}
    if versions and not config.option.collectonly and not machine.missing():
        folder = config._tmp_path_factory.mktemp('machines')
        config.stash[_MACHINES] = Machines(folder, versions)
        config.add_cleanup(config.stash[_MACHINES].close)


@pytest.fixture(scope='session')
def outcomes(pytestconfig):
    """Return a function that waits for the matrix.Outcome of a kernel."""
    lacking = machine.missing()
    if lacking:
        pytest.skip('the virtual machine needs ' + ', '.join(lacking))
    machines = pytestconfig.stash[_MACHINES]

    def waited(version):
        try:
            return machines.outcomes[version].result()
        except kernel.NoKernelError as error:
            pytest.skip(str(error))
    return waited
