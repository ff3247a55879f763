"""
Pytest's plugin in the machine: it picks the tests of the suites, and notes what came of each.

An outcome is written when it is known, so that a machine that ends early has told the rest.
"""

import json
import os
from pathlib import Path

from ipc_bypass.kernel.errors import BypassError
import pytest

from vm.suites import SUITES

_PLACE = Path(os.environ.get('IPC_BYPASS_VM_RESULTS', '/exchange/results'))
_WANTED = os.environ.get('IPC_BYPASS_VM_SUITES', '').split(',')
_QUICK = bool(os.environ.get('IPC_BYPASS_VM_QUICK'))


def suite_of(test):
    """Return the name of the suite that a test is of, '' where it is of none."""
    return next((name for name in _WANTED if SUITES[name].has(test, quick=_QUICK)), '')


def _note(**entry):
    with open(_PLACE, 'a', encoding='utf-8') as stream:
        stream.write(json.dumps(entry) + '\n')


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Keep what the suites have, in their order, and tell what is going to run."""
    kept = sorted((item for item in items if suite_of(item.nodeid)),
                  key=lambda item: _WANTED.index(suite_of(item.nodeid)))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    for item in kept:
        _note(test=item.nodeid, suite=suite_of(item.nodeid), outcome='not run')


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Note what came of a test; where the product itself refused, its own words."""
    report = (yield).get_result()
    outcome, reason = report.outcome, ''
    if report.skipped:
        reason = report.longrepr[2].removeprefix('Skipped: ')
    elif report.failed:
        reason = str(report.longrepr)
        if isinstance(call.excinfo.value, BypassError):
            outcome, reason = 'refused', str(call.excinfo.value)
    if report.when == 'call' or outcome != 'passed':
        _note(test=item.nodeid, suite=suite_of(item.nodeid), outcome=outcome, reason=reason,
              seconds=round(call.duration, 1), properties=dict(item.user_properties))
