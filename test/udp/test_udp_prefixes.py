"""Prefixes against ipaddress, address by address."""

import ipaddress

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.udp.prefixes import Prefixes
import numpy as np
from packet_tools import mapped
import pytest

SETS = [[], ['10.9.0.0/16'], ['fd00:9::/64'], ['0.0.0.0/0'], ['::/0'], ['10.9.1.2/32', '::1/128'],
        ['10.9.0.0/16', 'fd00:9::/64', '192.168.0.0/17', 'fd00:9:8000::/33']]
ADDRESSES = ['10.9.0.0', '10.9.255.255', '10.10.0.0', '10.8.255.255', '0.0.0.0', '10.9.1.2',
             '255.255.255.255', '192.168.127.255', '192.168.128.0', '::', '::1', 'fd00:9::',
             'fd00:9::ffff:ffff:ffff:ffff', 'fd00:9:0:1::', 'fd00:9:8000::1', 'fd00:9:7fff::1',
             'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff']


@pytest.mark.parametrize('texts', SETS, ids=str)
def test_match(texts):
    prefixes = Prefixes(texts)
    assert len(prefixes) == len(texts)
    parsed = [ipaddress.ip_address(address) for address in ADDRESSES]
    # All of IPv6 holds IPv4, as descriptors have it: only there they are in one space.
    wanted = [any(address in network or str(network) == '::/0'
                  for network in prefixes.networks) for address in parsed]
    rows = np.array([np.frombuffer(mapped(address), 'u1') for address in ADDRESSES])
    assert prefixes.match(rows).tolist() == wanted
    assert [address.packed in prefixes for address in parsed] == wanted
    assert prefixes.match(rows[:0]).tolist() == []
    # As a field of structured records: not contiguous.
    records = np.zeros(len(rows), [('other', 'u1', 3), ('address', 'u1', 16)])
    records['address'] = rows
    assert prefixes.match(records['address']).tolist() == wanted


@pytest.mark.parametrize('text', ['', '10.9.0.1/16', '10.9.0.0/33', 'x', '224.0.0.0/4',
                                  'ff02::/16'])
def test_refused(text):
    with pytest.raises(BypassError, match=f"claim the prefix '{text}'"):
        Prefixes(['10.0.0.0/8', text])
