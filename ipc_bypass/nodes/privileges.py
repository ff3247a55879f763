"""
Which capabilities each node may use, and what of them is effective in which state.

docs/security.md says what each one buys. What stands here is a bound: a node that was started
with less has less, says what it lacks, and does without.
"""

import threading

from ipc_bypass.kernel import capability_sets
from ipc_bypass.kernel.errors import BypassError
from lifecycle_msgs.msg import State

#: Root's way with files: the cache, the logs, the control socket, pins of another user's node.
FILES = frozenset(('CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_DAC_READ_SEARCH', 'CAP_FOWNER'))
_BPF = frozenset(('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON'))
# Other namespaces and a bpffs to mount (SYS_ADMIN), locked memory before 5.11 (SYS_RESOURCE).
_HOST = frozenset(('CAP_SYS_ADMIN', 'CAP_SYS_RESOURCE'))
_OBSERVING = frozenset(('CAP_SYS_PTRACE', 'CAP_NET_BROADCAST'))

#: What any configuration of a node can use, by the node's name; the rest is given up at the start.
USED = {
    'ipc_bypass': FILES | _BPF | _HOST | _OBSERVING | {'CAP_NET_RAW'},
    'xdp_helper': FILES | _BPF | _HOST | _OBSERVING | {'CAP_NET_RAW', 'CAP_IPC_LOCK'},
    'sockmap_helper': FILES | _BPF | _HOST | _OBSERVING | {'CAP_NET_BIND_SERVICE'},
    'tun_bridge': FILES | _HOST | {'CAP_BPF', 'CAP_NET_ADMIN', 'CAP_NET_RAW', 'CAP_SYS_PTRACE'},
}
# What answers and timers use between transitions. Programs are loaded and attached in transitions
# alone, but for xdp_helper, whose services do, and sockmap_helper, whose services listen.
_WORKING = {
    'ipc_bypass': USED['ipc_bypass'] - {'CAP_NET_ADMIN', 'CAP_PERFMON', 'CAP_NET_RAW'},
    'xdp_helper': USED['xdp_helper'],
    'sockmap_helper': USED['sockmap_helper'] - {'CAP_PERFMON'},
    'tun_bridge': FILES | {'CAP_BPF', 'CAP_SYS_PTRACE'},
}
_CONFIGURED = (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE)


class Privileges:
    """
    The capabilities of the process that serves one node.

    :param name: the node's, a key of USED
    """

    def __init__(self, name):
        """
        Give up, for good, what the node never uses; call it before threads are started.

        Raises BypassError where the kernel does not let it.
        """
        self._name = name
        try:
            capability_sets.drop(USED[name])
        except OSError as error:
            raise BypassError('give up capabilities', errno=error.errno or 0, next_step='allow '
                              'capset(2) and prctl(2) in the seccomp profile') from error

    def give_up(self, names):
        """Give up more, for good, once the configuration is known."""
        capability_sets.drop(USED[self._name] - frozenset(names))

    def begin_transition(self):
        """Have all effective that is left, in this thread."""
        capability_sets.restore()

    def reach(self, state):
        """Have no more effective than a lifecycle_msgs State needs, in this thread."""
        capability_sets.lower(_WORKING[self._name] if state in _CONFIGURED else FILES)

    @staticmethod
    def without(function):
        """
        Return what `function()` returns in a thread that can only have FILES; raises what it does.

        DDS's own threads parse what the network sends: those that are started here can never
        have more than that.
        """
        answer = []

        def run():
            try:
                capability_sets.drop(FILES)
                answer.append((function(), None))
            except BaseException as error:
                answer.append((None, error))
        thread = threading.Thread(target=run, name='make-node')
        thread.start()
        thread.join()
        value, error = answer[0]
        if error is not None:
            raise error
        return value
