"""What the filter shows of itself."""

import json

from filter_tools import ip4, rig, udp
from ipc_bypass.kernel.header import enumerations
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.xdp.filter.model import MALFORMED, OUTCOMES, PASSED
from ipc_bypass.xdp.filter.rule_table import MAX_COMBINED, MAX_RULES
from ipc_bypass.xdp.filter.status import FilterStatus, status_json, status_text
import pytest


@pytest.fixture(scope='module')
def status():
    """Give the status of a filter that has seen a few packets."""
    with rig() as made:
        made.apply('deny udp 7400', 'allow domain 3', frags_drop=True)
        for frame in (ip4(udp(1, 7400)), ip4(udp(1, 7401)), ip4(udp(1, 2), fragment=0x2000),
                      ip4(udp(1, 8150)), bytes(14)):
            made.run(frame)
        return made.filter.status()


def test_it_adds_up(status):
    assert status.packets == 5 == sum(status.verdicts.values())
    assert status.verdicts == {'pass': 3, 'drop': 2, 'tx': 0}
    assert [(rule.rule, rule.packets) for rule in status.rules] == [
        ('deny udp dport 7400', 1), ('allow domain 3', 1)]


def test_as_text(status):
    text = status_text({'eth0': status, 'eth1': 'root array not attached'})
    lines = text.splitlines()
    for line in ('frags_drop: true', 'ptb_send: false', 'ptb_max_pps: 20', 'ip_drop_count: 1',
                 'ip_frag_drop_count: 1', 'eth_frame_err: 0', 'other_pass: 1',
                 'packets: 5 (passed 3, dropped 2, answered 0)', 'root array not attached'):
        assert line in lines, text
    assert len([line for line in lines if 'allow domain 3' in line]) == 1
    assert len([line for line in lines if line.startswith('=====')]) == 2
    assert 'none' in status_text({'eth0': FilterStatus('xdp', '', {}, (), {})})
    beside = status_text({'eth0': FilterStatus('user space', 'no driver', {}, (), {}, 7)})
    assert 'Filter in user space: no driver' in beside and 'missed: 7' in beside


def test_as_json(status):
    found = json.loads(json.dumps(status_json({'eth0': status, 'eth1': 'gone'})))
    assert found['eth1'] == {'reason': 'gone'}
    assert found['eth0']['packets'] == 5
    assert found['eth0']['settings']['frags_drop'] is True
    assert found['eth0']['outcomes'] == status.outcomes
    assert found['eth0']['rules'][0]['rule'] == 'deny udp dport 7400'


def test_names_and_sizes_are_those_of_the_header():
    constants = enumerations(bpf_source('xdp_filter.h'))
    names = [name.removeprefix('OUTCOME_').lower() for name in constants['filter_outcome']][:-1]
    assert [name.removesuffix('_count') for name in OUTCOMES] == names
    assert list(constants['filter_outcome'].values()) == [*range(len(OUTCOMES) + 1)]
    assert set(PASSED) | set(MALFORMED) <= set(OUTCOMES)
    sizes = constants['filter_size']
    assert (MAX_RULES, MAX_COMBINED) == (sizes['FILTER_RULES'], sizes['FILTER_COMBINED_RULES'])
    with rig() as made:
        entries = {name: entry.max_entries for name, entry in made.maps.items()}
    assert entries['filter_ports'] == sizes['FILTER_PORT_ROWS'] == 2 * (
        sizes['FILTER_PORTS'] + sizes['FILTER_PROTOCOLS'])
    assert entries['filter_classes'] == 2 * sizes['FILTER_CLASSES']
    assert entries['filter_groups'] == 2 * sizes['FILTER_GROUPS']
    assert entries['filter_combined'] == 2 * sizes['FILTER_COMBINED_RULES']
    assert entries['filter_rules'] == sizes['FILTER_RULES']
    assert entries['filter_hosts4'] == 2 * sizes['FILTER_BUCKETS']
    assert {entries[name] for name in ('filter_hosts6', 'filter_prefixes4', 'filter_prefixes6')
            } == {sizes['FILTER_ADDRESSES']}
