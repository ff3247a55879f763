"""The look for connections that are older than their rule, and its end."""

from ipc_bypass.tcp.existing import OpenedBefore
from support.waiting import wait_until

_RULES = [None] * 65535 + ['accelerate']


def test_close_ends_a_look_that_is_under_way():
    """Its child does not outlive the path that asked."""
    look = OpenedBefore()
    look.look(_RULES, lambda: set())
    wait_until(lambda: look._child is not None, 'the child is started')

    look.close()

    wait_until(lambda: not look._busy, 'the look has ended')
    assert look._child.returncode is not None


def test_a_closed_one_looks_no_more():
    """Whoever asks it late is not served, and starts nothing."""
    look = OpenedBefore()
    look.close()

    look.look(_RULES, lambda: set())

    assert not look._busy
    assert look._child is None
