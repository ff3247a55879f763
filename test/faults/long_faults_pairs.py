"""Two processes that start at once, and pins that differ by their mark alone."""

from fault_lab import pair_faults


def test_two_processes_started_at_once(run):
    run(pair_faults.started_at_once)


def test_other_mark_alone(run):
    run(pair_faults.upgraded, programs=False)
