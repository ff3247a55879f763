"""The table of capabilities in the documentation is what the nodes and the units have."""

from pathlib import Path
import re

from ipc_bypass.kernel.capabilities import BITS
from ipc_bypass.nodes.privileges import FILES, USED
from unit_tools import Unit, UNITS

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'security.md'
_UNITS = {'ipc-bypass': 'ipc_bypass', 'ipc-bypass-xdp': 'xdp_helper',
          'ipc-bypass-sockmap': 'sockmap_helper', 'ipc-bypass-tun': 'tun_bridge'}


def table():
    """Return {capability: (what it buys, what goes without it, nodes that use it)}."""
    rows = re.findall(r'^\| (CAP_\w+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$', PAGE.read_text(),
                      re.MULTILINE)
    assert len(rows) == len({row[0] for row in rows})
    return {name: (buys.strip(), without.strip(), set(nodes.strip().split(', ')))
            for name, buys, without, nodes in rows}


def test_every_capability_that_a_node_uses_is_there():
    used = {name: {node for node in USED if name in USED[node]}
            for name in set().union(*USED.values()) - FILES | {'CAP_DAC_READ_SEARCH'}}
    assert {name: row[2] for name, row in table().items()} == used
    assert used.keys() <= BITS.keys()
    for buys, without, _ in table().values():
        assert buys and without


def test_units_grant_no_more_than_is_used():
    for path in UNITS:
        node = _UNITS.get(path.stem)
        granted = set(Unit(path).capabilities)
        assert granted <= USED.get(node, set()), path.name
        assert granted or node is None
