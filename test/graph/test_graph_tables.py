"""Tables of /proc, names of libraries, pairs and their reasons: what text says."""

import re

from hypothesis import given
from hypothesis import strategies as st
from ipc_bypass.graph import libraries, reasons, ways
from ipc_bypass.graph.connections import Connection, find_connections
from ipc_bypass.graph.losses import difference, read_losses
from ipc_bypass.graph.model import (
    End,
    Endpoint,
    Locator,
    Loss,
    Pair,
    Participant,
    Process,
    Segment,
    Socket,
)
from ipc_bypass.graph.ownership import name_owners
from ipc_bypass.graph.pairs import ros_name, topic_pairs
from ipc_bypass.graph.processes import domains_of
from ipc_bypass.graph.sockets import parse_line, read_table
from ipc_bypass.kernel.sources import bpf_source
import pytest

UDP_LINE = ('  711: 0100007F:1CE8 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000 '
            '       0 4242 2 0000000000000000 17')


def test_a_line_of_the_udp_table():
    assert parse_line(UDP_LINE, 'udp') == Socket(
        'udp', 4, '127.0.0.1', 7400, '0.0.0.0', 0, '', 4242, 17)


@given(st.text(max_size=200), st.sampled_from(('udp', 'udp6', 'tcp', 'tcp6')))
def test_any_line_gives_an_answer(line, name):
    parse_line(line, name)


@given(st.integers(0, len(UDP_LINE) - 1), st.characters(max_codepoint=255))
def test_a_changed_line_gives_an_answer(place, letter):
    parse_line(UDP_LINE[:place] + letter + UDP_LINE[place + 1:], 'udp')


def test_a_table_that_is_not_there():
    assert list(read_table(0, 'udp')) == []


@pytest.mark.parametrize('path, kind', [
    ('/opt/ros/kilted/lib/libfastdds.so.3.2', 'Fast DDS'),
    ('/opt/ros/humble/lib/libfastrtps.so.2.6', 'Fast DDS'),
    ('/usr/lib/x86_64-linux-gnu/libddsc.so.0.10.2', 'Cyclone DDS'),
    ('/opt/rti/lib/libnddscore.so', 'RTI Connext'),
    ('/venv/zenoh/zenoh.abi3.so', 'zenoh'), ('/usr/lib/libzenohc.so', 'zenoh'),
    ('/usr/bin/zenohd', 'zenoh'), ('/usr/lib/libddebug.so', ''), ('/usr/lib/libc.so.6', '')])
def test_libraries(path, kind):
    assert libraries.kind_of(path) == kind


def test_versions_and_the_rmw():
    assert libraries.version_of('/nowhere/libddsc.so.0.10.2') == '0.10.2'
    assert libraries.version_of('/nowhere/libddsc.so') == ''
    assert libraries.rmw_of('/opt/ros/lib/librmw_cyclonedds_cpp.so') == 'rmw_cyclonedds_cpp'
    assert libraries.rmw_of('/opt/ros/lib/librmw_fastrtps_shared_cpp.so') == ''
    both = ['/lib/libfastdds.so.3', '/lib/libddsc.so.0', '/lib/librmw_cyclonedds_cpp.so']
    assert libraries.find_library(both) == ('Cyclone DDS', '/lib/libddsc.so.0')


def test_names_of_topics():
    assert ros_name('rt/a/chatter') == '/a/chatter'
    assert ros_name('rq/add_two_intsRequest') == '/add_two_ints (request)'
    assert ros_name('rr/add_two_intsReply') == '/add_two_ints (answer)'
    assert ros_name('DDSPerfRDataKS') == 'DDSPerfRDataKS'


def endpoint(role, prefix='aa' * 12, **how):
    return Endpoint(f'{prefix}00000000', 'rt/t', 'T', role,
                    **{'reliability': 'reliable', 'durability': 'volatile', **how})


@pytest.mark.parametrize('writer, reader, matches', [
    ({}, {}, True), ({'reliability': 'best_effort'}, {}, False),
    ({}, {'reliability': 'best_effort'}, True), ({}, {'durability': 'transient_local'}, False),
    ({'durability': 'transient_local'}, {'durability': 'transient_local'}, True)])
def test_quality_of_service(writer, reader, matches):
    pairs = topic_pairs([endpoint('publisher', **writer), endpoint('subscriber', **reader)], [])
    ways.decide(pairs, ways.Surroundings())
    assert (pairs[0].way != 'incompatible') is matches


def test_endpoints_of_networks_that_do_not_meet_are_no_pair():
    ends = [endpoint('publisher', seen_by=(0, 1)), endpoint('subscriber', seen_by=(2,)),
            endpoint('subscriber', 'bb' * 12, seen_by=(1,))]
    assert [pair.subscriber.guid[:2] for pair in topic_pairs(ends, [])] == ['bb']


