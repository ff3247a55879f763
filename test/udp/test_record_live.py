"""`ipc-bypass record` of live DDS traffic that the kernel's program mirrors."""

import contextlib
import logging
from pathlib import Path
import subprocess
import sys
import tempfile

from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.nodes.collector import Collector
import pytest
from record_tools import end, FIELDS, GOOD
from support.namespaces import Namespace
from support.rtps_peers import Listener, talking, tshark, udp_payload, VENDORS
from support.waiting import PATIENCE, wait_until

#: Of domain 0.
PORTS = 7400, 7649


@pytest.fixture
def cgroup(privileged):
    """Yield the path of a cgroup of our own; the peers live in it."""
    path = Path(tempfile.mkdtemp(prefix='record_', dir=find_cgroup2()))
    yield path
    wait_until(lambda: removed(path), f'{path} is left by the last peer')


def removed(cgroup):
    """Remove a cgroup and return whether it is gone; it is not while a process is in it."""
    with contextlib.suppress(OSError):
        cgroup.rmdir()
    return not cgroup.exists()


@pytest.mark.parametrize('vendor', VENDORS)
def test_live_traffic(vendor, make_udp, cgroup, tmp_path):
    """What the kernel program mirrors of live peers is what a packet socket hears of them."""
    path = tmp_path / 'live.pcapng'
    inside = ('sh', '-c', f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', 'sh')
    with make_udp(f'udp:{PORTS[0]}-{PORTS[1]}:mirror', cgroup_path=str(cgroup)) as udp, \
            contextlib.closing(Collector(udp.settings.control_socket, logging.getLogger())), \
            Namespace('l') as space, contextlib.closing(Listener(space)) as listener:
        process = subprocess.Popen(
            [sys.executable, '-m', 'ipc_bypass.cli.main', 'record', str(path), '--comments',
             '--control-socket', udp.settings.control_socket],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: path.is_file() and path.stat().st_size, 'the recorder observes')
            with talking(vendor, space, prefix=inside):
                wait_until(lambda: sum(len(packet) > 5000 for packet in list(listener.packets))
                           >= 30 or sum(len(packet) > 1000 for packet in
                                        list(listener.packets)) >= 300,
                           'samples are sent', 2 * PATIENCE)
            assert 'missed 0, torn 0' in end(process)
        finally:
            process.kill()
            process.communicate()
    # Datagrams to nobody's port are sent all the same, and answered by ICMP.
    heard_ones = sorted(packet[20:24] + udp_payload(packet) for packet in listener.packets
                        if PORTS[0] <= int.from_bytes(packet[22:24], 'big') <= PORTS[1])
    rows = tshark(path, (*FIELDS, 'udp.payload'))
    recorded = sorted(
        int(row['udp.srcport'][0]).to_bytes(2, 'big')
        + int(row['udp.dstport'][0]).to_bytes(2, 'big')
        + bytes.fromhex(''.join(row['udp.payload'])) for row in rows)
    assert len(recorded) == len(heard_ones)
    assert recorded == heard_ones
    command = {'cyclone': 'ddsperf', 'fast': 'python'}[vendor]
    for row in rows:
        # Cyclone wakes its own threads with a datagram of one byte.
        is_rtps = row['udp.payload'][0].startswith(b'RTPS'.hex())
        assert row['_ws.col.Protocol'] == (['RTPS'] if is_rtps else ['UDP'])
        assert not row['_ws.malformed']
        assert row['udp.checksum.status'] == row['ip.checksum.status'] == GOOD
        assert f'rule 1, {command}' in row['frame.comment'][0]
