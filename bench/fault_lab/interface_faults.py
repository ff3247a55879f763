"""An interface with XDP programs of ours is removed with traffic in flight, and comes back."""

from __future__ import annotations

from contextlib import ExitStack
import json
import subprocess
import time

from fault_lab.lab import Lab
from fault_lab.node import Node
from fault_lab.streams import Pair, Streams
from fault_lab.trial import Trial
from ipc_bypass.bench.containers import Namespace

_LINK = 'ipcb0'
_PATIENCE = 120.0


def interface_removed(lab: Lab, trial: Trial) -> None:
    """
    Remove the interface that xdp_helper serves, and make it anew.

    The stream over it waits, as TCP does, and goes on; the programs are attached again.
    """
    with ExitStack() as stack:
        here, there = (stack.enter_context(Namespace(role)) for role in ('xdp', 'peer'))
        _join(here, there)
        node = stack.enter_context(Node(
            {'interfaces': [_LINK], 'pin_directory': ''}, kind='xdp_helper',
            prefix=here.outside_command(), environment=lab.environment()))
        if not node.change('configure', 'activate'):
            trial.problems.append(' / '.join(node.errors()))
            return
        lab.note(node)
        pair = stack.enter_context(Pair(
            '198.18.7.1', lab.port(), server_prefix=here.command(),
            client_prefix=there.command()))
        streams = Streams([pair])
        trial.add(streams.wait(plain=True))
        _attached(here)
        begin = time.monotonic()
        _ip('-n', here.name, 'link', 'del', _LINK)
        if node.ask('state') != 'active':
            trial.problems.append('the node is not active without the interface')
        time.sleep(0.5)
        _join(here, there)
        trial.add(streams.wait(plain=True))
        trial.told = f'traffic again after {time.monotonic() - begin:.1f} s'
        _attached(here)
        trial.add(streams.finish())
        lab.note(node)
        trial.problems += [f'it said {line}' for line in node.errors()]
        if node.end():
            trial.problems.append('it ended with an error')
    trial.problems += [f'left: {line}' for line in lab.left()]


def _join(here: Namespace, there: Namespace) -> None:
    """Make the link between two namespaces, with addresses."""
    _ip('-n', here.name, 'link', 'add', _LINK, 'type', 'veth', 'peer', 'name', 'eth0',
        'netns', there.name)
    for space, link, address in ((here, _LINK, '198.18.7.1/24'), (there, 'eth0', '198.18.7.2/24')):
        _ip('-n', space.name, 'address', 'add', address, 'dev', link)
        _ip('-n', space.name, 'link', 'set', link, 'up')


def _attached(space: Namespace) -> None:
    """Wait until an XDP program is on the interface; raises AssertionError."""
    end = time.monotonic() + _PATIENCE
    while not json.loads(_ip('-n', space.name, '-j', 'link', 'show', _LINK))[0].get('xdp'):
        if time.monotonic() > end:
            raise AssertionError(f'no program is attached to {_LINK}')
        time.sleep(0.05)


def _ip(*words: str) -> str:
    return subprocess.run(['ip', *words], capture_output=True, text=True, check=True).stdout


FAULTS = {'interface of xdp_helper removed': interface_removed}
