"""Interfaces that are called what cannot be shown."""

import subprocess

from ipc_bypass.xdp.errors import InterfaceError
from ipc_bypass.xdp.fast_path.rtnetlink import Asking
from ipc_bypass.xdp.interfaces import find_index, interfaces, matching, select
import pytest
from support.namespaces import Namespace

ODD = b'v\xff\x1b[2J'


@pytest.fixture
def space():
    """Yield a Namespace with a veth pair, one end of which is called ODD."""
    with Namespace('n') as made:
        made.ip('link', 'add', 'vplain', 'type', 'veth', 'peer', 'name', 'vodd')
        subprocess.run(made.command('ip', 'link', 'set', 'dev', 'vodd', 'name', ODD), check=True)
        yield made


def test_no_pattern_names_it(space):
    """It is there, and neither an error's text nor a status ever has it."""
    with space.entered():
        odd, = (each for each in interfaces() if each.name.startswith('v\udcff'))
        assert find_index(odd.index).name == odd.name
        assert [each.name for each in select(['v*'])] == ['vplain']
        assert not matching([odd.name], interfaces())
        with pytest.raises(InterfaceError) as caught:
            select(['nothing'])
        assert 'vplain' in str(caught.value) and str(caught.value).isprintable()
        with Asking() as asking:
            assert asking.links()[odd.index].name == 'v??[2J'
