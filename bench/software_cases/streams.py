"""Streams: iperf3, sockperf, netcat and socat."""

from __future__ import annotations

import json
import os
import re

from software_cases.place import Case, digest, Outcome, Wrong


class Iperf3(Case):
    """One sender, one reader; `options` go to the client."""

    name, bind = 'iperf3', '127.0.0.1'
    options: tuple[str, ...] = ()

    def serve(self, port):
        self.place.start('iperf3', '--server', '--port', port, '--bind', self.bind, port=port)

    def measure(self, port):
        size = '200M' if self.place.quick else '2G'
        found = json.loads(self.place.run(
            'iperf3', '--client', self.address, '--port', port, '--bytes', size, '--json',
            *self.options))
        if 'error' in found:
            raise Wrong('run iperf3', found['error'])
        end = found['end']
        sent = end['sum_sent']['bytes']
        # A client that ends at once leaves the last bytes unread, by plain TCP too.
        return Outcome({'mbit_per_s': end['sum_received']['bits_per_second'] / 1e6},
                       least_bytes=sent, most_bytes=int(sent * 1.05) + (1 << 20))


class Iperf3V6(Iperf3):
    """Over IPv6."""

    name, bind, address = 'iperf3 IPv6', '::1', '::1'


class Iperf3Dual(Iperf3):
    """A server on a dual-stack socket, and a client by IPv4."""

    name, bind = 'iperf3 dual-stack', '::'


class Iperf3Reverse(Iperf3):
    """The server sends, on four connections."""

    name, options = 'iperf3 reverse, 4 streams', ('--reverse', '--parallel', '4')
    long = True


class Sockperf(Case):
    """Requests and answers, one at a time."""

    name, long = 'sockperf', True

    def prepare(self):
        self._program = self.place.program('sockperf', 'sockperf')

    def serve(self, port):
        self.place.start(self._program.path, 'server', '--tcp', '-i', '127.0.0.1', '-p', port,
                         port=port, environment=self._program.environment)

    def measure(self, port):
        seconds = 1 if self.place.quick else 3
        size = 1024
        said = self.place.run(
            self._program.path, 'ping-pong', '--tcp', '-i', '127.0.0.1', '-p', port, '-m', size,
            '-t', seconds, '--data-integrity', environment=self._program.environment).decode()
        median = re.search(r'percentile 50\.000 =\s+([\d.]+)', said)
        count = re.search(r'\[Total Run\].*?ReceivedMessages=(\d+)', said)
        faults = re.search(r'dropped messages = (\d+); # duplicated messages = (\d+); '
                           r'# out-of-order messages = (\d+)', said)
        if not median or not count or not faults or any(map(int, faults.groups())):
            raise Wrong('run sockperf', said.strip().splitlines()[-1] if said else 'no answer')
        return Outcome({'half_roundtrip_us': float(median[1])}, faults.groups(),
                       least_bytes=2 * size * int(count[1]))


class Socat(Case):
    """A server that answers at the end of what it reads: the half-close gets through."""

    name = 'socat'

    def serve(self, port):
        self.place.start('socat', f'TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr',
                         'EXEC:sha256sum', port=port)

    def measure(self, port):
        data = self.place.file('stream', 4 << 20).read_bytes()
        answer = self.place.run('socat', '-t', 30, '-', f'TCP:127.0.0.1:{port}', data=data)
        expected = self.place.run('sha256sum', data=data)
        if answer != expected:
            raise Wrong('run socat', f'{answer!r} is not {expected!r}')
        return Outcome({}, answer, len(data), int(len(data) * 1.01))


class Netcat(Case):
    """OpenBSD's netcat at both ends, with blocking sockets."""

    name, long = 'nc', True

    def prepare(self):
        self._program = self.place.program('nc.openbsd', 'netcat-openbsd')

    def serve(self, port):
        """Start nothing: each run has a server of its own."""

    def measure(self, port):
        data = self.place.file('netcat', 16 << 20).read_bytes()
        got = self.place.folder / f'got.{os.urandom(4).hex()}'
        server = self.place.start(
            'sh', '-c', f'exec {self._program.path} -l 127.0.0.1 {port} >{got}', port=port,
            environment=self._program.environment)
        self.place.run(self._program.path, '-N', '127.0.0.1', port, data=data,
                       environment=self._program.environment)
        server.wait(20)
        content = digest(got.read_bytes())
        if content != digest(data):
            raise Wrong('run nc', 'what arrived is not what was sent')
        return Outcome({}, content, len(data), int(len(data) * 1.01))


CASES = (Iperf3, Iperf3V6, Iperf3Dual, Iperf3Reverse, Sockperf, Socat, Netcat)
