"""
Rules that hold for every test.

A session fails when it leaves something in the kernel, and in CI also when a test is skipped for
a reason that support/skips.py does not name.
"""

import os
from pathlib import Path
import sys

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `support`, from any folder

pytest.register_assert_rewrite('support')

from support import skips  # noqa: E402
from support.leaks import Leaks  # noqa: E402

_WATCH = 'ipc_bypass_watch'


class Watch:
    """The plugin that holds those rules."""

    def __init__(self):
        """Note what is there before the first test."""
        self.ci = bool(os.environ.get('CI'))
        # Where these are set, pytest compares unequal megabytes line by line, for hours.
        for name in ('CI', 'BUILD_NUMBER'):
            os.environ.pop(name, None)
        self.leaks = Leaks(exclusive=self.ci)
        self._skipped, self._faults = {}, []

    def _note(self, report):
        if report.skipped and not hasattr(report, 'wasxfail') \
                and isinstance(report.longrepr, tuple):
            self._skipped[report.nodeid] = report.longrepr[2].removeprefix('Skipped: ')

    def pytest_runtest_logreport(self, report):
        """Note why a test was skipped."""
        self._note(report)

    def pytest_collectreport(self, report):
        """Note why a file was skipped."""
        self._note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        """Fail the session for what it left, and for skips that CI does not allow."""
        self._faults = [f'left behind: {line}' for line in self.leaks.left()]
        self.leaks.remove()
        if self.ci and skips.bpf_works():
            self._faults += [f'skipped in CI: {line}' for line in skips.refused(self._skipped)]
        if self._faults and session.exitstatus in (pytest.ExitCode.OK,
                                                   pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        """Show what the session failed for."""
        for line in self._faults:
            terminalreporter.write_line(f'ERROR {line}', red=True)


def pytest_configure(config):
    """Start to watch."""
    config.pluginmanager.register(Watch(), _WATCH)


@pytest.fixture(scope='session')
def leaks(pytestconfig):
    """Return the session's Leaks, to note the ids of what a test makes."""
    return pytestconfig.pluginmanager.get_plugin(_WATCH).leaks
