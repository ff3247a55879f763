"""
Places to run peers in: network namespaces with a /dev/shm of their own, as containers have.

The host's network is not touched: the bridge lives in a namespace too, and so does the loopback
interface of the loopback scenario. Names tell the process that made them, so that a later run
finds and removes what a killed one left behind.
"""

from __future__ import annotations

from contextlib import ExitStack
import os
from pathlib import Path
import re
import shutil
import subprocess

from ipc_bypass.kernel.errors import BypassError

PREFIX = 'ipcb-'
# RFC 2544, section C.2.2: set aside for benches, so no route of the host leads there.
ROUTED = '198.18'
SUBNET = f'{ROUTED}.0'

_NAMED = Path('/run/netns')
_NAME = re.compile(re.escape(PREFIX) + r'(\d+)-(\d+)-\w+')
_TOOLS = {'ip': 'iproute2', 'nsenter': 'util-linux', 'setpriv': 'util-linux'}


class NamespaceError(BypassError):
    """A network namespace, or what belongs into it, could not be made."""


class Namespace:
    """
    One network namespace with its own /dev/shm, as one container.

    A context manager: made on entry, removed on exit. Its mount namespace is held open by a
    small process that ends with this one, however this one ends.

    :param role: last part of the name, letters and digits
    """

    def __init__(self, role: str) -> None:
        self.name = f'{PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{role}'
        self.address = '127.0.0.1'
        self._holder: subprocess.Popen | None = None

    def __enter__(self) -> Namespace:
        _need_tools()
        try:
            _ip('netns', 'add', self.name)
            _ip('-n', self.name, 'link', 'set', 'lo', 'up')
            self._hold()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            self._holder.stdin.close()
            self._holder.stdout.close()
            self._holder = None
        _remove(self.name)

    @property
    def holder_pid(self) -> int:
        """Return the id of the process that holds the namespaces; raises when not entered."""
        return self._holder.pid

    def command(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` inside, killed when this process ends."""
        return ['setpriv', '--pdeathsig', 'KILL', '--', 'nsenter', '--net', '--mount',
                '--target', str(self.holder_pid), '--', *argv]

    def outside_command(self, *argv: str) -> list[str]:
        """Return the same for a program that has this host's mounts: the network alone."""
        return ['setpriv', '--pdeathsig', 'KILL', '--', 'nsenter', f'--net={_NAMED / self.name}',
                '--', *argv]

    def set_network(self, name: str, value: str) -> None:
        """Set what a file of /proc/sys/net says for this namespace; raises NamespaceError."""
        done = subprocess.run(self.command('sh', '-c', 'echo "$1" > "/proc/sys/net/$0"', name,
                                           value), capture_output=True, text=True, check=False)
        if done.returncode:
            raise NamespaceError(f'set {name} in {self.name}', done.stderr)

    def _hold(self) -> None:
        """Mount /dev/shm in a new mount namespace and keep that alive."""
        # `ip netns exec` makes a mount namespace whose mounts do not reach the host. The end of
        # the file on its input, when this process is gone, ends cat.
        self._holder = subprocess.Popen(
            ['ip', 'netns', 'exec', self.name, 'sh', '-c',
             'mount -t tmpfs -o nosuid,nodev ipcb /dev/shm && echo ready && exec cat'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            # The terminal's Ctrl-C goes to this process alone, which then removes things in order.
            start_new_session=True)
        answer = self._holder.stdout.readline().strip()
        if answer != 'ready':
            raise NamespaceError(f'mount /dev/shm in {self.name}', answer,
                                 next_step='run as root, or with CAP_SYS_ADMIN')


class Containers:
    """
    Two namespaces on a bridge, which lives in a third.

    A context manager that gives the two. Their addresses are 198.18.0.1 and 198.18.0.2.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> tuple[Namespace, Namespace]:
        with ExitStack() as stack:
            bridge = stack.enter_context(Namespace('bridge'))
            inside = ('-n', bridge.name, 'link')
            # Without snooping, discovery's multicast needs no querier.
            _ip(*inside, 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '0', 'stp_state', '0')
            _ip(*inside, 'set', 'br0', 'up')
            containers = []
            for number, role in enumerate(('a', 'b'), start=1):
                container = stack.enter_context(Namespace(role))
                port = f'port{number}'
                _ip(*inside, 'add', port, 'type', 'veth',
                    'peer', 'name', 'eth0', 'netns', container.name)
                _ip(*inside, 'set', port, 'master', 'br0', 'up')
                container.address = f'{SUBNET}.{number}'
                _ip('-n', container.name, 'addr', 'add', f'{container.address}/24', 'dev', 'eth0')
                _ip('-n', container.name, 'link', 'set', 'eth0', 'up')
                containers.append(container)
            self._stack = stack.pop_all()
        return containers[0], containers[1]

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)


class Routed:
    """
    Two namespaces that reach each other by way of a third, which routes.

    A context manager that gives them: one end, the third, the other end. The ends are 198.18.0.1
    and 198.18.1.1, and the third is 198.18.0.2 to the first one.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> tuple[Namespace, Namespace, Namespace]:
        with ExitStack() as stack:
            router = stack.enter_context(Namespace('router'))
            router.set_network('ipv4/ip_forward', '1')
            ends = []
            for number, role in enumerate(('a', 'b')):
                end = stack.enter_context(Namespace(role))
                subnet, port = f'{ROUTED}.{number}', f'port{number}'
                _ip('-n', router.name, 'link', 'add', port, 'type', 'veth',
                    'peer', 'name', 'eth0', 'netns', end.name)
                for namespace, name, address in ((router, port, f'{subnet}.2'),
                                                 (end, 'eth0', f'{subnet}.1')):
                    _ip('-n', namespace.name, 'addr', 'add', f'{address}/24', 'dev', name)
                    _ip('-n', namespace.name, 'link', 'set', name, 'up')
                _ip('-n', end.name, 'route', 'add', 'default', 'via', f'{subnet}.2')
                end.address = f'{subnet}.1'
                ends.append(end)
            router.address = f'{ROUTED}.0.2'
            self._stack = stack.pop_all()
        return ends[0], router, ends[1]

    def __exit__(self, *exception) -> None:
        self._stack.__exit__(*exception)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of runs whose process is gone; return their names."""
    removed = []
    for path in sorted(_NAMED.glob(f'{PREFIX}*')):
        match = _NAME.fullmatch(path.name)
        # A process id is used again in time; a process id and a start time are not.
        if match and _start_time(int(match[1])) != int(match[2]):
            _remove(path.name)
            removed.append(path.name)
    return removed


def remove_own() -> None:
    """Remove what is left of this process's namespaces, as after a signal in mid-step."""
    for path in _NAMED.glob(f'{PREFIX}{os.getpid()}-*'):
        _remove(path.name)


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): field 22, counted after the command name, which may hold spaces and brackets.
    fields = text.rpartition(')')[2].split()
    return None if fields[0] in 'ZX' else int(fields[19])


def _remove(name: str) -> None:
    """Remove a named namespace if it is there; its interfaces and the bridge go with it."""
    if (_NAMED / name).exists():
        subprocess.run(['ip', 'netns', 'del', name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    """Run ip(8)."""
    done = subprocess.run(['ip', *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespaceError(f'ip {" ".join(arguments)}', done.stderr, next_step=(
            'run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN'))


def _need_tools() -> None:
    """Raise NamespaceError where a program that this module runs is not installed."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise NamespaceError(f'run {tool}', 'it is not installed',
                                 next_step=f'apt-get install {package}')
