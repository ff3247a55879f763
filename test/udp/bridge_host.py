"""A host of the bridge's tests: a path that diverts, the node tun_bridge, an echoing far end."""

import contextlib
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import threading

from bridge_tools import bound, FAR, NEAR, networks, PREFIXES
from ipc_bypass.rules.table import RuleTable
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings
from support.waiting import PATIENCE, wait_until

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PORT = 7411


def diverting():
    """Return the rules of the tests: the UDP ports of DDS domain 0."""
    table = RuleTable()
    table.add('udp', 7400, 7649, 'divert')
    return table.rules()


class Host:
    """Two ends, a path that diverts what processes in `cgroup` send, and the node tun_bridge."""

    def __init__(self, near, far, cgroup, folder):
        """Start everything."""
        self.near, self.far, self.cgroup, self.folder = near, far, cgroup, folder
        self.control = str(folder / 'pool.sock')
        self.path = UdpPath(UdpSettings(udp_path='cgroup_skb', cgroup_path=str(cgroup),
                                        pin_directory='', control_socket=self.control))
        self.node = None

    def __enter__(self):
        """Bring it up."""
        try:
            self.path.configure()
            self.path.set_rules(diverting())
            self.path.activate()
            self.start_bridge()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception):
        """Take it down."""
        if self.node and self.node.poll() is None:
            self.node.kill()
            self.node.wait()
        self.path.cleanup()

    def inside(self, space, *words):
        """Return the words that run a program in a namespace and in the cgroup."""
        return ['sh', '-c', f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"', 'sh',
                *space.command(*words)]

    def start_bridge(self):
        """Start the node; it is active on return. It lives in the cgroup itself, as on a host."""
        parameters = {
            'prefixes': PREFIXES, 'namespace': self.far.name, 'addresses': networks(FAR),
            'routes': ['0.0.0.0/0', '::/0'], 'autostart': True, 'control_socket': self.control,
            'local_addresses': [f'{NEAR[4]}/32', f'{NEAR[6]}/128']}
        file = self.folder / 'bridge.yaml'
        file.write_text(json.dumps({'/**': {'ros__parameters': parameters}}))
        self.output = self.folder / 'bridge.log'
        with open(self.output, 'wb') as stream:
            self.node = subprocess.Popen(
                self.inside(self.near, sys.executable, '-m', 'ipc_bypass.nodes.tun_bridge',
                            '--ros-args', '--params-file', str(file)),
                stdout=stream, stderr=subprocess.STDOUT, cwd=ROOT,
                # Its own discovery is not in the ports of the rules.
                env={**os.environ, 'ROS_DOMAIN_ID': '77', 'ROS_LOG_DIR': str(self.folder)})
        wait_until(lambda: 'active: takes' in self.said() or self.node.poll() is not None
                   or '[ERROR]' in self.said(), 'the bridge is active')
        assert 'active: takes' in self.said(), self.said()

    def said(self):
        """Return what the node wrote."""
        return self.output.read_text(errors='replace')

    def tell(self):
        """End the node; return what it and the path counted, for a test that fails."""
        self.node.terminate()
        self.node.wait(PATIENCE)
        return self.said(), {name: count for name, count in self.path.counters().items() if count}

    def end_bridge(self):
        """End the node; return the counters that it tells at its end."""
        self.node.terminate()
        assert self.node.wait(PATIENCE) == 0, self.said()
        assert '[ERROR]' not in self.said(), self.said()
        told = re.search(r'released; (.*)', self.said())[1]
        return {name: int(count) for name, count in re.findall(r'(\w+) (\d+)', told)}


class Echo:
    """A receiver of numbered datagrams that sends each back; counts how often each came."""

    def __init__(self, space, address, count):
        """Listen."""
        self._sock = bound(space, address, PORT, timeout=0.2)
        self.seen, self._ended = bytearray(count), False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                data, source = self._sock.recvfrom(1 << 16)
                number = int.from_bytes(data[:4], 'big')
                self.seen[number] = min(255, self.seen[number] + 1)
                self._sock.sendto(data, source)

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """End."""
        self._ended = True
        self._thread.join()
        self._sock.close()
