"""The node as a bench runs it: active, of use to real traffic, and gone at the end."""

import os
import subprocess
import sys

from ipc_bypass.bench import dds, profiles
from ipc_bypass.bench.bypass import Bypass, NodeError
import pytest

HOLD = """
import time
from ipc_bypass.bench import profiles
from ipc_bypass.bench.bypass import Bypass
with Bypass(profiles.BYPASS_PORTS) as bypass:
    print(bypass.pid, flush=True)
    time.sleep(60)
"""


def test_real_traffic_is_redirected_and_the_statistics_add_up(node_there, ddsperf_there):
    cells = [cell for cell in dds.plan(['containers'], sizes=[16384]).cells
             if cell.workload == 'throughput' and cell.path != 'udp']
    with Bypass(profiles.BYPASS_PORTS) as bypass:
        plain = dds.measure(dds.Plan((cells[0],), 1, 1, 0))
        after_plain = bypass.statistics()
        ours = dds.measure(dds.Plan((cells[1],), 1, 1, 0))
        statistics = bypass.statistics()
    assert not plain.failures + ours.failures
    assert after_plain['messages'] == 0
    assert after_plain['state_label'] == 'active'
    samples, = (second['samples_per_s'] for second in ours.runs[cells[1]][0])
    assert statistics['redirected_bytes'] > samples * 16384
    assert statistics['redirected_messages'] > 100
    for what in ('bytes', 'messages'):
        assert statistics[what] == (
            statistics[f'redirected_{what}'] + statistics[f'passed_{what}'])


def test_a_node_that_cannot_start_says_why(node_there):
    # A reversed range is refused.
    with pytest.raises(NodeError, match='27409-27400'):
        with Bypass(range(27409, 27399, -1)):
            pass


def test_a_killed_bench_takes_its_node_with_it(node_there, gone, tmp_path):
    # Its folder stays: in a place that is removed.
    bench = subprocess.Popen([sys.executable, '-c', HOLD], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, 'TMPDIR': str(tmp_path)})
    node = int(bench.stdout.readline())
    bench.kill()
    bench.wait()
    assert gone(node)
