"""The way of every pair between real DDS processes in containers."""

import dataclasses
import json

from graph_tools import fast_library, look_until, pairs_between, wait_for
from ipc_bypass.graph.processes import scan_processes
from ipc_bypass.graph.profiles import profile_findings


def test_shared_memory_within_a_container(host):
    pair = host.pair(host.publisher, host.near)
    assert (pair.publisher.pid, pair.subscriber.pid) == (host.publisher.pid, host.near.pid)
    assert pair.way == 'shared_memory'
    assert not pair.next_step


def test_udp_between_two_containers(host):
    pair = host.pair(host.publisher, host.far)
    assert (pair.way, pair.reason) == ('udp', 'each has a /dev/shm of its own')
    assert pair.next_step == 'ipc-bypass run fastdds -- COMMAND'
    assert pair.publisher.node == '/fast_pub'


def test_participants_and_processes(host):
    participants = {found.pid: found for found in host.graph.participants}
    found = participants[host.publisher.pid]
    assert (found.vendor, found.source) == ('Fast DDS', 'discovery')
    assert found.version.startswith('3.')
    assert any(locator.kind == 'SHM' for locator in found.locators)
    for process in host.perf:
        found = participants[process.pid]
        assert (found.vendor, found.source) == ('Cyclone DDS', 'discovery')
        assert found.version
    process = next(found for found in host.graph.processes if found.pid == host.far.pid)
    assert (process.kind, process.domains, process.rmw) == (
        'Fast DDS', [61], 'rmw_fastrtps_cpp')
    assert process.environment['ROS_DOMAIN_ID'] == '61'
    assert any(loss.pid == host.far.pid and '/ipc_bypass_test' in loss.topics
               for loss in host.graph.losses)
    assert json.loads(json.dumps(dataclasses.asdict(host.graph)))['pairs']


def test_tcp_of_fast_dds_without_a_node(host):
    pair = host.pair(*host.fast_tcp)
    # Another session of this host may have a node.
    assert (pair.way == 'tcp' and pair.reason.startswith(
        ('no node runs', 'no rule covers TCP port 2390', 'the node is not'))) or (
        pair.way == 'unknown' and pair.reason.startswith('TCP; '))
    assert pair.next_step


def test_cyclone_by_udp(host):
    pair = host.pair(*host.perf)
    assert (pair.way, pair.next_step) == ('udp', 'ipc-bypass run cyclonedds -- COMMAND')


def test_cyclone_by_tcp_is_seen_by_its_connection(host):
    pair = host.pair(*host.perf_tcp)
    assert (pair.topic, pair.way) == ('', 'tcp') or pair.reason.startswith('TCP; ')


def test_right_profiles_are_not_named(host):
    started = {f'({process.pid})' for process in host.all}
    assert not [finding for finding in host.graph.profiles
                if finding.where.rpartition(' ')[2] in started]


def test_wrong_profiles_are_named(peers, host, tmp_path):
    broken = tmp_path / 'broken.xml'
    broken.write_text('<dds><profiles>')
    processes = {
        name: peers.run(peers.a, 'sleep', '60', FASTDDS_DEFAULT_PROFILES_FILE=str(path),
                        LD_PRELOAD=fast_library())
        for name, path in (('missing', '/nowhere/at_all.xml'), ('broken', broken),
                           ('ignored', host.folder / 'tcp.xml'))}
    wait_for(*processes.values())
    said = {int(finding.where.rpartition('(')[2][:-1]): finding
            for finding in profile_findings(scan_processes().processes)}
    assert '/nowhere/at_all.xml does not exist' in said[processes['missing'].pid].reason
    assert 'it is no XML' in said[processes['broken'].pid].reason
    assert 'the process has no TCP listener' in said[processes['ignored'].pid].reason
    assert all('ipc-bypass run fastdds' in said[process.pid].next_step
               for process in processes.values())


def test_who_was_killed_has_no_way_any_more(host):
    """It comes last: the others share what it ends."""
    host.near.kill()
    host.near.wait()
    left = look_until(lambda found: not any(
        pair.way != 'unknown' for pair in pairs_between(found, host.publisher, host.near))
        and pairs_between(found, host.publisher, host.far), 'it is gone', domain=61)
    assert host.near.pid not in {process.pid for process in left.processes}
    assert host.pair(host.publisher, host.far, left).way == 'udp'
