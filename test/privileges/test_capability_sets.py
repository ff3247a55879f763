"""Capabilities of a thread: lowered, raised, given up for good, by real processes."""

import subprocess
import sys

from support.waiting import PATIENCE

_SCRIPT = """
import os, subprocess, sys, threading
from ipc_bypass.kernel import capability_sets as sets
from ipc_bypass.kernel.capabilities import effective, missing
all_of_it = effective()
assert sets.permitted() == all_of_it and {'CAP_BPF', 'CAP_NET_ADMIN'} <= all_of_it
sets.lower(['CAP_BPF', 'CAP_IPC_LOCK'])
assert effective() == {'CAP_BPF', 'CAP_IPC_LOCK'} & all_of_it, effective()
seen = []
thread = threading.Thread(target=lambda: (seen.append(effective()), sets.restore(),
                                          seen.append(effective())))
thread.start()
thread.join()
# A thread begins with what its maker has, and what it raises is its own.
assert seen == [{'CAP_BPF', 'CAP_IPC_LOCK'} & all_of_it, all_of_it], seen
assert effective() == {'CAP_BPF', 'CAP_IPC_LOCK'} & all_of_it
assert missing(['CAP_NET_ADMIN']) == ['CAP_NET_ADMIN']
sets.restore()
assert effective() == all_of_it
sets.drop(['CAP_BPF'])
assert effective() == sets.permitted() == {'CAP_BPF'}
sets.restore()
assert effective() == {'CAP_BPF'}
# Nor does root get it back by executing something.
told = subprocess.run([sys.executable, '-c', "from ipc_bypass.kernel.capabilities import "
                       "effective; print(*effective())"], capture_output=True, text=True)
assert told.stdout.split() == ['CAP_BPF'], told
print('good')
"""


def test_sets(privileged):
    done = subprocess.run([sys.executable, '-c', _SCRIPT], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.stdout == 'good\n', done.stderr


def test_without_setpcap(privileged):
    """In a container root may not be able to lower its bounding set: all the same."""
    done = subprocess.run(['setpriv', '--bounding-set', '-setpcap', sys.executable, '-c',
                           _SCRIPT], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == 'good\n', done.stderr