def process(pid, **how):
    return Process(pid, 'node', **{
        'kind': 'Fast DDS', 'library': 'libfastdds.so', 'namespaces': {'net': 1},
        'shm_device': 5, 'uid': 0, **how})


def tcp(local, remote, state='established'):
    return Socket('tcp', 4, *local, *remote, state, 1)


SERVER, CLIENT = ('10.0.0.1', 7412), ('10.0.0.2', 50000)


def connected():
    """Return two processes in two namespaces, with a connection."""
    return (process(1, sockets=[tcp(SERVER, CLIENT), tcp(SERVER, ('0.0.0.0', 0), 'listen')]),
            process(2, sockets=[tcp(CLIENT, SERVER)], namespaces={'net': 2}))


def test_a_connection_is_found_from_both_ends():
    found = find_connections(connected())
    assert found[1, 2] == [Connection(1, 2, SERVER, CLIENT, 7412)]
    assert found[2, 1] == [Connection(2, 1, CLIENT, SERVER, 7412)]


def test_loopback_ends_of_two_namespaces_are_not_one_connection():
    one, other = ('127.0.0.1', 7412), ('127.0.0.1', 50000)
    assert find_connections([process(1, sockets=[tcp(one, other)]), process(
        2, sockets=[tcp(other, one)], namespaces={'net': 2})]) == {}


def node(**how):
    return {'name': '/ipc_bypass', 'state': 'active', 'flows': [], 'rules': [], **how}


def flow(path, reason='', **how):
    return {'path': path, 'reason': reason, 'bytes': 1, 'local_pid': 1, 'remote_pid': 2,
            'local_address': SERVER[0], 'local_port': SERVER[1], 'remote_address': CLIENT[0],
            'remote_port': CLIENT[1], **how}


OTHER_FLOW = {'remote_port': 50001}
BACK = {'local_address': CLIENT[0], 'local_port': CLIENT[1], 'remote_address': SERVER[0],
        'remote_port': SERVER[1], 'local_pid': 2, 'remote_pid': 1}


RULE = {'transport': 'tcp', 'port_first': 7400, 'port_last': 7500, 'effective': True,
        'reason': ''}


@pytest.mark.parametrize('nodes, way, reason, step', [
    ([], 'tcp', 'no node runs', 'ipc-bypass up -p "rules:=[\'tcp:7412\']"'),
    ([node()], 'tcp', 'no rule covers TCP port 7412', '{transport: tcp, port_first: 7412}'),
    ([node(state='inactive', rules=[RULE])], 'tcp', 'not active', 'set /ipc_bypass activate'),
    ([node(rules=[RULE])], 'tcp', 'older than its rule', 'restart one'),
    ([node(rules=[{**RULE, 'effective': False, 'reason': 'x y'}])], 'tcp', 'x y', 'doctor'),
    ([node(flows=[flow('loopback', 'budget')])], 'tcp', 'its budget allows', 'faster reader'),
    ([node(flows=[flow('loopback', 'withdrawn')])], 'tcp', 'withdrawn', 'enroll_port'),
    # The flow that carries the samples counts: not one of another connection of the two, nor the
    # other direction, nor one of the same addresses in another namespace.
    ([node(flows=[flow('sk_msg'), flow('loopback', 'budget', bytes=9)])], 'tcp', 'budget',
     'reader'),
    ([node(rules=[RULE], flows=[flow('sk_msg', **OTHER_FLOW)])], 'tcp', 'older than', 'restart'),
    ([node(flows=[flow('loopback', 'budget'), flow('sk_msg', bytes=9, **BACK)])], 'tcp', 'budget',
     'reader'),
    ([node(flows=[flow('sk_msg', local_pid=8, remote_pid=9)])], 'tcp', 'no rule', 'enroll_port'),
    # What a node did not show is not said of it.
    ([node(told=False)], 'unknown', 'did not tell', 'again'),
    ([node(rules=[RULE], flows=[flow('sk_msg', **OTHER_FLOW)], flows_left_out=7)], 'unknown',
     'busiest flows only', 'max_published_flows 8'),
    ([node(flows=[flow('loopback', 'new'), flow('sk_msg')])], 'redirected', 'sk_msg', '')])
def test_reasons_of_a_connection(nodes, way, reason, step):
    one, other = connected()
    pair = Pair('/t', 'T', End(1), End(2))
    ways.decide([pair], ways.Surroundings({1: one, 2: other}, {}, find_connections(
        (one, other)), nodes))
    assert pair.way == way
    assert reason in pair.reason
    assert step in pair.next_step
    assert bool(step) == bool(pair.next_step)


def test_every_pass_reason_of_the_program_has_words():
    header = bpf_source('ipc_bypass_common.h').read_text()
    names = {name.lower() for name in re.findall(r'^\tPASS_(\w+) = \d+,', header, re.MULTILINE)}
    assert names - {'none', 'reasons'} == set(reasons.PASSED)


