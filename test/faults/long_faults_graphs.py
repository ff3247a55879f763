"""Real DDS traffic while the node is stopped, killed and started again."""

from fault_lab.graph_faults import node_in_harm
from fault_lab.trial import attempt
from support.trials import right


def test_messages_of_fast_dds_arrive():
    trial = right(attempt('fastdds', lambda trial: node_in_harm(trial, 'fastdds', seconds=5.0,
                                                                pause=0.7)))
    assert 'SIGKILL' in trial.told
