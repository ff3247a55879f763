"""
Programs as they are, over an enrolled port and over a plain one, with the same data.

`software_cases.runs.lead` fails where the content differs, and where the path's counters do not
say that the program's bytes were redirected. bench/software.py runs more of them, and for longer.
"""

import pytest
from software_cases import dds, stores, streams, web
from software_cases.runs import lead

_SHORT = (streams.Iperf3V6, streams.Iperf3Dual, streams.Socat, stores.Redis, stores.Rsync,
          web.Wrk, web.CurlTls, web.Git, web.WebSocket, dds.Zenoh, dds.CycloneSecure)


@pytest.mark.parametrize('number', range(len(_SHORT)), ids=lambda number: _SHORT[number].name)
def test_program(ways, number):
    path, plain, enrolled = ways
    place = 2 * (number % 10)
    found = lead(_SHORT[number], path, plain.first + place, enrolled.first + place, quick=True)
    assert found.counted['redirected_bytes'] > 0, found.counted
    assert found.connections >= 2
