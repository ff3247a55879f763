"""
Real DDS peers in a namespace of their own, what they say, and tshark's reading of it.

A peer is a process of Cyclone DDS (ddsperf) or of Fast DDS (rclpy); a packet socket on the
loopback interface hears them. What was heard is kept for all tests of the session.
"""

from contextlib import contextmanager
import functools
import os
from pathlib import Path
import shutil
import socket
import struct
import subprocess
import sys
import threading

from ipc_bypass.kernel import capabilities
import pytest

from support.namespaces import Namespace
from support.waiting import PATIENCE, wait_until

VENDORS = {'cyclone': 0x0110, 'fast': 0x010f}
#: Bytes of a sample: too many for one RTPS message of Cyclone, so that there are fragments.
SAMPLE_BYTES = 20000
#: Messages with samples to hear of each vendor, at least, and what is longer than all others.
ENOUGH = 30
LONG = 1000
#: What belongs to every exchange of samples, by the number of its submessage.
EXPECTED = {'cyclone': {0x06, 0x07, 0x09, 0x0e, 0x15, 0x16},
            'fast': {0x06, 0x07, 0x09, 0x0e, 0x15}}

_FAST_PEER = Path(__file__).with_name('fast_peer.py')
_CYCLONE_URI = (
    '<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast></General><Discovery>'
    '<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>4'
    '</MaxAutoParticipantIndex><Peers><Peer address="localhost"/></Peers></Discovery>'
    '</Domain></CycloneDDS>')
_PACKET_OUTGOING = 4
_ETHERNET_BYTES = 14
_LINKTYPE_RAW = 101


@contextmanager
def talking(vendor, space, *, prefix=(), rate=50, sample_bytes=SAMPLE_BYTES):
    """
    Have a writer and a reader of 'cyclone' or 'fast' talk by UDP in a namespace.

    `prefix` are words before their commands, `rate` is in samples a second.
    """
    if vendor == 'cyclone':
        commands = (('ddsperf', 'sub'),
                    ('ddsperf', 'pub', f'{rate}Hz', 'size', str(sample_bytes)))
        environment = {**os.environ, 'CYCLONEDDS_URI': _CYCLONE_URI}
        # A ROS 2 in LD_LIBRARY_PATH may bring a Cyclone of another version.
        environment.pop('LD_LIBRARY_PATH', None)
    else:
        commands = ((sys.executable, str(_FAST_PEER), 'sub'),
                    (sys.executable, str(_FAST_PEER), 'pub', str(rate), str(sample_bytes)))
        environment = {**os.environ, 'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4', 'ROS_DOMAIN_ID': '0',
                       'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SYSTEM_DEFAULT',
                       'RMW_IMPLEMENTATION': 'rmw_fastrtps_cpp'}
    processes = []
    try:
        for command in commands:
            processes.append(subprocess.Popen(
                [*prefix, *space.command(*command)], env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL))
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Listener(threading.Thread):
    """
    Hears the UDP datagrams on a namespace's loopback interface.

    `packets` holds them with their IPv4 headers, each once.
    """

    def __init__(self, space):
        """Start to listen."""
        super().__init__(daemon=True)
        with space.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            self._socket.bind(('lo', 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._socket.settimeout(0.1)
        self._end = threading.Event()
        self.packets = []
        self.start()

    def run(self):
        """Keep what arrives until the end."""
        while not self._end.is_set():
            try:
                frame, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            packet = frame[_ETHERNET_BYTES:]
            # Loopback shows each frame twice: as it is sent, and as it comes.
            if address[2] != _PACKET_OUTGOING and packet[9:10] == b'\x11':
                self.packets.append(packet)

    def close(self):
        """Stop listening."""
        self._end.set()
        self.join()
        self._socket.close()


def udp_payload(packet):
    """Return the payload of an IPv4 packet that carries a UDP datagram."""
    return packet[4 * (packet[0] & 15) + 8:]


@functools.cache
def heard(vendor):
    """Return IPv4 packets with RTPS messages that real peers of a vendor exchanged."""
    lacking = capabilities.missing(['CAP_NET_ADMIN', 'CAP_NET_RAW', 'CAP_SYS_ADMIN'])
    if lacking:
        pytest.skip('needs ' + ', '.join(lacking))
    with Namespace('r') as space:
        listener = Listener(space)
        try:
            with talking(vendor, space):
                wait_until(lambda: _enough(vendor, listener.packets),
                           f'{vendor} peers talk to each other', 2 * PATIENCE, 0.1)
        finally:
            listener.close()
    return [packet for packet in listener.packets if udp_payload(packet)[:4] == b'RTPS']


def messages(vendor):
    """Return the RTPS messages of `heard`, each different one once."""
    return list(dict.fromkeys(udp_payload(packet) for packet in heard(vendor)))


def _enough(vendor, packets):
    found = [udp_payload(packet) for packet in list(packets)]
    kinds = {number for message in found for number in _kinds(message)}
    samples = sum(len(message) > LONG for message in found)
    return samples >= ENOUGH and EXPECTED[vendor] <= kinds


def _kinds(message):
    """Yield the submessages' numbers; only for well-formed little-endian messages."""
    position = 20
    while position + 4 <= len(message):
        yield message[position]
        length = message[position + 2] | message[position + 3] << 8
        position += 4 + length if length or message[position] == 0x09 else len(message)


def write_pcap(path, packets):
    """Write IP packets to a file of the old pcap form, for tshark."""
    with open(path, 'wb') as stream:
        stream.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 1 << 18, _LINKTYPE_RAW))
        for number, packet in enumerate(packets):
            stream.write(struct.pack('<IIII', number, 0, len(packet), len(packet)) + packet)


def tshark(path, fields, *options):
    """
    Return a list of {field: [values]}, one for each packet of a file.

    Checksums are verified; names are not looked up, and times are in UTC.
    """
    program = shutil.which('tshark')
    assert program, 'tshark is missing: run scripts/setup'
    words = [program, '-n', '-r', str(path), '-T', 'fields', '-E', 'separator=/t',
             '-E', 'aggregator=|', '-o', 'udp.check_checksum:TRUE', '-o', 'ip.check_checksum:TRUE',
             '-o', 'udp.try_heuristic_first:TRUE',
             *options]
    for field in fields:
        words += ['-e', field]
    done = subprocess.run(words, capture_output=True, text=True, timeout=4 * PATIENCE,
                          env={**os.environ, 'TZ': 'UTC', 'LC_ALL': 'C.UTF-8'})
    assert done.returncode == 0, done.stderr
    return [dict(zip(fields, ([value for value in cell.split('|') if value]
                              for cell in line.split('\t')), strict=True))
            for line in done.stdout.splitlines()]


def capinfos(path):
    """Return {title: value} of what capinfos says of a file; raises where it finds a fault."""
    program = shutil.which('capinfos')
    assert program, 'capinfos is missing: run scripts/setup'
    done = subprocess.run([program, '-M', str(path)], capture_output=True, text=True,
                          timeout=PATIENCE, env={**os.environ, 'LC_ALL': 'C.UTF-8'})
    assert done.returncode == 0, done.stderr
    pairs = (line.partition(':') for line in done.stdout.splitlines())
    return {title.strip(): value.strip() for title, _, value in pairs}
