"""Processes of a graph in two containers: Fast DDS by rclpy, Cyclone DDS by ddsperf."""

import contextlib
from contextlib import ExitStack
import os
from pathlib import Path
import subprocess
import sys

import ipc_bypass
from ipc_bypass.bench import profiles
from ipc_bypass.graph.model import End, Pair
from ipc_bypass.graph.processes import look_at
from ipc_bypass.graph.sockets import SocketTables
from ipc_bypass.graph.survey import Request, survey
import rclpy
from support.waiting import wait_until

ROOT = str(Path(ipc_bypass.__file__).resolve().parents[1])
FAST_PEER = Path(__file__).parents[1] / 'support' / 'fast_peer.py'
#: Samples by TCP, discovery by UDP; the port comes from the environment.
TCP_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com"><profiles><transport_descriptors>
<transport_descriptor><transport_id>u</transport_id><type>UDPv4</type></transport_descriptor>
<transport_descriptor><transport_id>t</transport_id><type>TCPv4</type>
<listening_ports><port>${IPC_BYPASS_PORT}</port></listening_ports></transport_descriptor>
</transport_descriptors>
<participant profile_name="t" is_default_profile="true"><rtps>
<useBuiltinTransports>false</useBuiltinTransports>
<userTransports><transport_id>t</transport_id><transport_id>u</transport_id></userTransports>
<builtin><metatrafficUnicastLocatorList><locator><tcpv4><address>0.0.0.0</address>
<physical_port>0</physical_port><port>0</port></tcpv4></locator></metatrafficUnicastLocatorList>
<metatrafficMulticastLocatorList><locator><udpv4><address>239.255.0.1</address></udpv4></locator>
</metatrafficMulticastLocatorList></builtin>
<defaultUnicastLocatorList><locator><tcpv4><address>0.0.0.0</address>
<physical_port>0</physical_port><port>0</port></tcpv4></locator></defaultUnicastLocatorList>
</rtps></participant></profiles></dds>
"""
TOPIC = '/ipc_bypass_test'


class Peers:
    """Processes in two containers on a bridge, `a` and `b`, which end with it."""

    def __init__(self, a, b, *, domain):
        """Note where they will run; `domain` is theirs where nothing else is said."""
        self.a, self.b, self.domain = a, b, domain
        self._stack = ExitStack()

    def __enter__(self):
        """Give the containers what those of an engine have: a way for multicast."""
        for container in (self.a, self.b):
            subprocess.run(container.command('ip', 'route', 'replace', 'default', 'dev', 'eth0'),
                           check=True)
        return self

    def __exit__(self, *_exception):
        """End every process."""
        self._stack.close()

    def run(self, where, *command, prefix=(), **environment):
        """
        Run a command in a container; return its Popen.

        `where` is None for outside of both; `prefix` are words before the command.
        """
        left_out = 'LD_LIBRARY_PATH' if command[0] == 'ddsperf' else ''
        process = subprocess.Popen(
            [*prefix, *(where.command(*command) if where else command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**{name: value for name, value in os.environ.items() if name != left_out},
                 'ROS_DOMAIN_ID': str(self.domain), 'RMW_IMPLEMENTATION': 'rmw_fastrtps_cpp',
                 # Tests of other folders set it for their processes.
                 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET', **environment})
        self._stack.callback(_end, process)
        return process

    def fast(self, where, role, **how):
        """Run a Fast DDS publisher or subscriber of TOPIC: role 'pub' or 'sub'."""
        rate = ('20', '1000') if role == 'pub' else ()
        return self.run(where, sys.executable, str(FAST_PEER), role, *rate, **how)

    def fast_by_tcp(self, profile, *ports, **how):
        """Run a publisher and a subscriber that talk by TCP on two ports; return both."""
        profile.write_text(TCP_PROFILE)
        return [self.fast(container, role, FASTDDS_DEFAULT_PROFILES_FILE=str(profile),
                          IPC_BYPASS_PORT=str(port), **how)
                for container, role, port in zip((self.a, self.b), ('pub', 'sub'), ports,
                                                 strict=True)]

    def doctor(self, *words, before=(), **environment):
        """Start `ipc-bypass doctor` for the graph of this domain and return its Popen."""
        path = os.pathsep.join(filter(None, [ROOT, os.environ.get('PYTHONPATH')]))
        process = subprocess.Popen(
            [*before, sys.executable, '-m', 'ipc_bypass.cli.main', 'doctor', '--graph-only',
             '--domain', str(self.domain), *words], text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd='/',
            env={**os.environ, 'PYTHONPATH': path, **environment})
        self._stack.callback(_end, process)
        return process

    def ddsperf(self, where, *words, **environment):
        """Run Cyclone's ddsperf."""
        return self.run(where, 'ddsperf', '-i', str(self.domain), *words, **environment)


