"""Calls of bpf(2) that fail while the paths of TCP and UDP are made from nothing."""

from fault_lab.bpf_calls import BpfCalls, choose
from fault_lab.shim import Shim
from fault_lab.trial import Rig
from support.trials import right

#: How many calls of each step are made to fail; bench/soak.py goes through more of them.
STEPS = {'configure': 2, 'activate': 2, 'enroll': 1, 'counters': 1, 'deactivate': 1, 'cleanup': 1}


def test_calls_of_bpf_fail(lab, tmp_path):
    shim = Shim(tmp_path)
    rig = Rig(lab, pairs=0, environment=shim.environment, udp_path='cgroup_skb',
              pool_size=4 << 20, udp_domains=[str(lab.domain)], max_connections=16)
    calls = BpfCalls(rig, shim, lab.port())
    for step, most in STEPS.items():
        found = calls.walk(step, most=most, rotate=True)
        assert not found.problems, found
        assert found.tried or step not in ('configure', 'activate'), found
    right(rig.finish())
    shim.close()


def test_the_choice_of_calls():
    commands = [0, 0, 5, 2, 2, 2, 2, 2, 6]
    assert choose(commands) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert choose(commands, 20) == [1, 2, 3, 4, 6, 8, 9]
    assert choose(commands, 2) == [1, 9]
    assert choose([], 5) == []
