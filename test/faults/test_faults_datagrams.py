"""Stopped processes around a diverted port: each datagram arrives once."""

from fault_lab import datagram_faults


def test_node_and_consumer_stopped(run):
    run(datagram_faults.stopped, who=('node', 'consumer'), seconds=0.8)
