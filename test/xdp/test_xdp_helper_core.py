"""The XDP helper without ROS: several interfaces, slots, failures, and what comes back."""

from contextlib import contextmanager
import os
import resource
import socket

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.xdp.errors import OccupiedError, SanityError
from ipc_bypass.xdp.fast_path.path import FastPathSettings
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.tables import FilterTables
from ipc_bypass.xdp.helper import XdpHelper
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.request_error import RequestError
from ipc_bypass.xdp.root import RootArray
from ipc_bypass.xdp.settings import XdpSettings
from ipc_bypass.xdp.templates import Templates
import pytest
from support.frames import NEAR
from support.leaks import PIN_PREFIX
from support.namespaces import Namespace
from support.waiting import wait_until
from support.xdp import veth_lab

#: XDP_PASS, as instructions: r0 = 2; exit.
PASS = bytes.fromhex('b700000002000000' '9500000000000000')
NO_SLOTS = ('',) * 8
FILTER = ('', '', 'filter') + ('',) * 5
SOURCE = """
#include "xdp_slot.bpf.h"
XDP_SLOT(drop_4243)
{
    return facts->destination_port == 4243 ? XDP_DROP : XDP_CONTINUE;
}
"""


@pytest.fixture(scope='module')
def templates():
    """Return compiled programs that the tests of this file share."""
    return Templates()


@pytest.fixture
def room():
    """Yield (near, far); the test is in near."""
    with veth_lab() as (near, far), near.entered():
        yield near, far


