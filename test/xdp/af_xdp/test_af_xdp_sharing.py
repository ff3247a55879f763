"""Several processes on one array: who goes leaves what others need, and notices its end."""

from contextlib import closing
import os

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp import steered
from ipc_bypass.xdp.af_xdp.batch import Batch
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.steered import Holder, joined, SteeredInterface
from ipc_bypass.xdp.af_xdp.umem import Umem
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.steering import Steering, SteeringSettings
import pytest
from support.leaks import PIN_PREFIX
from support.waiting import wait_until

SMALL = AfXdpSettings(frames=64, ring_entries=16)


class Memory:
    """Stands for a Steering."""

    def __init__(self, settings):
        """Have this steered."""
        self.settings = settings

    def read(self):
        """Return what is steered."""
        return self.settings

    def apply(self, settings):
        """Steer it."""
        self.settings = settings


def test_what_another_one_needs_stays(tmp_path):
    tmp_path.chmod(0o755)
    one, other = SteeringSettings((1, 2), echo=True), SteeringSettings((2, 3), echo=True)
    array = Memory(SteeringSettings())
    first = Holder(1, array, one, str(tmp_path))
    second = Holder(1, array, other, str(tmp_path))
    assert array.read() == joined(one, other)
    first.close()
    assert array.read() == other
    second.close()
    assert array.read() == SteeringSettings()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_comes_to_nobody_else(tmp_path):
    """Its ports are not those of the next process, whose sockets have its queues now."""
    tmp_path.chmod(0o755)
    (tmp_path / 'steering_1_4000000000_0.txt').write_text('{"udp_ports": [7400]}')
    array = Memory(SteeringSettings((7400,), everything=True))
    with closing(Holder(1, array, SteeringSettings((4242,)), str(tmp_path))):
        assert array.read() == SteeringSettings((4242,))
    assert array.read() == SteeringSettings()
    assert os.listdir(tmp_path) == []


def test_the_end_of_a_joined_array_is_told(lab, templates, monkeypatch):
    monkeypatch.setattr(steered, '_GONE_S', 0.05)
    pins = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_sharing'
    with lab[0].entered():
        with RootArray(find('near0'), RootSettings(pin_directory=pins),
                       templates=templates) as array:
            Steering(array.load(4, slot_program('af_xdp')).maps)
            array.attach()
            made = SteeredInterface('near0', SMALL, SteeringSettings((4242,)),
                                    pin_directory=pins)
            made.check()
        with made:
            def told():
                try:
                    made.check()
                except BypassError as error:
                    return 'is not attached any more; start again' in str(error)
            wait_until(told, 'it is told')
    if os.path.isdir(pins):
        os.rmdir(pins)


@pytest.mark.parametrize('length', [-1, 2049, 1 << 40])
def test_a_length_that_is_none_is_too_short_to_send(length):
    batch = Batch(Umem(4, 2048), 'near0', 0, starts=[256], sizes=[60])
    batch.set_length(0, length)
    assert batch.lengths.tolist() == [0]
