"""Settings of an interface: changed, put back, also after a SIGKILL, and never over another's."""

from dataclasses import replace
import json
import os
import stat
import subprocess
import sys

from interface_tools import end, ethtool, feature, needs_privilege, pair
from ipc_bypass.kernel.errors import PrivilegeError
from ipc_bypass.xdp.errors import InterfaceError, OffloadError
from ipc_bypass.xdp.ethtool import Ethtool, UDP4, UDP6
from ipc_bypass.xdp.interfaces import find, interfaces
from ipc_bypass.xdp.offloads import Offloads, peer_offloads, recover
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

pytestmark = needs_privilege

CHILD = """
import sys, threading
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.offloads import Offloads, peer_offloads
own = Offloads(find('near0'), sys.argv[1])
own.set(gro=True, tx_checksum=False)
peer_offloads(find('near0'), sys.argv[1]).set(gro=True)
print('set', flush=True)
threading.Event().wait()
"""


@pytest.fixture
def lab():
    """Yield (near, far, near's Interface), as the kernel makes them."""
    with pair(plain_checksums=False) as made:
        yield made


@pytest.fixture
def several_queues():
    """Yield a veth with up to four queues."""
    with Namespace() as space, space.entered():
        space.ip('link', 'add', 'v0', 'numrxqueues', '4', 'numtxqueues', '4', 'type', 'veth',
                 'peer', 'name', 'v1')
        yield find('v0')


def test_set_and_restore(lab):
    near, _, interface = lab
    offloads = Offloads(interface)
    before = offloads.current()
    assert before == {'gro': False, 'lro': False, 'rx_checksum': True, 'tx_checksum': True,
                      'rx_queues': 1}
    shown = ethtool(near, '-k', 'near0')
    lines = offloads.set(gro=True, tx_checksum=False, rx_checksum=True)
    assert 'near0: feature:rx-gro off -> on' in lines
    assert offloads.current() == {**before, 'gro': True, 'tx_checksum': False}
    assert feature(near, 'near0', 'generic-receive-offload')
    assert not feature(near, 'near0', 'tx-checksumming')
    assert not any('rx-checksum' in key for key in offloads.changed())
    assert offloads.set(gro=True, tx_checksum=False) == ()
    back = offloads.restore()
    assert len(back) == len(lines) and offloads.changed() == {} and offloads.notes == ()
    assert ethtool(near, '-k', 'near0') == shown
    assert offloads.restore() == ()
    offloads.close()


def test_what_was_first_is_put_back(lab):
    near, _, interface = lab
    offloads = Offloads(interface)
    offloads.set(gro=True)
    offloads.set(gro=False)
    offloads.set(gro=True)
    offloads.restore()
    assert not feature(near, 'near0', 'generic-receive-offload')


def test_what_somebody_else_changed_stays(lab):
    near, _, interface = lab
    offloads = Offloads(interface)
    ethtool(near, '-K', 'near0', 'tx-checksum-sctp', 'off')
    offloads.set(gro=True, tx_checksum=False)
    ethtool(near, '-K', 'near0', 'gro', 'off')
    ethtool(near, '-K', 'near0', 'gro', 'on')  # as we had it: ours to put back
    ethtool(near, '-K', 'near0', 'tx', 'on')
    offloads.restore()
    assert not feature(near, 'near0', 'generic-receive-offload')
    assert feature(near, 'near0', 'tx-checksumming')
    assert offloads.changed() == {}


def test_queues(several_queues):
    offloads = Offloads(several_queues)
    offloads.set(rx_queues=2)
    assert offloads.current()['rx_queues'] == 2
    offloads.set(rx_queues=3)
    offloads.restore()
    assert offloads.current()['rx_queues'] == 4
    offloads.set(rx_queues=2)
    with Ethtool() as other:
        other.set_channels('v0', replace(other.channels('v0'), rx=1))
    assert offloads.restore() == () and offloads.current()['rx_queues'] == 1
    assert 'somebody else changed it' in offloads.notes[0]