@pytest.fixture
def helper(templates):
    """Return a function that makes an XdpHelper; `told` of it is what it told."""
    made = []

    def make(**values):
        told = []
        helper = XdpHelper(XdpSettings(**{
            'interfaces': ('near0',), 'slots': NO_SLOTS,
            'pin_directory': f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_helper', **values}),
            told.append, templates=templates)
        helper.told = told
        made.append(helper)
        return helper
    yield make
    for helper in made:
        helper.close()


@contextmanager
def theirs(name='near0', flags=0):
    """Have another's program on an interface; yield its id."""
    program = syscall.prog_load(ProgType.XDP, PASS, name='somebodys')
    link = syscall.link_create(program, find(name).index, AttachType.XDP, flags)
    try:
        yield syscall.prog_info(program).id
    finally:
        os.close(link)
        os.close(program)


def shown(helper):
    """Return {name: InterfaceStatus}."""
    return {each.name: each for each in helper.status().interfaces}


def send(far, number, port=4242):
    """Send datagrams from far to near."""
    with far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(number):
            sender.sendto(b'datagram', (NEAR, port))


def own_source(folder, text=SOURCE):
    """Write a slot's source into a folder that only we may write to, and return its path."""
    folder.chmod(0o755)
    path = folder / 'own.bpf.c'
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_another_program(room, helper):
    """It is named and never replaced; what failed leaves nothing of ours."""
    made = helper()
    made.configure()
    with theirs() as program:
        with pytest.raises((OccupiedError, SanityError), match='somebodys'):
            made.activate()
        assert find('near0').xdp_program_id == program
        assert not shown(made)['near0'].attached
        assert 'somebodys' in shown(made)['near0'].reason
    made.activate()
    assert shown(made)['near0'].attached


def test_filter_in_user_space(room, helper):
    """Where XDP cannot be attached, the same rules judge, and the reason is shown."""
    made = helper(slots=('', '', 'filter') + ('',) * 5,
                  filter=FilterSettings(rules=('deny udp dport 4242',)))
    made.configure()
    with theirs():
        made.activate()
        rule = made.add_rule('deny udp dport 4243')
        for port in 4242, 4243, 4243:
            send(room[1], 1, port)
        wait_until(lambda: [each.packets for each in made.rules()] == [1, 2], 'they are judged')
        status = made.filters()['near0']
        assert (status.engine, 'somebodys' in status.reason) == ('user space', True)
        assert made.remove_rule(rule) == rule
    try:
        made.attach('near0')
    except RequestError as error:  # it tries again by itself, and may have been first
        assert error.code == 'ALREADY_ATTACHED'
    assert made.filters()['near0'].engine == 'xdp'


def test_one_of_two(room, helper):
    """A failure on one interface is told, and the other one goes on."""
    room[0].ip('link', 'add', 'other0', 'type', 'bridge')
    made = helper(interfaces=('near0', 'other0', 'none0'))
    made.configure()
    with theirs('other0', flags=1 << 1):
        made.activate()
        found = shown(made)
        assert [found[name].attached for name in ('near0', 'other0', 'none0')] == [
            True, False, False]
        line, = made.told
        assert line.startswith('other0 is not attached: ')
        assert 'somebodys' in line
        assert {problem.partition(':')[0] for problem in made.status().problems} == {
            'other0', 'none0'}
    made.deactivate()
    assert find('near0').xdp_program_id == 0


def test_generic_where_native_cannot_be_had(room, helper):
    room[0].ip('link', 'add', 'other0', 'type', 'bridge')
    made = helper(interfaces=('other0',))
    made.configure()
    made.activate()
    status = shown(made)['other0']
    assert (status.attached, status.mode) == (True, 'generic')
    assert 'native' in status.reason


def add(room, name):
    """Make a veth into far, and wait for nothing."""
    near, far = room
    near.ip('link', 'add', name, 'type', 'veth', 'peer', 'name', f'p{name}', 'netns', far.name)
    near.ip('link', 'set', name, 'up')


def test_comes_back(room, helper):
    """An interface that vanishes and comes back is attached again, as often as it does."""
    made = helper(interfaces=('near*',), slots=FILTER)
    made.configure()
    made.activate()
    indices = {find('near0').index}
    for _ in range(4):
        room[0].ip('link', 'delete', 'near0')
        wait_until(lambda: 'near0' not in shown(made), 'it is gone')
        add(room, 'near0')
        wait_until(lambda: 'near0' in shown(made) and shown(made)['near0'].attached,
                   'it is attached again')
        indices.add(find('near0').index)
    assert len(indices) == 5


def test_held_off(room, helper):
    """What a request detached stays so until one attaches it, whatever comes between."""
    made = helper(interfaces=('near*',))
    made.configure()
    made.activate()
    made.detach('near0')
    made.deactivate()
    made.activate()
    assert not shown(made)['near0'].attached
    assert 'as a service asked' in shown(made)['near0'].reason
    room[0].ip('link', 'delete', 'near0')
    wait_until(lambda: 'near0' not in shown(made), 'it is gone')
    for name in 'near0', 'near1':  # in this order, by index
        add(room, name)
    wait_until(lambda: 'near1' in shown(made) and shown(made)['near1'].attached,
               'what came after it is attached')
    assert not shown(made)['near0'].attached
    made.attach('near0')
    assert find('near0').xdp_program_id


def test_tried_again(room, helper):
    """What was refused is attached as soon as it can be, and told once."""
    add(room, 'near1')
    made = helper(interfaces=('near*',))
    made.configure()
    with theirs():
        made.activate()
        for number in 2, 3:
            add(room, f'near{number}')
            wait_until(lambda name=f'near{number}': name in shown(made)
                       and shown(made)[name].attached, 'another is attached')
    wait_until(lambda: shown(made)['near0'].attached, 'it is attached')
    assert [line.partition(':')[0] for line in made.told if 'near0' in line] == [
        'near0 is not attached', 'near0 is attached now']


def test_renamed(room, helper):
    """It goes on under the new name, which everything shows."""
    made = helper(interfaces=('near*',), slots=FILTER)
    made.configure()
    made.activate()
    program = find('near0').xdp_program_id
    room[0].ip('link', 'set', 'near0', 'down')  # kernels before 6.2 rename no other
    room[0].ip('link', 'set', 'near0', 'name', 'near7')
    wait_until(lambda: [*made.filters()] == ['near7'], 'the new name is known')
    assert find('near7').xdp_program_id == program
    made.detach('near7')
    assert not shown(made)['near7'].attached


def test_filter_in_user_space_only_where_it_could_deny(room, helper):
    """Also where the array itself cannot be had."""
    add(room, 'other0')
    owner = helper()
    owner.configure()
    made = helper(interfaces=('near0', 'other0'), slots=FILTER)
    made.configure()
    made.activate()
    assert [*made.filters()] == ['other0']
    rule = made.add_rule('deny udp dport 4242')
    assert {name: each.engine for name, each in made.filters().items()} == {
        'other0': 'xdp', 'near0': 'user space'}
    made.remove_rule(rule)
    assert [*made.filters()] == ['other0']
    owner.close()
    wait_until(lambda: shown(made)['near0'].attached, 'it is attached')


def test_a_refused_attach_leaves_nothing(room, helper):
    add(room, 'other0')
    made = helper()
    made.configure()
    made.activate()
    with theirs('other0'), pytest.raises(RequestError, match='somebodys'):
        made.attach('other0')
    assert [*shown(made)] == ['near0']
    made.attach('other0')
    assert shown(made)['other0'].attached


def test_no_more_descriptors(room, helper):
    """The limit is raised; where that is not enough, the line says what to do."""
    add(room, 'other0')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    made = helper()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
        made.configure()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        made.activate()
        lowest = os.open('/dev/null', os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 4, hard))
        with pytest.raises(RequestError, match='ulimit -n'):
            made.attach('other0')
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    made.attach('other0')


def test_a_rule_that_cannot_be_removed(room, helper, monkeypatch):
    """It is in force as before."""
    made = helper(slots=FILTER)
    made.configure()
    rule = made.add_rule('deny udp dport 4242')

    def refuse(*_arguments):
        raise BypassError('write the filter', 'no room')
    with monkeypatch.context() as patch:
        patch.setattr(FilterTables, 'write', refuse)
        with pytest.raises(BypassError, match='no room'):
            made.remove_rule(rule)
    assert [(each.id, each.origin) for each in made.rules()] == [(rule, 'service')]
    assert made.remove_rule(rule) == rule


def test_a_slot_of_several(room, helper, monkeypatch):
    """All are gone through; the error tells where it is and where not."""
    for name in 'near1', 'near2':
        add(room, name)
    made = helper(interfaces=('near*',))
    made.configure()
    load = RootArray.load

    def failing(self, *arguments, **options):
        if self.interface.name == 'near1':
            raise BypassError('load it', 'no room')
        return load(self, *arguments, **options)
    monkeypatch.setattr(RootArray, 'load', failing)
    with pytest.raises(BypassError, match='not on near1: load it: no room; these have it: '
                                          '(near0, near2|near2, near0)$'):
        made.load_slot('', 2, 'filter')
    assert {name: bool(each.slots[2].program_id) for name, each in shown(made).items()} == {
        'near0': True, 'near1': False, 'near2': True}


def test_settings_come_before_the_program(room, helper, monkeypatch):
    """No packet meets a filter whose rules are not written yet; one refused stays out."""
    made = helper(filter=FilterSettings(rules=('deny udp dport 4242',)))
    made.configure()
    made.activate()
    steps = []
    write, put = FilterTables.write, RootArray._put
    monkeypatch.setattr(FilterTables, 'write', lambda *arguments: (
        steps.append('write'), write(*arguments))[1])
    monkeypatch.setattr(RootArray, '_put', lambda *arguments: (
        steps.append('put'), put(*arguments))[1])
    for _ in range(2):  # into an empty slot, and in place of itself
        made.load_slot('', 2, 'filter')
        assert steps[0] == 'write'
        assert steps[-1] == 'put'
        steps.clear()
    send(room[1], 3)
    wait_until(lambda: made.rules()[0].packets == 3, 'they are denied')


def test_trace_is_always_written(room, helper):
    """Also where somebody else switched it, and the setting is as it was."""
    made = helper()
    made.configure()
    array, = (managed._array for managed in made._managed.values())
    array.set_trace(True)
    made.apply(made._settings)
    assert not shown(made)['near0'].trace


def test_attach_by_request(room, helper):
    """What a request attaches is taken in, and let go at the end."""
    room[0].ip('link', 'add', 'other0', 'type', 'bridge')
    made = helper()
    made.configure()
    with pytest.raises(RequestError) as refused:
        made.attach('other0')
    assert refused.value.code == 'NOT_ACTIVE'
    made.activate()
    for arguments, code in ((('near0',), 'ALREADY_ATTACHED'), (('zz',), 'NO_INTERFACE'),
                            (('near0', 'fast'), 'INVALID_ARGUMENT'),
                            (('a b',), 'INVALID_ARGUMENT'), (('',), 'INVALID_ARGUMENT'),
                            (('other0', 'offload'), 'REFUSED')):
        with pytest.raises(RequestError) as refused:
            made.attach(*arguments)
        assert refused.value.code == code, arguments
    status, = made.attach('other0', 'generic')
    assert (status.name, status.attached, status.mode) == ('other0', True, 'generic')
    with pytest.raises(RequestError) as refused:
        made.detach('zz')
    assert refused.value.code == 'NOT_ATTACHED'
    made.close()
    assert find('other0').xdp_program_id == 0


def test_slots_by_request(room, helper, tmp_path):
    """An own source is loaded, counted and unloaded under the node's eyes."""
    _, far = room
    source = own_source(tmp_path)
    made = helper(slot_directory=str(tmp_path))
    made.configure()
    made.activate()
    for arguments, code in ((('', 8, 'filter'), 'INVALID_SLOT'),
                            (('zz', 0, 'filter'), 'NO_INTERFACE'),
                            (('', 0, 'nonsense'), 'UNKNOWN_PROGRAM'),
                            (('', 0, f'{tmp_path}/none.c:f'), 'UNKNOWN_PROGRAM'),
                            (('', 0, '/etc/passwd.c:f'), 'NOT_ALLOWED'),
                            (('', 0, '/sys/fs/bpf/x'), 'NOT_ALLOWED')):
        with pytest.raises(RequestError) as refused:
            made.load_slot(*arguments)
        assert refused.value.code == code, arguments
    program, = made.load_slot('near0', 6, f'{source}:drop_4243')
    send(far, 3, 4243)
    wait_until(lambda: shown(made)['near0'].slots[6].xdp_drop == 3, 'they are dropped')
    row = shown(made)['near0'].slots[6]
    assert (row.program_id, row.kind, row.configured) == (program, 'own', f'{source}:drop_4243')
    again, = made.load_slot('', 6, f'{source}:drop_4243')
    assert again != program
    assert shown(made)['near0'].slots[6].xdp_drop == 3  # counters outlive a replacement
    own_source(tmp_path, SOURCE.replace('4243 ?', 'nonsense ?'))
    with pytest.raises(BypassError, match='nonsense'):
        made.load_slot('', 6, f'{source}:drop_4243')
    assert shown(made)['near0'].slots[6].program_id == again
    made.unload_slot('', 6)
    with pytest.raises(RequestError) as refused:
        made.unload_slot('', 6)
    assert refused.value.code == 'EMPTY'


def test_a_slot_that_fails(room, helper, tmp_path):
    """It stays empty, which is told and shown; packets fall through it."""
    source = own_source(tmp_path, 'int nothing;\n')
    made = helper(own_slots=(f'0:{source}:drop_4243', '6:/sys/fs/bpf/none'))
    made.configure()
    made.activate()
    status = shown(made)['near0']
    assert status.attached
    for index, words in ((0, 'no function drop_4243'), (6, '/sys/fs/bpf/none')):
        assert status.slots[index].program_id == 0
        assert words in status.slots[index].reason
        assert any(f'slot {index} stays empty' in line for line in made.told)
    assert len([line for line in made.status().problems if 'slot' in line]) == 2


def test_containers(helper, templates):
    """Tables between containers are kept while it is active, on every port of the bridge."""
    with Namespace('h') as host, Namespace('c') as one, Namespace('c') as two, host.entered():
        host.ip('link', 'add', 'br0', 'type', 'bridge')
        host.ip('link', 'set', 'br0', 'up')
        for number, space in enumerate((one, two), start=1):
            host.ip('link', 'add', f'port{number}', 'master', 'br0', 'type', 'veth', 'peer',
                    'name', 'eth0', 'netns', space.name)
            host.ip('link', 'set', f'port{number}', 'up')
            space.ip('link', 'set', 'eth0', 'up')
            space.ip('address', 'add', f'10.124.1.{number}/24', 'dev', 'eth0')
        made = helper(
            interfaces=('bridge:br0',), slots=('', '', '', '', '', 'devmap', '', ''),
            devmap_bridges=('br0',), devmap_ports={'udp': ((7400, 7649),)},
            fast_path=FastPathSettings(bridges=('br0',), udp_ports=('7400-7649',)))
        made.configure()
        assert made.status().fast_path.way == ''
        made.activate()
        wait_until(lambda: [port.name for port in made.status().fast_path.ports
                            if port.in_use] == ['port1', 'port2'], 'the ports are in use')
        status = made.status()
        assert status.fast_path.way in ('tcx', 'clsact')
        assert {each.name: each.attached for each in status.interfaces} == {
            'port1': True, 'port2': True}
        assert 'devmap_packets' in status.interfaces[0].counters
        # Offloads and GRO of the containers are as they are made: why it is not used is told.
        assert any('frames of its container go by the bridge' in problem
                   for problem in status.problems), status.problems
        made.deactivate()
        assert made.status().fast_path.way == ''
        made.activate()
        made.close()


@pytest.mark.parametrize('values, says', [
    ({'mode': 'fast'}, "read mode 'fast'"), ({'frags': 'x'}, "read frags 'x'"),
    ({'slots': ('filter',)}, '1 places, not 8'),
    ({'slots': ('filter', 'filter') + ('',) * 6}, 'stands in two places'),
    ({'own_slots': ('9:/a.c:f',)}, 'begins with no slot'),
    ({'own_slots': ('2:/a.c:f',)}, 'slot 2 has filter already'),
    ({'own_slots': ('0:/a.c:f', '0:/b.c:f')}, 'slot 0 has /a.c:f already'),
    ({'slot_directory': 'here'}, 'no absolute path'),
    ({'interfaces': ('a b',)}, 'white space')], ids=str)
def test_settings_are_checked(values, says):
    with pytest.raises(BypassError, match=says):
        XdpSettings(**values)
