"""The filter's bench: everything is measured, and all agree about every packet."""

import shutil

from filter_tools import needs_privileges
from ipc_bypass.bench import xdp_filter
import pytest


def test_everything_is_measured():
    needs_privileges()
    for tool, package in (('xdp-filter', 'xdp-tools'), ('cc', 'gcc')):
        if shutil.which(tool) is None:
            pytest.skip(f'needs {tool} ({package})')
    measured = xdp_filter.measure(repeats=1, packets=1000, flood=5000, count=6)
    assert not measured.failures
    figures = xdp_filter.rows(measured)
    timed = [row for row in figures if row.metric == xdp_filter.TIME]
    assert len(timed) == 2 * len(xdp_filter.PACKETS) * 3
    assert {row.path for row in figures if row.metric == xdp_filter.PROCESSOR} == {
        xdp_filter.OURS, xdp_filter.SOCKET}
    assert len(xdp_filter.reached(figures, 6)) == len(xdp_filter.targets(6))