@pytest.mark.parametrize('asked, reason', [
    ({'lro': True}, "lro: the driver 'veth' does not have it; leave that setting out"),
    ({'rx_queues': 9}, '9 receive queues are asked for, the driver takes 1 to 4'),
    ({'rx_queues': 0}, '0 receive queues'),
    ({'indirection': [0, 1]}, "indirection: the driver 'veth' does not have it"),
    ({'steer': {4242: 1}}, "4242: the driver 'veth' does not have it"),
], ids=str)
def test_refused_and_put_back(several_queues, asked, reason):
    """What the same call changed before is put back; what an earlier one changed stays."""
    offloads = Offloads(several_queues)
    offloads.set(tx_checksum=False)
    before, changed = offloads.current(), offloads.changed()
    with pytest.raises(OffloadError, match=reason) as refused:
        offloads.set(gro=True, **asked)
    assert '\n' not in str(refused.value)
    assert offloads.current() == before and offloads.changed() == changed
    offloads.restore()


def test_the_file(lab, tmp_path):
    _, _, interface = lab
    folder = tmp_path / 'made' / 'here'
    offloads = Offloads(interface, folder)
    assert [*folder.glob('*.json')] == []
    offloads.set(gro=True)
    kept, = folder.glob('*.json')
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads(kept.read_text())['changed'] == {'feature:rx-gro': [False, True]}
    with pytest.raises(OffloadError, match='another process of ours has changed them'):
        Offloads(interface, folder)
    offloads.restore()
    offloads.close()
    assert [*folder.iterdir()] == []


