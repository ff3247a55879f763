"""The interface that xdp_helper serves is removed with traffic in flight."""

from fault_lab import interface_faults


def test_interface_of_xdp_helper_removed(run):
    assert 'traffic again' in run(interface_faults.interface_removed).told
