"""Limits and ports, as a real namespace and real sockets show them."""

import sys

from graph_tools import wait_for
from ipc_bypass.graph.limits import limit_findings
from ipc_bypass.graph.ports import port_findings
from ipc_bypass.graph.processes import scan_processes
from ipc_bypass.kernel.namespaces import network_namespaces

IMPORT = 'import rclpy; rclpy.init(args=[]); rclpy.try_shutdown(); '


def test_limits_of_a_namespace_and_ports_of_others(peers):
    """Each limit is set to what the finding is about, in the test's own namespace."""
    peers.a.set_network('ipv4/ipfrag_high_thresh', '4194304')
    peers.a.set_network('ipv4/ipfrag_time', '30')
    peers.a.set_network('ipv4/ip_local_port_range', '32768 60999')
    # Port 22950 is one of domain 62, and its owner speaks no DDS.
    peers.run(peers.a, sys.executable, '-c', (
        'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); '
        's.bind(("0.0.0.0", 22950)); time.sleep(100)'))
    crowd = peers.run(peers.a, 'prlimit', '--nofile=40:4096', sys.executable, '-c', (
        IMPORT + 'import socket, time\n'
        's = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(25)]\n'
        'for i, each in enumerate(s): each.bind(("0.0.0.0", 22910 + 2 * i if i < 20 else 0))\n'
        'time.sleep(100)'))
    wait_for(crowd)
    scan = scan_processes()
    process = next(found for found in scan.processes if found.pid == crowd.pid)
    here = '', f'network namespace {process.namespaces["net"]}', f'{process.comm} ({crowd.pid})'
    said = {finding.what: finding for finding in (
        *limit_findings(scan.processes, network_namespaces(), 4 << 20),
        *port_findings(scan.processes, 62, scan.tables)) if finding.where in here}
    assert said['net.ipv4.ipfrag_high_thresh'].level == 'warning'
    assert 'ipfrag_high_thresh=33554432' in said['net.ipv4.ipfrag_high_thresh'].next_step
    assert 'nsenter --net=' in said['net.ipv4.ipfrag_high_thresh'].next_step
    assert 'ipfrag_time=3' in said['net.ipv4.ipfrag_time'].next_step
    assert 'link set lo multicast on' in said['multicast on lo'].next_step
    # With a colon: the hard limit is left as it is.
    assert said['open files'].next_step == f'sudo prlimit --pid {crowd.pid} --nofile=160:'
    assert said['participants of domain 62'].reason.startswith('20 of 120')
    assert '22950' in said['ports of domain 62'].reason
    assert said['net.core.rmem_max'].level in ('ok', 'warning')
