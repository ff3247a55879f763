"""`ipc-bypass xdp`: what is read from pins, without any node."""

import json
import os
import re
import socket

from ipc_bypass.cli.main import main
from ipc_bypass.cli.xdp_table import COUNTS, load_time_text, rules_text, status_text
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.helper import XdpHelper
from ipc_bypass.xdp.settings import XdpSettings
from ipc_bypass.xdp.status import InterfaceStatus, Report, SlotStatus
import pytest
from support.frames import NEAR
from support.leaks import PIN_PREFIX
from support.waiting import wait_until
from support.xdp import veth_lab

PINS = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_cli'
COLUMNS = ['SLOT', 'ID', 'NAME', 'LOAD TIME', 'XDP_ABORTED', 'XDP_DROP', 'XDP_PASS', 'XDP_TX',
           'XDP_REDIRECT', 'XDP_INVALID_ACTION']


@pytest.fixture(scope='module')
def array():
    """Yield (near, far, helper): an active array with a filter; the tests are in near."""
    with veth_lab() as (near, far), near.entered():
        near.ip('link', 'add', 'bare0', 'type', 'bridge')
        helper = XdpHelper(XdpSettings(
            interfaces=('near0',), slots=('', '', 'filter', '', '', '', '', ''),
            pin_directory=PINS, filter=FilterSettings(rules=('deny udp dport 4242',),
                                                      frags_drop=True, ptb_max_pps=30)))
        helper.configure()
        helper.activate()
        try:
            with far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for port in (4242, 4242, 4243):
                    sender.sendto(b'datagram', (NEAR, port))
            wait_until(lambda: helper.status().interfaces[0].slots[2].xdp_drop == 2, 'dropped')
            yield near, far, helper
        finally:
            helper.close()


@pytest.fixture
def say(array, capsys):
    """Return a function that runs the command and returns what it prints."""
    def run(*words, code=0):
        capsys.readouterr()
        assert main(['xdp', *words, '--pin-directory', PINS]) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err
    return run


def test_status(array, say):
    """The columns of the reference, and the numbers of the kernel."""
    heading, facts, columns, *rows = say('status').splitlines()
    assert heading == 'Interface near0 status:'
    assert re.fullmatch(r'native mode, root program \d+, veth, MTU 1500', facts)
    assert [word.strip() for word in columns.split('|')] == COLUMNS
    assert len(rows) == 8
    cells = [cell.strip() for cell in rows[2].split('|')]
    filter_slot = array[2].status().interfaces[0].slots[2]
    assert cells[:3] == ['2', str(filter_slot.program_id), 'xdp_filter']
    assert re.fullmatch(r'\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000', cells[3])
    assert cells[5] == '2'
    assert [cell.strip() for cell in rows[0].split('|')] == ['0', '-', '-', '-', *['0'] * 6]


def test_json_has_the_same_facts(array, say):
    """What the node says of the array, the pins say; the settings are the node's."""
    shown, = json.loads(say('status', '--json'))['interfaces']
    told = Report(array[2].status().interfaces).as_dict()['interfaces'][0]
    for name in ('name', 'index', 'kind', 'driver', 'mtu', 'attached', 'mode', 'program_id'):
        assert shown[name] == told[name], name
    for mine, theirs in zip(shown['slots'], told['slots'], strict=True):
        assert mine['load_time'] == pytest.approx(theirs['load_time'], abs=5)
        for name in ('slot', 'program_id', 'name', 'kind', 'foreign', *COUNTS):
            assert mine[name] == theirs[name], name


def test_named_interfaces(say):
    said = say('status', '-i', 'bare0,near*', '-i', 'no_such')
    assert 'Root array not attached to interface bare0.' in said
    assert 'Root array not attached to interface no_such: there is no such interface.' in said
    assert 'Interface near0 status:\nnative mode' in said
    shown = json.loads(say('status', '--json', '-i', 'bare0'))['interfaces']
    assert [(each['name'], each['attached'], each['slots']) for each in shown] == [
        ('bare0', False, [])]