class Host:
    """
    A graph with one of each: by shared memory, UDP and TCP, of Fast DDS and of Cyclone DDS.

    `graph` is what one look found, `doctors` what the command printed meanwhile.
    """

    def __init__(self, peers, folder):
        """Start everything, and look when all have found each other."""
        self.folder = folder
        self.publisher, self.near, self.far = (
            peers.fast(where, role) for where, role in (
                (peers.a, 'pub'), (peers.a, 'sub'), (peers.b, 'sub')))
        self.fast_tcp = peers.fast_by_tcp(folder / 'tcp.xml', 23901, 23902)
        self.perf = [peers.ddsperf(peers.b, 'pub', '50Hz', 'size', '1k'),
                     peers.ddsperf(peers.a, 'sub')]
        ends = (peers.a, 23911, peers.b, 23912), (peers.b, 23912, peers.a, 23911)
        self.perf_tcp = [peers.ddsperf(here, word, CYCLONEDDS_URI=profiles.tcp(
            here.address, port, there.address, peer))
            for (here, port, there, peer), word in zip(ends, ('sub', 'pub'), strict=True)]
        self.all = [self.publisher, self.near, self.far, *self.fast_tcp, *self.perf,
                    *self.perf_tcp]
        wait_for(*self.all)
        (folder / 'sitecustomize.py').write_text(WITHOUT_RCLPY)
        self.doctors = {
            'table': peers.doctor('--losses', '1'),
            'user': peers.doctor('--json', before=[
                'setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--'],
                ROS_LOG_DIR='/tmp', HOME='/tmp'),
            'without rclpy': peers.doctor('--json', PYTHONPATH=os.pathsep.join(
                [str(folder), ROOT, os.environ.get('PYTHONPATH', '')]))}
        wanted = [(self.publisher, self.near), (self.publisher, self.far), self.fast_tcp,
                  self.perf, self.perf_tcp]
        self.graph = look_until(
            lambda graph: all(map(_is_decided, (self.pair(*two, graph) for two in wanted))),
            'every pair', domain=peers.domain)
        self.doctors = {name: (*process.communicate(timeout=120), process.returncode)
                        for name, process in self.doctors.items()}

    def pair(self, one, other, graph=None):
        """Return the pair between two processes that has a way, a Pair of none otherwise."""
        pairs = pairs_between(graph or self.graph, one, other)
        return next(filter(_is_decided, pairs),
                    pairs[0] if pairs else Pair('', '', End(0), End(0)))


def _is_decided(pair):
    """Return whether a way was found; a node of another session may not tell that of TCP."""
    return pair.way != 'unknown' or pair.reason.startswith('TCP; ')


WITHOUT_RCLPY = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'rclpy':
            raise ModuleNotFoundError('No module named rclpy', name='rclpy')
sys.meta_path.insert(0, Finder())
"""


def fast_library():
    """Return the path of Fast DDS's library, as this process would load it."""
    rclpy.init(args=[])
    rclpy.try_shutdown()
    with open('/proc/self/maps', encoding='utf-8') as stream:
        return next(line.split()[-1] for line in stream if 'libfastdds.so' in line)


def _end(process):
    process.kill()
    process.wait()


def wait_for(*processes):
    """Wait until processes have their DDS library and what sockets they will have."""
    wait_until(lambda: all(map(_speaks, processes)), 'processes speak DDS', interval=0.1)


def _speaks(process):
    with contextlib.suppress(OSError):
        found = look_at(process.pid, SocketTables())
        return found is not None and (found.sockets or found.comm == 'sleep')
    return False


def look_until(condition, what, times=4, **how):
    """Look until what a graph shows meets a condition, and return the graph."""
    for _ in range(times):
        graph = survey(Request(**how))
        if condition(graph):
            return graph
    raise AssertionError(f'{what}: not within {times} looks, the last one is {graph}')


def pairs_between(graph, one, other):
    """Return the pairs of two processes, those of TOPIC first."""
    return sorted((pair for pair in graph.pairs if not pair.infrastructure and {
        pair.publisher.pid, pair.subscriber.pid} == {one.pid, other.pid}),
        key=lambda pair: pair.topic != TOPIC)
