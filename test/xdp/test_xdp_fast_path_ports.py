"""Which ports of bridges take part in the fast path, by what the kernel tells of them."""

from dataclasses import replace

from ipc_bypass.xdp.fast_path.containers import read
from ipc_bypass.xdp.fast_path.rtnetlink import ForwardingEntry, Link
import pytest


class Told:
    """Answers as Asking does, for what this kernel may not be able to do."""

    def __init__(self, *links, peers=(), table=()):
        self._links, self._peers, self._table = links, dict(peers), table

    def links(self):
        return {link.index: link for link in self._links}

    def link(self, index, namespace):
        return self._peers.get((namespace, index))

    def addresses(self, namespace):
        return {2: frozenset({bytes(16)})}

    def qdiscs(self):
        return {}

    def forwarding(self):
        return list(self._table)


BRIDGE = Link(1, 'br0', 'bridge', b'', 1500, True, 0, 0, -1, False, False, -1, False, False)
VETH = Link(5, 'port1', 'veth', b'', 1500, True, 1, 2, 0, False, False, 3, False, False)
INSIDE = replace(VETH, index=2, mac=b'\2\0\0\0\0\1', master=0, state=-1, mtu=1400)


def read_of(*links, inside=INSIDE, table=(), **options):
    told = Told(*links, peers=[((0, 2), inside)], table=table)
    return read(told, ['br?'], lambda port, kinds: '', **options).ports.get(5)


@pytest.mark.parametrize(('bridge', 'port', 'inside', 'reason'), [
    ({'vlan_filtering': True}, {}, {}, 'filters by VLAN'), ({'up': False}, {}, {}, 'is down'),
    ({}, {'kind': 'tun'}, {}, 'it is no veth'), ({}, {'peer_namespace': -1}, {}, 'same network'),
    ({}, {'peer': 9}, {}, 'cannot be read'), ({}, {}, {'up': False}, 'is down'),
    ({}, {}, {'mac': b'\3\0\0\0\0\1'}, 'no usable MAC'), ({}, {}, {'xdp': True}, 'XDP program')])
def test_what_speaks_against_a_port(bridge, port, inside, reason):
    found = read_of(replace(BRIDGE, **bridge), replace(VETH, **port),
                    inside=replace(INSIDE, **inside))
    assert reason in found.obstacle and found.container is None


def test_what_speaks_for_a_port():
    found = read_of(BRIDGE, VETH)
    assert (found.obstacle, found.container.mtu) == ('', 1400)
    assert read_of(BRIDGE, VETH, inside=replace(INSIDE, xdp=True), past_xdp=False).container
    assert read_of(replace(BRIDGE, name='docker0'), VETH) is None
    here = ForwardingEntry(1, 5, INSIDE.mac, False)
    assert read_of(BRIDGE, VETH, table=[here]).container
    for entry in (replace(here, port=6), replace(here, local=True)):
        assert 'elsewhere' in read_of(BRIDGE, VETH, table=[entry]).obstacle
    assert read_of(BRIDGE, VETH, table=[replace(here, bridge=2, port=6)]).container
