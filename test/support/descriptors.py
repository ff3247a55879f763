"""
The descriptors of this process that a test may have left open.

The virtual machines start from threads of the same process (vm/conftest.py), so that numbers
come and go beside any test: what is compared is how many there are of each kind, without pipes to
other programs and the files of the machines, and until a moment later.
"""

from collections import Counter
import contextlib
import os
import re

from support.waiting import PATIENCE, wait_until

#: Seconds until what others opened for a moment is closed.
GRACE = PATIENCE / 6
#: Parts of paths: the files of the machines, and what lists descriptors.
_BESIDE = ('/ipc_bypass_machine_', '/proc/')


def open_descriptors(*, pipes=False):
    """
    Return how many descriptors there are of each kind, a Counter.

    Of what others close and open again, a kind is the same: 'socket', 'anon_inode:bpf-map', the
    path of a file.

    :param pipes: count them, too; those of the machines are among them, some at a time
    """
    kinds = Counter()
    for number in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            kinds[re.sub(r':\[\d+\]$', '', os.readlink(f'/proc/self/fd/{number}'))] += 1
    return Counter({kind: count for kind, count in kinds.items()
                    if (pipes or kind != 'pipe') and not any(part in kind for part in _BESIDE)})


def wait_for_descriptors(before):
    """Wait until no kind has more descriptors than in an earlier Counter."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not open_descriptors() - before, 'they are closed', GRACE)
    assert not open_descriptors() - before


@contextlib.contextmanager
def no_descriptor_left():
    """Hold what runs within to leaving no descriptor open."""
    before = open_descriptors()
    yield
    wait_for_descriptors(before)
