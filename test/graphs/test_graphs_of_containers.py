"""
Nodes with a profile in two containers, with the node that accelerates them.

Short forms of bench/graph_soak.py, which runs for minutes and ends nodes a hundred times.
"""

import signal

from graph_peers import Graph, KINDS
import graph_soak
import pytest
from support.capability import need_capabilities

#: Of the pseudo-random restarts: the first four are each of talker and listener, killed and ended.
SEED = 49
#: (seconds, restarts). Cyclone's writer waits 10 s for a killed reader, its lease.
LENGTHS = {'fastdds': (10, 6), 'cyclonedds': (5, 4)}


@pytest.fixture(scope='module', params=KINDS)
def graph(request):
    """Yield a Graph of each kind."""
    need_capabilities()
    with Graph(request.param) as made:
        yield made


def test_every_message_arrives(graph):
    before = graph.redirected()
    for name, told in graph_soak.steady(graph, LENGTHS[graph.kind][0]).items():
        assert not told['faults'], f'{name}: {told}'
    # Without that, it would be a test of plain TCP.
    assert graph.redirected() > before


def test_restarted_nodes_find_each_other(graph):
    before = graph.redirected()
    # Not images: some versions of Fast DDS hang, rarely, when a reader comes in the middle of a
    # message of many fragments. The soak has them.
    found = list(graph_soak.restarts(graph, LENGTHS[graph.kind][1], seed=SEED, stream='state',
                                     ends=(signal.SIGKILL, signal.SIGTERM)))
    assert len({(each['who'], each['signal']) for each in found}) == 4
    assert all(each['found_s'] is not None and not each['faults'] for each in found), found
    assert graph.redirected() > before
