"""The AF_XDP part of the XDP bench, briefly: every cell has its figures."""

from ipc_bypass.bench import xdp_af_xdp
from ipc_bypass.bench.rows import Cell
from ipc_bypass.bench.udp_plan import Measured
from ipc_bypass.kernel import capabilities
import pytest


def test_every_workload_has_figures_in_both_languages():
    lacking = capabilities.missing(['CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_SYS_ADMIN'])
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))
    begun = []
    measured = xdp_af_xdp.measure(repeats=1, seconds=0.2, sustained_seconds=0.2, round_trips=50,
                                  begin=begun.append)
    assert not measured.failures
    # The languages take turns, and what takes another figure comes last.
    assert [cell.path for cell in begun] == ['c', 'python'] * (len(begun) // 2)
    assert {cell.workload for cell in begun[-2:]} == {xdp_af_xdp.SUSTAINED}
    assert set(begun) == set(measured.runs)
    for cell, ((second,), *_) in measured.runs.items():
        if cell.workload in (xdp_af_xdp.ECHO, xdp_af_xdp.ECHO_SPIN):
            assert 0 < second['p10_us'] <= second['p50_us'] <= second['p99_us']
        else:
            assert second['received_per_s'] > 0
            assert second['lost'] >= second['lost_at_socket'] >= 0
    assert len(xdp_af_xdp.reached(measured)) == len(xdp_af_xdp.TARGETS)
    assert xdp_af_xdp.lost(measured) is not None


def test_targets_compare_python_with_c():
    figures = {'received_per_s': 300_000.0}
    runs = {Cell('af_xdp', 'packets', path, 'highest', 64): [[{**figures}]]
            for path in ('c', 'python')}
    runs[Cell('af_xdp', 'packets', 'python', 'sustained', 64)] = [[{'lost': 3}]]
    measured = Measured(runs)
    outcome, = xdp_af_xdp.reached(measured)
    assert outcome.met and outcome.ratio == 1
    assert xdp_af_xdp.lost(measured) == 3
    assert xdp_af_xdp.highest_of(measured) == 300_000
    assert xdp_af_xdp.highest_of(Measured({})) == 0
