"""The paths on other kernels: tests of this repository, run in virtual machines."""

import pytest

from vm import kernel, matrix, plan


def _cases():
    return [pytest.param(version, name, id=f'{version}-{name}')
            for version, chosen in plan.IN_CI.items() for name in chosen.suites
            if matrix.files([name], quick=chosen.quick)]


@pytest.mark.parametrize('version, suite', _cases())
def test_suite(outcomes, version, suite):
    """Every test passes on that kernel, or the product refuses for the reason that is known."""
    outcome = outcomes(version)
    shown = f'{outcome.result.output[-20000:]}\n--- the kernel\n{outcome.result.console[-5000:]}'
    assert outcome.release.startswith(f'{version}.'), shown
    found = matrix.faults(outcome, suite)
    assert not found, '\n'.join([*found, shown])


def test_the_oldest_and_newer_kernels_are_run():
    """CI has the oldest kernel and one that is newer than the usual one."""
    assert list(kernel.RELEASES)[0] in plan.IN_CI
    assert set(plan.IN_CI) & {'6.12', '7.2'}