def test_detached(array, say):
    """An array whose root is not on its interface is shown as that, with its counts."""
    array[2].deactivate()
    try:
        said = say('status')
        assert 'Root array not attached to interface near0: its node is inactive' in said
        assert 'xdp_filter' in said
    finally:
        array[2].activate()


def test_filter_status(say):
    said = say('filter', 'status', '--pins')
    for words in ("Status for interface 'near0'", 'frags_drop: true', 'ptb_max_pps: 30',
                  'ptb_send: false', 'ip_drop_count: 2', 'eth_frame_err: 0',
                  'the rules are known to the node alone'):
        assert words in said, said
    shown = json.loads(say('filter', 'status', '--pins', '--json', '-i', 'near0,bare0'))
    assert shown['near0']['settings']['frags_drop'] is True
    assert shown['near0']['outcomes']['ip_drop_count'] == 2
    assert shown['bare0'] == {'reason': 'root array not attached'}


def test_trace(array, say):
    assert say('trace', 'on').startswith('trace on: near0; read it with: cat ')
    assert ', trace, ' in say('status').splitlines()[1]
    assert json.loads(say('trace', 'off', '--json')) == {'trace': False, 'interfaces': ['near0']}
    assert 'trace' not in say('status')
    assert 'there is no root array' in say('trace', 'on', '-i', 'bare0', code=1)


@pytest.mark.parametrize('words', [(), ('status', 'near0'), ('trace',), ('load', 'x', 'filter'),
                                   ('attach', 'near0', '--mode', 'fast'), ('rules',)])
def test_arguments(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(['xdp', *words])
    assert end.value.code == 2
    assert 'usage: ipc-bypass' in capsys.readouterr().err


def test_no_node(array, capsys, monkeypatch):
    """What a node has to do says in one line that none answers."""
    monkeypatch.setenv('ROS_DOMAIN_ID', '199')
    assert main(['xdp', 'detach', 'near0', '--timeout', '0.5', '--node', '/none/there']) == 1
    line, = capsys.readouterr().err.splitlines()
    assert 'ask node /none/there: no answer within 0.5 s in ROS domain 199' in line
    assert 'xdp_helper.launch.py' in line


def test_remarks():
    """What does not fit into a cell stands below the table."""
    slots = [SlotStatus(index) for index in range(8)]
    slots[6] = SlotStatus(6, 12, 'theirs', 'foreign', foreign=True, load_time=1.0, entered=5)
    slots[2] = SlotStatus(2, configured='filter', reason='it does not compile')
    report = Report((InterfaceStatus('eth0', 3, 'physical', 'igc', 1500, attached=True,
                                     mode='generic', reason='native: no', program_id=9,
                                     slots=tuple(slots)),), problems=('eth0: x', 'another thing'))
    lines = status_text(report.as_dict()).splitlines()
    assert lines[1] == 'generic mode, root program 9, physical igc, MTU 1500'
    assert any('| theirs*' in line and 'Thu, 01 Jan 1970' in line for line in lines)
    assert 'note: native: no' in lines
    assert any(line.startswith('* pinned by another tool: it ends the chain') and
               '5 packets came to slot 6' in line for line in lines)
    assert 'slot 2: filter is configured: it does not compile' in lines
    assert 'note: another thing' in lines
    assert 'note: eth0: x' not in lines


def test_texts():
    assert load_time_text(0) == '-'
    assert load_time_text(1683145092) == 'Wed, 03 May 2023 20:18:12 +0000'
    assert rules_text([]) == 'No rules.'
    assert rules_text([{'id': 1, 'rule': 'deny udp', 'origin': 'service', 'packets': 2,
                        'bytes': 3}]).splitlines()[1].endswith('2 |                3 | service   '
                                                               '| deny udp')
