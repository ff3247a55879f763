"""Services, parameters and the sampler's topics of the node xdp_helper, in one process of it."""

import socket
import subprocess
import sys
from types import SimpleNamespace

from ipc_bypass.cli import xdp_node
from ipc_bypass.xdp.interfaces import find
from ipc_bypass_interfaces.msg import XdpSample, XdpTraffic
import pytest
from support.frames import FAR, NEAR
from support.waiting import PATIENCE
from xdp_tools import CONFIG, inside_namespace, lab, SERVICES, XdpProcess
import yaml

SOURCE = """
#include "xdp_slot.bpf.h"
XDP_SLOT(drop_4244)
{
    return facts->destination_port == 4244 ? XDP_DROP : XDP_CONTINUE;
}
"""


@pytest.fixture(scope='module')
def room(privileged, client):
    """Yield (near, far, client, pins)."""
    with lab(client) as made:
        yield made


@pytest.fixture(scope='module')
def slot_folder(tmp_path_factory):
    """Return a folder for own programs."""
    folder = tmp_path_factory.mktemp('slots')
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope='module')
def node(room, slot_folder, tmp_path_factory):
    """Return the node, active on near0, with a sampler and a filter."""
    near, _, client, pins = room
    with XdpProcess(client, tmp_path_factory.mktemp('node'), near, pins, interfaces=['near0'],
                    slots=['', 'sampler', 'filter', '', '', '', '', ''],
                    slot_directory=str(slot_folder), sampler_every=1, sampler_random=False,
                    filter_rules=['deny udp dport 4242']) as made:
        for name, service in SERVICES.items():
            answer = made.ask(name)
            expected = 'NOT_ACTIVE' if name == 'attach' else 'NOT_CONFIGURED'
            assert answer.error_code == getattr(service.Response, expected), name
            assert answer.error_msg == 'the node is not configured: configure it first'
        # What root loads, or where it writes, nobody on the ROS graph may say at any time.
        for name, value in (('own_slots', ['0:/a.c:f']), ('slot_directory', '/tmp'),
                            ('slot_pin_directory', '/sys/fs/bpf'), ('pin_directory', '/tmp')):
            refused = made.set_parameters(**{name: value})
            assert not refused.successful and 'read-only' in refused.reason, name
        made.bring_up()
        yield made
        assert made.end() == 0, made.output()
        assert made.errors() == []


def send(far, number, port):
    """Send datagrams from far to near."""
    with far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(number):
            sender.sendto(b'datagram', (NEAR, port))


def near0(room):
    """Return near0 as it is now."""
    with room[0].entered():
        return find('near0')


