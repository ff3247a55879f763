"""Containers on bridges, as namespaces, with a fast path in the namespace of the bridges."""

from contextlib import ExitStack
import ctypes
import errno
import json
import socket
import struct
import subprocess
import threading
import time

from ipc_bypass.kernel.bpfcall import address, bpf
from ipc_bypass.kernel.uapi import AttachType, BpfCmd
from support.namespaces import Namespace
from support.waiting import wait_until

PORT, OTHER_PORT = 7400, 7999
_ALL = 0x0003


class Container(Namespace):
    """A namespace with eth0, whose other end is `port` of a bridge."""

    def __init__(self, switch, number, host, bridge='br0', mac=None, mtu=1500):
        """Make it; `host` is the last part of its addresses, 10.125.0.N and fd00:125::N."""
        super().__init__(f'c{number}')
        self.port, self.switch = f'port{number}', switch
        self.address, self.address_v6 = f'10.125.0.{host}', f'fd00:125::{host:x}'
        self.mac = mac or f'02:00:00:00:{number:02x}:01'
        switch.ip('link', 'add', self.port, 'mtu', str(mtu), 'type', 'veth', 'peer', 'name',
                  'eth0', 'address', self.mac, 'mtu', str(mtu), 'netns', self.name)
        switch.ip('link', 'set', self.port, 'master', bridge, 'up')
        self.ip('link', 'set', 'eth0', 'up')
        self.own(self.address, self.address_v6)

    def own(self, v4, v6):
        """Give it addresses."""
        self.ip('address', 'add', f'{v4}/24', 'dev', 'eth0')
        self.ip('address', 'add', f'{v6}/64', 'dev', 'eth0', 'nodad')

    def socket(self, kind=socket.SOCK_DGRAM, family=socket.AF_INET, *, bind=None):
        """Return a socket in it, with patience; bound to all addresses where `bind` is a port."""
        with self.entered():
            made = socket.socket(family, kind)
        made.settimeout(20)
        if bind is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(('', bind))
        return made

    def frames(self):
        """Return a packet socket of eth0 that does not wait."""
        with self.entered():
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind(('eth0', _ALL))
        made.setblocking(False)
        return made

    def knows(self, other):
        """Enter another container's MAC, so that no ARP is needed."""
        self.ip('neigh', 'replace', other.address, 'lladdr', other.mac, 'dev', 'eth0')
        self.ip('neigh', 'replace', other.address_v6, 'lladdr', other.mac, 'dev', 'eth0')

    def unplug(self):
        """Remove its veth."""
        self.switch.ip('link', 'del', self.port)


class Lab:
    """A namespace with bridges; a context manager that removes all that was made."""

    def __init__(self):
        """Make it, with br0."""
        self._stack, self.containers = ExitStack(), []
        self.switch = self._stack.enter_context(Namespace('b'))
        self.bridge('br0')

    def bridge(self, name):
        """Make a bridge."""
        self.switch.ip('link', 'add', name, 'type', 'bridge', 'forward_delay', '0',
                       'mcast_snooping', '0')
        self.switch.ip('link', 'set', name, 'up')

    def add(self, host=None, **options):
        """Return a new Container."""
        number = len(self.containers) + 1
        self.containers.append(self._stack.enter_context(
            Container(self.switch, number, host or number, **options)))
        return self.containers[-1]

    def acquaint(self):
        """Let the containers know each other's MACs."""
        for one in self.containers:
            for other in self.containers:
                if one is not other:
                    one.knows(other)

    def index(self, name):
        """Return the ifindex of an interface of the bridges' namespace."""
        found = subprocess.run(['ip', '-n', self.switch.name, '-j', 'link', 'show', name],
                               capture_output=True, text=True, check=True)
        return json.loads(found.stdout)[0]['ifindex']

    def attach(self, path):
        """Attach a FastPath, which it closes before anything else."""
        self._stack.callback(path.close)
        with self.switch.entered():
            path.attach()
        return path

    def traffic_control(self):
        """Return the lines of `tc qdisc` that are not of the kernel's own making."""
        found = subprocess.run(self.switch.command('tc', 'qdisc'), capture_output=True, text=True,
                               check=True)
        return ''.join(line for line in found.stdout.splitlines(True) if 'noqueue' not in line)

    def programs(self, *names):
        """Return the ids of the tcx programs at the ingress of interfaces."""
        with self.switch.entered():
            return [identifier for name in names for identifier in tcx_programs(self.index(name))]

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Remove all."""
        self._stack.close()


class Traffic:
    """Numbered datagrams from one container to another's address, without end."""

    def __init__(self, sender, target, *, pause=0.0002):
        """Set it up; it flows within a `with` block."""
        self.sent, self._ending, self._pause = 0, False, pause
        self._socket, self._to = sender.socket(), (target.address, PORT)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def goes_on(self, count=50):
        """Wait until so many more datagrams were sent."""
        wanted = self.sent + count
        wait_until(lambda: self.sent >= wanted, 'traffic goes on', interval=0.001)
        return self.sent

    def _run(self):
        while not self._ending:
            try:
                self._socket.sendto(struct.pack('=I', self.sent), self._to)
            except OSError:
                pass  # no route for a moment
            self.sent += 1
            time.sleep(self._pause)

    def __enter__(self):
        """Let it flow."""
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        """End it."""
        self._ending = True
        self._thread.join()
        self._socket.close()


def numbers(opened):
    """Return the numbers of all datagrams that have come, as Traffic sends them."""
    return [struct.unpack('=I', datagram)[0] for datagram in drain(opened)]


def tcx_programs(index):
    """Return the ids of the programs at an interface's tcx ingress: none before kernel 6.6."""
    place = ctypes.create_string_buffer(256)
    attr = bytearray(struct.pack('=IIIIQII4Q', index, AttachType.TCX_INGRESS, 0, 0,
                                 address(place), 64, 0, 0, 0, 0, 0))
    try:
        bpf(BpfCmd.PROG_QUERY, attr)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return []
    count, = struct.unpack_from('=I', attr, 24)
    return list(struct.unpack_from(f'={count}I', place.raw))


def in_use(path, *containers):
    """Wait until the fast path hands over from and to these containers."""
    wanted = {container.port for container in containers}
    wait_until(lambda: wanted <= {port.name for port in path.ports() if port.in_use},
               f'{wanted} in use')


def status(path, container):
    """Return the PortStatus of a container."""
    return next(port for port in path.ports() if port.name == container.port)


def grown(path, before):
    """Return the counters that grew since, by how much."""
    after = path.counters()
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def total(counters):
    """Return how many frames counters are about."""
    return sum(count for name, count in counters.items()
               if name == 'packets' or name.startswith('passed_'))


def drain(opened):
    """Return all datagrams or frames that have come."""
    found = []
    opened.setblocking(False)
    try:
        while True:
            found.append(opened.recv(65536))
    except BlockingIOError:
        return found
    finally:
        opened.settimeout(20)


def object_ids(path):
    """Return the ids of what it loaded, for Leaks.note."""
    info = path.program_info
    return {'programs': [info.id], 'maps': list(info.map_ids)}