@pytest.fixture
def killed(lab, tmp_path):
    """Have a process change both ends and be killed; yield (near, far, interface, folder)."""
    near, far, interface = lab
    process = subprocess.Popen([sys.executable, '-c', CHILD, str(tmp_path)],
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'set\n'
        assert len(recover(tmp_path)) == 2  # of a living process: told, and left alone
        assert feature(near, 'near0', 'generic-receive-offload')
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    yield near, far, interface, tmp_path


def test_recovered_after_sigkill(killed):
    near, far, _, folder = killed
    assert feature(far, 'far0', 'generic-receive-offload')
    lines = recover(folder)
    assert 'near0: feature:rx-gro back to off' in lines
    assert 'far0: feature:rx-gro back to off' in lines
    for space, name in ((near, 'near0'), (far, 'far0')):
        assert not feature(space, name, 'generic-receive-offload')
        assert feature(space, name, 'tx-checksumming')
    assert [*folder.iterdir()] == [] and recover(folder) == []


def test_recovered_by_the_next_of_the_interface(killed):
    near, _, interface, folder = killed
    ethtool(near, '-K', 'near0', 'gro', 'off')  # somebody did meanwhile
    offloads = Offloads(interface, folder)
    assert offloads.recovered and not any('rx-gro' in line for line in offloads.recovered)
    assert feature(near, 'near0', 'tx-checksumming')
    offloads.close()
    recover(folder)


def test_recovered_without_the_interface(killed):
    near, far, _, folder = killed
    near.ip('link', 'del', 'near0')
    assert recover(folder) == [] and [*folder.iterdir()] == []
    near.ip('link', 'add', 'near0', 'type', 'veth', 'peer', 'name', 'far0', 'netns', far.name)


@pytest.mark.parametrize('content', [
    '', '{', '[]', '{"version": 1}', '{"version": 9, "boot": "", "mac": "", "changed": {}}'])
def test_a_file_that_is_not_ours_to_follow(lab, tmp_path, content):
    _, _, interface = lab
    inode = os.stat('/proc/thread-self/ns/net').st_ino
    kept = tmp_path / f'offloads_{inode}_{interface.index}.json'
    kept.write_text(content)
    offloads = Offloads(interface, tmp_path)
    assert offloads.recovered == () and not kept.exists()
    offloads.close()


def test_a_file_of_an_earlier_interface(killed):
    """The next interface with that index has another MAC: nothing of it is changed."""
    near, far, interface, folder = killed
    near.ip('link', 'del', 'near0')
    near.ip('link', 'add', 'near0', 'index', str(interface.index), 'type', 'veth', 'peer', 'name',
            'far0', 'netns', far.name)
    ethtool(near, '-K', 'near0', 'gro', 'on')
    assert not any(line.startswith('near0') for line in recover(folder))
    assert feature(near, 'near0', 'generic-receive-offload')


def test_a_folder_that_others_write_to(lab, tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(OffloadError, match='only this user writes to; name another folder'):
        Offloads(lab[2], tmp_path)


def test_the_peer(lab):
    near, far, interface = lab
    offloads = peer_offloads(interface)
    assert offloads.interface.name == 'far0'
    offloads.set(tx_checksum=False, gro=True)
    assert not feature(far, 'far0', 'tx-checksumming')
    assert feature(near, 'near0', 'tx-checksumming')
    far.ip('link', 'set', 'far0', 'down')
    far.ip('link', 'set', 'far0', 'name', 'other0')
    offloads.restore()
    assert feature(far, 'other0', 'tx-checksumming')


def test_the_peer_s_namespace_ends():
    """It is not held: with its container, the veth goes."""
    with pair(plain_checksums=False) as (_, far, interface):
        offloads = peer_offloads(interface)
        offloads.set(gro=True)
        end(far)
        wait_until(lambda: [each.name for each in interfaces()] == ['lo'], 'the veth goes')
        assert offloads.restore() == () and len(offloads.notes) == 1
        assert offloads.changed() == {}


def test_no_peer():
    with pytest.raises(InterfaceError, match='it is no veth'):
        peer_offloads(find('lo'))


def test_interface_is_gone(lab):
    near, _, interface = lab
    offloads = Offloads(interface)
    offloads.set(gro=True)
    near.ip('link', 'del', 'near0')
    assert offloads.restore() == () and 'there is none' in offloads.notes[0]
    with pytest.raises(InterfaceError):
        offloads.set(gro=True)


def test_without_the_capability(lab):
    code = ('from ipc_bypass.xdp.offloads import Offloads; '
            'from ipc_bypass.xdp.interfaces import find\n'
            "offloads = Offloads(find('near0'))\n"
            'try: offloads.set(gro=True)\n'
            'except Exception as error: print(type(error).__name__, offloads.changed(), error)')
    done = subprocess.run(['setpriv', '--bounding-set', '-net_admin', sys.executable, '-c', code],
                          capture_output=True, text=True)
    assert done.stdout.startswith(PrivilegeError.__name__ + ' {}'), done


class Card(Ethtool):
    """A driver that has tables and rules, as no driver here has."""

    def __init__(self):
        self.tables, self.rules = [0, 1, 2, 3] * 2, {}

    def indirection(self, name):
        return [*self.tables]

    def set_indirection(self, name, table):
        self.tables = [*table]

    def _call(self, name, block):
        command = int.from_bytes(block[:4], 'little')
        spec = bytearray(block[16:184])
        if command == 0x32:  # ETHTOOL_SRXCLSRLINS
            assert spec[160:164] == b'\xff' * 4
            spec[160:164] = len(self.rules).to_bytes(4, 'little')
            self.rules[len(self.rules)] = bytes(spec)
        number = int.from_bytes(spec[160:164], 'little')
        if command == 0x31:  # ETHTOOL_SRXCLSRLDEL
            del self.rules[number]
        if number not in self.rules and command != 0x31:
            raise OSError(2, 'No such file or directory')
        return block[:16] + self.rules.get(number, bytes(spec)) + bytes(8)


def test_tables_and_rules(monkeypatch, lab):
    """The logic over tables of queues and rules of ports, on a card that is made up."""
    card = Card()
    monkeypatch.setattr('ipc_bypass.xdp.offloads.Ethtool', lambda: card)
    monkeypatch.setattr(card, 'features', lambda name: {}, raising=False)
    card.close = lambda: None
    offloads = Offloads(lab[2])
    offloads.set(indirection=[1, 2], steer={7400: 3})
    assert card.tables == [1, 2] * 4
    flows = {int.from_bytes(rule[:4], 'little'): rule for rule in card.rules.values()}
    assert set(flows) == {UDP4, UDP6}
    assert flows[UDP4][14:16] == (7400).to_bytes(2, 'big') == flows[UDP6][38:40]
    assert flows[UDP4][86:88] == b'\xff\xff' == flows[UDP6][110:112]
    assert flows[UDP4][152:160] == (3).to_bytes(8, 'little')
    offloads.restore()
    assert card.tables == [0, 1, 2, 3] * 2 and card.rules == {}
    offloads.set(steer={7400: 3})
    card.rules[0] = bytes(168)  # somebody put another rule there
    offloads.restore()
    assert card.rules == {0: bytes(168)} and offloads.changed() == {}