def command(room, node, *words):
    """Run `ipc-bypass xdp`, where pins are read in the node's namespace; return what it prints."""
    before, after = (inside_namespace(room[0]), ()) if '--pin-directory' in words else (
        (), ('--node', node.name))
    done = subprocess.run(
        [*before, sys.executable, '-m', 'ipc_bypass.cli.main', 'xdp', *words, *after],
        capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_attach_and_detach(room, node):
    assert node.code('attach', interface='near0') == 'ALREADY_ATTACHED'
    assert node.code('attach', interface='no_such') == 'NO_INTERFACE'
    assert node.code('attach', interface='near0', mode='fast') == 'INVALID_ARGUMENT'
    assert node.code('detach', interface='a b') == 'INVALID_ARGUMENT'
    answer = node.ask('detach', interface='near*')
    assert [(each.name, each.attached) for each in answer.interfaces] == [('near0', False)]
    assert near0(room).xdp_program_id == 0
    assert node.code('detach', interface='near0') == 'NOT_ATTACHED'
    assert node.code('attach', interface='near0', mode='offload') == 'REFUSED'
    answer = node.ask('attach', interface='near0', mode='generic')
    assert (answer.error_msg, answer.interfaces[0].mode) == ('', 'generic')
    assert node.code('detach', interface='near0') == 'SUCCESS'
    assert node.code('attach', interface='near0') == 'SUCCESS'
    assert near0(room).xdp_mode == 'native'


def test_slots(room, node, slot_folder, tmp_path):
    source = slot_folder / 'own.bpf.c'
    source.write_text(SOURCE)
    outside = tmp_path / 'own.bpf.c'
    outside.write_text(SOURCE)
    (slot_folder / 'link.bpf.c').symlink_to(outside)
    for request, expected in (
            ({'slot': 8, 'program': 'filter'}, 'INVALID_SLOT'),
            ({'slot': 0, 'program': 'filter', 'interface': 'no_such'}, 'NO_INTERFACE'),
            ({'slot': 0, 'program': 'nonsense'}, 'UNKNOWN_PROGRAM'),
            ({'slot': 0, 'program': f'{slot_folder}/no_such.c:f'}, 'UNKNOWN_PROGRAM'),
            ({'slot': 0, 'program': f'{outside}:drop_4244'}, 'NOT_ALLOWED'),
            ({'slot': 0, 'program': f'{slot_folder}/link.bpf.c:drop_4244'}, 'NOT_ALLOWED'),
            ({'slot': 0, 'program': f'{slot_folder}/../own.bpf.c:drop_4244'}, 'NOT_ALLOWED'),
            ({'slot': 0, 'program': '/sys/fs/bpf/somebodys'}, 'NOT_ALLOWED')):
        assert node.code('load_slot', **request) == expected, request
    answer = node.ask('load_slot', slot=6, program=f'{source}:drop_4244', interface='near0')
    assert (answer.error_msg, len(answer.program_ids)) == ('', 1)
    send(room[1], 3, 4244)
    node.client.spin_until(lambda: node.look()['near0'].slots[6].xdp_drop == 3, 'they are dropped')
    slot = node.look()['near0'].slots[6]
    assert (slot.kind, slot.name, slot.program_id) == ('own', 'drop_4244', answer.program_ids[0])
    source.write_text(SOURCE.replace('4244 ?', 'nonsense ?'))
    assert node.code('load_slot', slot=6, program=f'{source}:drop_4244') == 'REFUSED'
    assert node.look()['near0'].slots[6].program_id == answer.program_ids[0]
    assert command(room, node, 'unload', '6') == 'slot 6: empty\n'
    assert node.code('unload_slot', slot=6) == 'EMPTY'


def test_rules(room, node):
    """Rules of the parameter and of services side by side; what each decided is counted."""
    added = node.ask('add_rule', rule='deny udp dport 4243')
    assert added.error_msg == ''
    for rule, expected in (('deny udp dport 4243', 'ALREADY_THERE'), ('nonsense', 'INVALID_RULE')):
        assert node.code('add_rule', rule=rule) == expected
    assert node.ask('add_rule', rule='deny udp dport 4243').rule_id == added.rule_id
    for port, number in ((4242, 2), (4243, 3), (4245, 4)):
        send(room[1], number, port)

    def decided():
        return {rule.rule: (rule.origin, rule.packets) for rule in node.ask('list_rules').rules}
    node.client.spin_until(lambda: decided() == {
        'deny udp dport 4242': ('parameter', 2), 'deny udp dport 4243': ('service', 3)},
        'they are counted')
    assert node.set_parameters(filter_rules=['deny udp dport 4246']).successful
    assert set(decided()) == {'deny udp dport 4246', 'deny udp dport 4243'}
    refused = node.set_parameters(filter_rules=['deny udp dport 4243'])
    assert not refused.successful
    assert set(decided()) == {'deny udp dport 4246', 'deny udp dport 4243'}
    shown = command(room, node, 'filter', 'status', '--pins', '--pin-directory', room[3])
    for words in ("Status for interface 'near0'", 'frags_drop: false',
                  'ip_drop_count: 5', 'eth_frame_err: 0'):
        assert words in shown, shown
    status = xdp_node.filters(SimpleNamespace(node=node.name, timeout=PATIENCE))['near0']
    assert 'deny udp dport 4243' in [rule.rule for rule in status.rules]
    assert (status.engine, status.outcomes['ip_drop_count']) == ('xdp', 5)
    assert node.code('remove_rule', rule='deny udp dport 1') == 'NOT_THERE'
    assert node.code('remove_rule', rule_id=added.rule_id) == 'SUCCESS'
    assert command(room, node, 'rules', 'add', 'deny', 'udp', 'dport', '4243').startswith('rule ')
    assert 'deny udp dport 4243' in command(room, node, 'rules', 'list')
    assert command(room, node, 'rules', 'remove', 'deny udp dport 4243').endswith(' is gone\n')
    assert node.set_parameters(filter_rules=[]).successful
    assert decided() == {}


def test_samples(room, node):
    _, far, client, _ = room
    samples = client.listen(XdpSample, f'{node.name}/samples')
    traffic = client.listen(XdpTraffic, f'{node.name}/traffic')

    def seen():
        send(far, 1, 4250)
        return [each for each in samples if each.destination_port == 4250] and [
            share for message in traffic for share in message.talkers
            if share.destination_port == 4250]
    client.spin_until(seen, 'a sample and a sum of it')
    sample = next(each for each in samples if each.destination_port == 4250)
    assert (sample.header.frame_id, sample.source_address, sample.destination_address,
            sample.protocol, sample.family, sample.every) == ('near0', FAR, NEAR, 17, 4, 1)
    assert sample.length == 14 + 20 + 8 + len(b'datagram')


def test_trace(room, node):
    """The command and the parameter switch it; the status shows it."""
    assert node.set_parameters(trace=True).successful
    assert node.look()['near0'].trace
    assert 'trace' in command(room, node, 'status', '--pin-directory', room[3]).splitlines()[1]
    assert command(room, node, 'trace', 'off', '--pin-directory', room[3]) == 'trace off: near0\n'
    assert 'trace' not in command(room, node, 'status', '--pin-directory', room[3])
    assert node.set_parameters(trace=False).successful


def test_parameters(node):
    """Each is described; the file in config/ names them all, with their defaults."""
    there = node.parameters()
    written = yaml.safe_load(CONFIG.read_text())['/**']['ros__parameters']
    assert written.keys() == there.keys()
    for name, (_, descriptor) in there.items():
        assert descriptor.description.endswith('.'), name
    for name, value in (('interfaces', ['x']), ('mode', 'generic'), ('slots', [''] * 8),
                        ('fast_path_bridges', ['br0'])):
        refused = node.set_parameters(**{name: value})
        assert not refused.successful
        assert refused.reason.startswith(f'{name} can be set in state unconfigured only')
    for name, value, says in (
            ('filter_rules', ['nonsense'], 'nonsense'), ('filter_default_action', 'x', 'allow'),
            ('limiter_limits', ['x'], "the limit 'x'"), ('sampler_rules', ['x'], "rule 'x'"),
            ('steering_ports', ['udp'], "read 'udp' of steering_ports"),
            ('fast_path_ports', ['udp:0'], "read 'udp:0' of fast_path_ports")):
        refused = node.set_parameters(**{name: value})
        assert not refused.successful, name
        assert says in refused.reason, refused.reason
        assert '\n' not in refused.reason
    assert node.set_parameters(status_period_s=0.5, sampler_every=10).successful
