"""Settings of AF_XDP, and what of them is refused."""

from dataclasses import replace

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.batch import Batch, load_handler
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
import pytest


@pytest.mark.parametrize('wrong', [
    {'frame_size': 1024}, {'frame_size': 3000}, {'frames': 1}, {'ring_entries': 48},
    {'ring_entries': 1 << 17}, {'mode': 'fast'}, {'batch': 0}, {'batch': 1 << 17},
    {'headroom': 2000}, {'busy_poll_us': -1}, {'busy_poll_budget': 0}, {'cpu': 60000},
    {'rest_us': -1}], ids=str)
def test_a_wrong_value_is_one_line_with_a_next_step(wrong):
    with pytest.raises(BypassError) as caught:
        AfXdpSettings(**wrong)
    name, = wrong
    assert str(caught.value).startswith(f'set {name} of AF_XDP: ')
    assert caught.value.next_step
    assert '\n' not in str(caught.value)


def test_an_mtu_that_fits_is_taken():
    AfXdpSettings().check_mtu('eth0', 1500)
    AfXdpSettings(frame_size=4096).check_mtu('eth0', 3500)


def test_jumbo_frames_are_refused_with_the_reason():
    with pytest.raises(BypassError, match='1770; packets over several frames are not supported; '
                       'use frame_size 4096'):
        AfXdpSettings().check_mtu('eth0', 3500)
    with pytest.raises(BypassError, match='lower the MTU to 3818 at most, or set drop_oversize'):
        AfXdpSettings().check_mtu('eth0', 9000)
    replace(AfXdpSettings(), drop_oversize=True).check_mtu('eth0', 9000)


def test_a_handler_is_found_by_its_name():
    assert load_handler('ipc_bypass.xdp.af_xdp.forwarder:forward')(None) == 1
    assert load_handler('ipc_bypass.xdp.af_xdp.batch:Batch.packets') is Batch.packets


@pytest.mark.parametrize('name', ['', 'os', 'nowhere_at_all:function', 'os:nothing', 'os:sep'])
def test_a_handler_that_is_none_is_refused(name):
    with pytest.raises(BypassError, match='load the handler'):
        load_handler(name)
