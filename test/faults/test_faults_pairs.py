"""Two nodes at once, and another version over the pins of a killed one with open connections."""

from fault_lab import pair_faults
from support.trials import right


def test_two_race_for_the_pins(lab):
    for trial in pair_faults.at_once(lab, 1):
        right(trial)


def test_upgraded(run):
    run(pair_faults.upgraded)
