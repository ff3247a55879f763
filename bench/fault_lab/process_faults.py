"""What can befall the process of the node: it is killed, stopped, short of memory."""

from __future__ import annotations

from contextlib import suppress
import errno
import os
from pathlib import Path
import resource
import signal
import tempfile
import time

from fault_lab.shim import Shim
from fault_lab.trial import Rig, Trial
from ipc_bypass.kernel.errors import UnsupportedError

#: Descriptors and threads of a short-lived child.
_UNDER_WAY, _UNDER_WAY_SECONDS = 6, 30.0
#: Mount point, limit and use of the memory controller, of cgroup v1 and of v2.
_MEMORY = (('/sys/fs/cgroup/memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes'),
           ('/sys/fs/cgroup', 'memory.max', 'memory.current'))


def killed(rig: Rig, trial: Trial) -> None:
    """SIGKILL: open connections go on accelerated, new ones by TCP until the next start."""
    begin = time.monotonic()
    rig.node.kill()
    trial.add(rig.streams.wait(plain=None))
    if rig.lab.attached():
        trial.problems.append('a program is attached after SIGKILL')
    rig.start_again()
    trial.new_plain_s = time.monotonic() - begin


def ended(rig: Rig, trial: Trial) -> None:
    """SIGTERM: everything goes by TCP until the next start takes the connections up."""
    begin = time.monotonic()
    code = rig.node.end()
    if code:
        trial.problems.append(f'exit code {code}')
    trial.add(rig.streams.wait(plain=None))
    rig.start_again()
    trial.new_plain_s = time.monotonic() - begin


def stopped(rig: Rig, trial: Trial, *, seconds: float = 3.0, at_most: float = 0.0) -> None:
    """
    SIGSTOP, and SIGCONT later: traffic goes on meanwhile, by redirect or by TCP.

    :param at_most: seconds to go on, beyond `seconds`, until the budgets have run out
    """
    rig.node.signal(signal.SIGSTOP)
    try:
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < seconds or (
                not trial.told and passed < at_most):
            step = rig.streams.wait(plain=None)
            trial.add(step)
            trial.told = 'budgets ran out' if step.plain_bytes else trial.told
            time.sleep(0.2)
        probe = rig.streams.pairs[0].probe()
        trial.problems += probe['faults']
    finally:
        rig.node.signal(signal.SIGCONT)
    if rig.node.ask('state') != 'active':
        trial.problems.append('it is not active after SIGCONT')


def cycled(rig: Rig, trial: Trial, *, count: int = 1) -> None:
    """Deactivate and activate, `count` times: the process has to stay as large as it is."""
    before, longest = rig.node.size(), 0.0
    for _ in range(count):
        begin = time.monotonic()
        if not rig.node.change('deactivate', 'activate'):
            trial.problems.append(' / '.join(rig.node.errors()))
            break
        longest = max(longest, time.monotonic() - begin)
    after = rig.node.size()
    trial.new_plain_s = longest
    trial.told = f"{count} times, {before['rss_bytes'] >> 10} to {after['rss_bytes'] >> 10} KiB"
    # A look for older connections, with its child, may be under way.
    end = time.monotonic() + _UNDER_WAY_SECONDS
    while (grown := _grown(before, after)) and time.monotonic() < end:
        time.sleep(0.1)
        after = rig.node.size()
    trial.problems += grown


def _grown(before: dict, after: dict) -> list[str]:
    return [f'{name}: {before[name]} to {after[name]}' for name in ('fds', 'threads')
            if after[name] > before[name] + _UNDER_WAY]


def clock_jumped(rig: Rig, trial: Trial, *, shim: Shim, seconds: int) -> None:
    """Set the wall clock of the node by so many seconds: nothing may change."""
    counters = rig.node.ask('counters')
    shim.jump(seconds)
    earliest = time.time()
    there = rig.node.ask('wall_clock') - seconds
    if not earliest - 1 < there < time.time() + 1:
        trial.problems.append(f'the clock of the node is {there - earliest:.0f} s off')
    trial.add(rig.streams.wait())
    time.sleep(1.0)  # some ticks of the watchdog and of every timer
    after = rig.node.ask('counters')
    for name in ('leases_revoked', 'slots_freed_by_watchdog', 'stranded'):
        if after.get(name, 0) != counters.get(name, 0):
            trial.problems.append(f'{name} {counters.get(name, 0)} -> {after.get(name)}')
    cycled(rig, trial)


