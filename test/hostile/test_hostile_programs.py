"""
The programs of the UDP path and the container fast path on mutated packets, by PROG_TEST_RUN.

test/xdp/test_xdp_chain_fuzz.py does that with every XDP slot; `scripts/fuzz --programs` has the
long form of both.
"""

from programs import CASES
import pytest


@pytest.mark.parametrize('name', ['skb_capture', 'tc_fast_path'])
def test_mutated_packets(name):
    """Verdicts and what is written are the model's; counters add up."""
    told = CASES[name](6000)
    assert sum(told.values()) == 6000
