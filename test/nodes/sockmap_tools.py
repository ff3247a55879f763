"""The node sockmap_helper as a process, what it holds in the kernel, and who talks through it."""

import contextlib
from pathlib import Path

from ipc_bypass.nodes.topics import LATCHED
from ipc_bypass_interfaces.msg import ProxyStatus
from ipc_bypass_interfaces.srv import AddForward, ListForwards, RemoveForward
from node_tools import HelperProcess
from support.streams import connect, read_exactly

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'config' / 'sockmap_helper.yaml'
LAUNCH_FILE = ROOT / 'launch' / 'sockmap_helper.launch.py'
#: Words before a command that take from it what the kernel's ways need, and ports below 1024.
UNPRIVILEGED = ('setpriv', '--bounding-set',
                '-bpf,-sys_admin,-net_admin,-perfmon,-net_bind_service')
#: (path, reason) of connections where the kernel has no way for them.
SHORTCUT = ('shortcut', '')
SPLICED = ('splice', 'shortcut_unavailable, sk_skb_unavailable')
_KINDS = {'prog_id': 'programs', 'map_id': 'maps', 'link_id': 'links'}


class SockmapProcess(HelperProcess):
    """The node as a process; it asks no backend unless health_interval_s is given."""

    services = {'add_forward': AddForward, 'remove_forward': RemoveForward,
                'list_forwards': ListForwards}

    def __init__(self, client, folder, *, before=(), **parameters):
        """Start it; `before` are words before the command, as those of setpriv."""
        super().__init__(client, folder, 'sockmap_helper',
                         {'health_interval_s': 0.0, **parameters},
                         command=('ipc_bypass.nodes.sockmap_helper',), prefix=before)

    def __exit__(self, *exception):
        """End it; it never met what its authors did not think of."""
        said = ''
        try:
            if self.process.poll() is None:
                self.end()
            said = self.output()
        finally:
            super().__exit__(*exception)
        assert 'a fault in ipc_bypass' not in said

    def status(self):
        """Return the list that its ~/status are added to."""
        return self.client.listen(ProxyStatus, f'{self.name}/status', LATCHED)

    def look(self, connections=100):
        """Return ({id: ProxyForward}, [ProxyConnection]) as they are now."""
        answer = self.ask('list_forwards', connections=connections)
        assert answer.error_code == 0, answer.error_msg
        return {forward.id: forward for forward in answer.forwards}, answer.connections

    def wait_for_paths(self, *expected):
        """Wait until the open connections have these (path, reason)."""
        def there():
            found = sorted((each.path, each.reason) for each in self.look()[1])
            return found == sorted(expected)
        self.client.spin_until(there, f'the connections are on {expected}')

    def held(self):
        """Return the ids of the kernel's objects that it has open: {'programs': ids, ...}."""
        found = {kind: set() for kind in _KINDS.values()}
        for path in Path(f'/proc/{self.process.pid}/fdinfo').iterdir():
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_text().splitlines():
                    name, _, value = line.partition(':')
                    if name in _KINDS:
                        found[_KINDS[name]].add(int(value))
        return found


def levels(message):
    """Return {what: (level, text)} of a DiagnosticArray."""
    return {status.name.partition(': ')[2]: (status.level, status.message)
            for status in message.status}


def nothing(held):
    """Return whether a node has nothing of the kernel's open."""
    return not any(held.values())


def echo(sock, data):
    """Send to a backend that echoes, and read the same."""
    sock.sendall(data)
    assert read_exactly(sock, len(data)) == data


def refused(port):
    """Return whether nobody listens on a port."""
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # accepted, and then there was no backend
        pass
    return False


def turned_away(port):
    """Return whether a port accepts a connection and ends it."""
    try:
        with connect(port) as sock:
            return ended(sock)
    except ConnectionResetError:
        return True


def ended(sock):
    """Read to the end, or to the reset, of a connection; return whether it has come."""
    try:
        while sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True