def out_of_address_space(rig: Rig, trial: Trial, *, room: int = 0) -> None:
    """No memory for another configure (RLIMIT_AS): it fails, and works when there is some."""
    pid = rig.node.pid
    rig.node.change('deactivate', 'cleanup')
    size = int(Path(f'/proc/{pid}/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size + room, before[1]))
    try:
        went = rig.node.change('configure')
        said = rig.node.errors()
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)
    _refused_or_worked(rig, trial, went, said)


def out_of_memory(rig: Rig, trial: Trial, *, room: int = 16 << 20) -> None:
    """Leave no room in a memory cgroup to configure: the kernel kills the node, or its child."""
    place = _MemoryCgroup()
    try:
        rig.node.change('deactivate', 'cleanup')
        Path(place.folder, 'cgroup.procs').write_text(str(rig.node.pid))
        rss = rig.node.size()['rss_bytes']
        place.limit(max(room, place.used() + room))
        begin = time.monotonic()
        try:
            went = rig.node.change('configure')
        except Exception as error:  # it was killed: that is one way that this may end
            trial.told = 'the node was killed'
            if rig.node.process.poll() != -signal.SIGKILL:
                trial.problems.append(' '.join(str(error).split()))
            if rig.lab.attached():
                trial.problems.append('a program is attached after the kill')
            rig.start_again()
            trial.new_plain_s = time.monotonic() - begin
            return
        said = rig.node.errors()
        place.limit(1 << 40)
        _refused_or_worked(rig, trial, went, said)
        trial.told += f', {rss >> 20} MB before'
    finally:
        place.close()


def _refused_or_worked(rig: Rig, trial: Trial, went: bool, said: list[str]) -> None:
    """See that a transition failed in one line and left nothing, or worked; then bring it up."""
    if went:
        trial.told = 'it was configured all the same'
        if not rig.node.change('activate'):
            trial.problems.append(' / '.join(rig.node.errors()))
        return
    trial.told = said[0].split(': ', 2)[-1] if said else ''
    if len(said) != 1:
        trial.problems.append(f'{len(said)} lines of error: {said}')
    if 'a fault in ipc_bypass' in ''.join(said):
        trial.problems.append(trial.told)
    held = {kind: len(found) for kind, found in rig.node.held().items() if found}
    if held or rig.lab.attached():
        trial.problems.append(f'it holds {held}, {rig.lab.attached()} attached')
    rig.lab.bring_up(rig.node)


class _MemoryCgroup:
    """A cgroup with a limit of memory, of v1 or v2; raises UnsupportedError where neither is."""

    def __init__(self) -> None:
        for above, limit, usage in _MEMORY:
            if not os.path.exists(f'{above}/cgroup.procs'):
                continue
            self.folder = tempfile.mkdtemp(prefix='ipc_bypass_soak_', dir=above)
            self._above, self._limit, self._usage = above, limit, usage
            if os.path.exists(f'{self.folder}/{limit}'):
                return
            os.rmdir(self.folder)
        raise UnsupportedError('limit the memory of a node', 'no memory controller of cgroups is '
                               'mounted', next_step='mount one of v1, or enable it in v2')

    def used(self) -> int:
        """Return its use in bytes."""
        return int(Path(self.folder, self._usage).read_text())

    def limit(self, size: int) -> None:
        """Set the limit in bytes."""
        Path(self.folder, self._limit).write_text(str(size))

    def close(self) -> None:
        """Move its processes out and remove it."""
        deadline = time.monotonic() + 5
        while os.path.exists(self.folder):
            for pid in Path(self.folder, 'cgroup.procs').read_text().split():
                with suppress(OSError):
                    Path(self._above, 'cgroup.procs').write_text(pid)
            try:
                os.rmdir(self.folder)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
