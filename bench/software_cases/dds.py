"""Middleware: zenoh, and Cyclone DDS and Fast DDS with and without their security plug-ins."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
import sys

from ipc_bypass.bench import profiles
from ipc_bypass.bench.ddsperf import DdsperfError, Peer, ROUNDTRIP, run

from software_cases.dds_keys import make_keys, SECURITY
from software_cases.place import Case, Outcome, Wrong

_PLUGIN = 'libdds_security_crypto.so'


class Zenoh(Case):
    """A publisher and a subscriber, one after the other's answer, by its own TCP transport."""

    name = 'zenoh'
    _PEER = Path(__file__).with_name('zenoh_peer.py')

    def serve(self, port):
        self.place.start(sys.executable, self._PEER, 'serve', port, port=port)

    def measure(self, port):
        size, content, middle = self.place.run(
            sys.executable, self._PEER, 'talk', port,
            20 if self.place.quick else 200).decode().split()
        return Outcome({'p50_us': float(middle)}, content, int(size), int(1.2 * int(size)))


class _Here:
    """This host as a place of ddsperf."""

    @staticmethod
    def command(*argv):
        return ['setpriv', '--pdeathsig', 'KILL', '--', *argv]


class Cyclone(Case):
    """Round trips of ddsperf over Cyclone's TCP; samples are reliable, none may be lost."""

    name, long = 'Cyclone DDS', True
    size = 64 << 10

    def prepare(self):
        self.place.program('ddsperf', 'cyclonedds-tools')

    def serve(self, port):
        """Start nothing: each run has two of them."""

    def measure(self, port):
        # Both ends connect; whichever connection is taken has an enrolled port on its side.
        ends = [self.uri(profiles.tcp('127.0.0.1', ours, '127.0.0.1', theirs))
                for ours, theirs in ((port, port + 1), (port + 1, port))]
        seconds = 1 if self.place.quick else 3
        try:
            found = run(ROUNDTRIP, self.size, *(Peer(_Here, uri) for uri in ends),
                        seconds=seconds)
        except DdsperfError as error:
            raise Wrong('run ddsperf', error.reason) from error
        return Outcome({f'{name}_us': median(second[f'{name}_us'] for second in found)
                        for name in ('p50', 'mean')}, least_bytes=20 * self.size)

    def uri(self, text):
        """Return the configuration of an end."""
        return text


class CycloneSecure(Cyclone):
    """The same with authentication, access control and encryption of all that is sent."""

    name = 'Cyclone DDS, security'

    def prepare(self):
        super().prepare()
        libraries = [path.parent for path in Path('/usr/lib').glob(f'*/*/{_PLUGIN}')]
        libraries += [path.parent for path in Path('/usr/lib').glob(f'*/{_PLUGIN}')]
        if not libraries:
            raise RuntimeError(f'no package brought {_PLUGIN}')
        make_keys(self.place)
        self._security = SECURITY.format(libraries=libraries[0], folder=self.place.folder)

    def uri(self, text):
        return text.replace('<Domain>', f'<Domain>{self._security}')


class FastDds(Case):
    """Questions and answers over Fast DDS's TCP, by a program that is compiled here."""

    name, long = 'Fast DDS', True
    _SOURCE = Path(__file__).with_name('fastdds_peer.cpp')

    def prepare(self):
        root = self.place.package('libfastrtps-dev')
        libraries = next(root.glob('usr/lib/*/libfastrtps.so')).parent
        headers = [root / 'usr/include', root / 'usr/include' / libraries.name]
        self._program = self.place.folder / 'fastdds_peer'
        self.place.run('g++', '-std=c++17', '-O1', *(f'-I{path}' for path in headers),
                       self._SOURCE, f'-L{libraries}', '-lfastrtps', '-lfastcdr',
                       '-Wl,--allow-shlib-undefined', '-pthread', '-o', self._program)
        self._environment = {**os.environ, 'LD_LIBRARY_PATH': str(libraries)}
        self._keys = self.keys()

    def keys(self):
        """Return the folder of keys, '' for none."""
        return ''

    def serve(self, port):
        self.place.start(self._program, 'serve', port, 0, self._keys, port=port,
                         environment=self._environment)

    def measure(self, port):
        size, content, middle = self.place.run(
            self._program, 'talk', port, 20 if self.place.quick else 200, self._keys,
            environment=self._environment).decode().split()
        return Outcome({'p50_us': float(middle)}, content, int(size))


class FastDdsSecure(FastDds):
    """The same with authentication, access control and encryption of all that is sent."""

    name = 'Fast DDS, security'

    def keys(self):
        make_keys(self.place)
        return self.place.folder


CASES = (Zenoh, Cyclone, CycloneSecure, FastDds, FastDdsSecure)
