"""The paths on Debian 12's own kernel: tests of this repository, run in the virtual machine."""

import pytest

from vm.suites import SUITES


@pytest.mark.parametrize('name', SUITES)
def test_suite(outcomes, name):
    """Every test of the suite passes there, on that kernel, and none is skipped."""
    outcome = outcomes[name].result()
    shown = f'{outcome.result.output}\n--- the kernel\n{outcome.result.console}'
    assert outcome.tests, shown
    assert outcome.release.startswith('6.1.'), outcome.release
    faults = {test: fault for test, fault in outcome.tests.items() if fault}
    assert not faults, '\n'.join(f'{test}: {fault}' for test, fault in faults.items())
    assert outcome.result.status == 0, shown
