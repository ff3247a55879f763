"""Timers of the node xdp_helper go on after a fault; the rate of samples is obeyed."""

from ipc_bypass.nodes.xdp_guard import Guard
from ipc_bypass.nodes.xdp_samples import Allowance


class Log:
    """Stands for a logger."""

    def __init__(self):
        """Begin without lines."""
        self.lines = []

    def error(self, line):
        """Keep a line."""
        self.lines.append(line)


def test_a_fault_is_logged_once_and_goes_no_further():
    log = Log()

    def fail():
        raise OSError('gone')
    guarded = Guard(log)(fail)
    guarded()
    guarded()
    assert log.lines == ['a topic was not published: OSError: gone']


def test_less_than_one_a_period_is_obeyed():
    allowance = Allowance(0.0)
    taken = sum(allowance.take(5, 2.0, turn / 10) for turn in range(101))
    assert taken in (20, 21)
