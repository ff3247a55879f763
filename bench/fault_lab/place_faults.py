"""What can befall the places that a node serves: its cgroup, a container, an interface."""

from __future__ import annotations

from contextlib import ExitStack
import functools
from pathlib import Path
import subprocess
import time

from fault_lab.lab import Lab, remove_cgroup
from fault_lab.streams import Pair, Streams
from fault_lab.trial import Trial
from ipc_bypass.bench.containers import Containers
from ipc_bypass.kernel.cgroup import find_cgroup2

#: Seconds in which who sends to a destroyed container is told; docs/tcp_path.md says one or so.
_TOLD_SECONDS = 60.0


def cgroup_removed(lab: Lab, trial: Trial) -> None:
    """
    Remove the cgroup that a node serves while connections of it are open.

    Its processes are moved first: the kernel removes no cgroup that has any.
    """
    node, streams = lab.active(), lab.streams()
    streams.wait()
    above = Path(find_cgroup2(), 'cgroup.procs')
    for pid in Path(lab.cgroup, 'cgroup.procs').read_text().split():
        above.write_text(pid)
    if not remove_cgroup(lab.cgroup):
        trial.problems.append('the cgroup is kept')
    trial.add(streams.wait(plain=None))
    trial.problems += streams.pairs[0].probe()['faults']
    if node.ask('state') != 'active':
        trial.problems.append('the node is not active any more')
    node.change('deactivate')
    went, said = node.change('activate'), node.errors()
    trial.told = said[-1].split(': ', 2)[-1] if said else ''
    if went or len(said) != 1 or 'a fault in ipc_bypass' in said[0]:
        trial.problems.append(f'activate without a cgroup: {went}, {said}')
    trial.add(streams.finish())
    # The same folder again, and a new configure: it works as on the first day.
    lab.cgroup.mkdir()
    node.change('cleanup')
    lab.bring_up(node)
    streams = lab.streams()
    trial.add(streams.wait())
    trial.add(streams.finish())
    if node.end():
        trial.problems.append('it ended with an error')
    trial.problems += [f'left: {line}' for line in lab.left()]


def container_destroyed(lab: Lab, trial: Trial, *, link_down: bool = False) -> None:
    """
    Destroy a container with traffic in flight: others do not notice, nothing is left.

    :param link_down: its link goes down before: redirected streams go on, for they do not use it
    """
    node, streams = lab.active(), lab.streams()
    with ExitStack() as stack:
        one, other = stack.enter_context(Containers())
        pair = stack.enter_context(Pair(
            other.address, lab.port(), server_prefix=[*lab.inside(), *other.command()],
            # So slow that a reader which waits for a processor has room in its budget.
            client_prefix=[*lab.inside(), *one.command()], rate=1e6))
        Streams([pair]).wait()
        if link_down:
            subprocess.run(['ip', '-n', one.name, 'link', 'set', 'eth0', 'down'], check=True)
            step = Streams([pair]).wait()
            trial.add(step)
            if step.plain_bytes:
                trial.problems.append('bytes went by TCP over a link that is down')
            subprocess.run(['ip', '-n', one.name, 'link', 'set', 'eth0', 'up'], check=True)
        streams.mark()
        begin = time.monotonic()
        pair.server.kill()
        other.__exit__()
        # Bytes that a killed reader had not read are its own loss; the one who sends is told.
        while not (faults := pair.client.ask('mark')['faults']):
            if time.monotonic() > begin + _TOLD_SECONDS:
                trial.problems.append('the other end was not told')
                break
            time.sleep(0.05)
        trial.told = f'told after {time.monotonic() - begin:.2f} s: {faults}'
    trial.add(streams.wait())
    trial.add(streams.finish())
    if node.end():
        trial.problems.append('it ended with an error')
    trial.problems += [f'left: {line}' for line in lab.left()]


FAULTS = {
    'cgroup removed': cgroup_removed, 'container destroyed': container_destroyed,
    'link down, then the container destroyed': functools.partial(
        container_destroyed, link_down=True)}