@pytest.mark.parametrize('change, reason', [
    ({'shm_device': 6, 'namespaces': {'net': 2}}, '/dev/shm of its own'),
    ({'namespaces': {'net': 2}}, 'two network namespaces'),
    ({'environment': {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}}, 'FASTDDS_BUILTIN_TRANSPORTS=UDPv4'),
    ({'uid': 1001, 'user': 'robot'}, 'cannot open'), ({'kind': 'Cyclone DDS'}, 'in common')])
def test_reasons_against_shared_memory(change, reason):
    udp = [Socket('udp', 4, '0.0.0.0', 7411, '0.0.0.0', 0, '', 1)]
    one = process(1, sockets=udp, uid=1000, user='a')
    other = process(2, **{'sockets': udp, 'uid': 1000, **change})
    pair = Pair('/t', 'T', End(1), End(2))
    ways.decide([pair], ways.Surroundings({1: one, 2: other}))
    assert pair.way == 'udp'
    assert reason in pair.reason
    assert pair.next_step


def test_shared_memory_is_that_of_the_reader():
    """A third process that maps the same segments does not make a pair use them."""
    segments = [Segment('fastdds_port7411', '0:1', 7), Segment('fastdds_port7413', '0:1', 8)]
    one, other = process(1, segments=segments), process(2, segments=segments[1:])
    reader = Participant('bb' * 12, 'Fast DDS', pid=2, locators=[Locator('SHM', '', 7413)])
    pair = Pair('/t', 'T', End(1), End(2, guid='bb' * 12 + '00000000'))
    around = ways.Surroundings({1: one, 2: other}, {'bb' * 12: reader})
    ways.decide([pair], around)
    assert pair.way == 'shared_memory'
    reader.locators[:] = [Locator('SHM', '', 7415)]
    ways.decide([again := Pair('/t', 'T', End(1), pair.subscriber)], around)
    assert again.way != 'shared_memory'


def test_losses_of_a_period():
    before = [Loss('socket_drops', 'drops', 5, 'n', 1, 'a', 7411)]
    after = [Loss('socket_drops', 'drops', 9, 'n', 1, 'a', 7411),
             Loss('socket_drops', 'drops', 2, 'n', 2, 'b', 7413)]
    assert [loss.count for loss in difference(before, after)] == [4, 2]
    assert [loss.count for loss in difference(before, after, new_sockets=False)] == [4]
    since_boot = Loss('reassembly', 'Ip:ReasmFails', 7000, 'n')
    assert difference(before, [since_boot]) == []


def test_sockets_of_one_port_are_one_counter():
    """Fast DDS and Cyclone DDS bind the port of multicast several times."""
    sockets = [Socket('udp', 4, '0.0.0.0', 7400, '0.0.0.0', 0, '', number, drops)
               for number, drops in enumerate((100, 0, 3), 1)]
    before, after = (list(filter(lambda loss: loss.pid, read_losses([
        process(1 << 30, sockets=found)]))) for found in (sockets, sockets[::-1]))
    assert [loss.count for loss in before] == [103]
    assert [loss.count for loss in difference(before, after)] == [0]


HERE = {1: {'172.17.0.1', '10.0.0.1'}}


@pytest.mark.parametrize('addresses, said_pid, pid, local', [
    (('10.0.0.1', '172.17.0.1'), 0, 5, True),
    # Every host with containers has their bridge's address: another host's participant.
    (('10.0.0.9', '172.17.0.1'), 0, 0, False),
    (('10.0.0.9', '172.17.0.1'), 4711, 0, False),
    # An address that changed since the process began: port and pid agree.
    (('10.0.0.9', '172.17.0.1'), 5, 5, True),
    (('10.0.0.9',), 5, 0, False)])
def test_the_process_of_a_participant(addresses, said_pid, pid, local):
    here = process(5, namespace_pid=5, sockets=[
        Socket('udp', 4, '0.0.0.0', 7411, '0.0.0.0', 0, '', 1)])
    participant = Participant('aa' * 12, 'Fast DDS', said_pid=said_pid, namespace=1, locators=[
        Locator('UDPv4', address, 7411) for address in addresses])
    name_owners([participant], [here, process(4711, namespace_pid=4711)], HERE)
    assert (participant.pid, participant.local) == (pid, local)


def test_domains_by_ports():
    def domains(*ports, **environment):
        return domains_of(process(1, environment=environment, sockets=[
            Socket('udp', 4, '0.0.0.0', port, '0.0.0.0', 0, '', 1) for port in ports]))
    assert domains(7400, 7410) == [0]
    assert domains(22650, 22660, ROS_DOMAIN_ID='3') == [61]
    # 32900 is a port that the kernel gave to a socket, and the first one of domain 102.
    assert domains(7400, 7410, 32900) == [0]
    assert domains(32900, ROS_DOMAIN_ID='102') == domains(32900, 32910) == [102]
    assert domains(ROS_DOMAIN_ID='9' * 5000) == domains(ROS_DOMAIN_ID='233') == []
