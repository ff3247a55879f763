"""`ipc-bypass xdp echo|forward|pipeline`: without privileges, with the node's array, refusals."""

from contextlib import contextmanager
import json
import os
import select
import signal
import socket
import subprocess

from af_xdp_tools import python
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.dropping import capabilities_left
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.steered import SteeredInterface
from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.root import RootArray, RootSettings
from ipc_bypass.xdp.steering import Steering, SteeringSettings
import pytest
from support.frames import NEAR, NEAR_V6
from support.leaks import PIN_PREFIX
from support.waiting import PATIENCE, wait_until

SMALL = AfXdpSettings(frames=64, ring_entries=16)


@contextmanager
def command(space, *arguments):
    """Yield a process of `ipc-bypass xdp` in a namespace, ready; it is ended by SIGTERM."""
    process = subprocess.Popen(
        space.command(*python('-m', 'ipc_bypass.cli.main', 'xdp', *arguments)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        while not said or not said[-1].startswith('ready: '):
            assert select.select([process.stderr], [], [], 4 * PATIENCE)[0], said
            line = process.stderr.readline()
            assert line, said
            said.append(line)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.stdout.close()
            process.stderr.close()


def refused(space, *arguments):
    """Return what a command says that is to fail."""
    done = subprocess.run(
        space.command(*python('-m', 'ipc_bypass.cli.main', 'xdp', *arguments)),
        capture_output=True, text=True, timeout=4 * PATIENCE)
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.fixture
def pins():
    """Return a folder for pins that nobody else uses."""
    folder = f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_af_xdp'
    yield folder
    if os.path.isdir(folder):
        os.rmdir(folder)


def ask(space, address, payload):
    """Return what comes back to a UDP socket."""
    with space.entered():
        sock = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET,
                             socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(PATIENCE)
        sock.sendto(payload, (address, 4242))
        return sock.recv(2048)


def test_the_echo_works_on_without_any_capability(lab):
    with command(lab[0], 'echo', 'near0', '--json', '--period', '0.1', '--pin-directory', '',
                 '--frames', '512', '--ring-entries', '128') as process:
        for number in range(10):
            assert ask(lab[1], (NEAR, NEAR_V6)[number % 2], b'%d' % number) == b'%d' % number
            assert capabilities_left(process.pid) == 0
        with open(f'/proc/{process.pid}/status') as stream:
            status = dict(line.split(':', 1) for line in stream)
        assert int(status['NoNewPrivs']) == 1
        assert int(status['CapBnd'], 16) == 0
        wait_until(lambda: json.loads(process.stdout.readline())['counters']['transmitted'] >= 12,
                   'statistics tell of it')
    assert process.returncode == 0


def test_a_pinned_array_is_joined_and_left_as_it_was(lab, templates, pins):
    with lab[0].entered():
        array = RootArray(find('near0'), RootSettings(pin_directory=pins), templates=templates)
        with array:
            maps = array.load(4, slot_program('af_xdp')).maps
            steering, of_pipelines = Steering(maps), Steering(maps, holder='pipeline')
            theirs = SteeringSettings((7400,))
            steering.apply(theirs)
            array.attach()
            ours = SteeringSettings((4242,), echo=True)
            with SteeredInterface('near0', SMALL, ours, pin_directory=pins) as steered:
                assert steered.array is None
                assert steering.read() == theirs
                assert of_pipelines.read() == ours
                assert steering.sockets() == {0: 0}
            assert steering.read() == theirs
            assert of_pipelines.read() == SteeringSettings()
            wait_until(lambda: not steering.sockets(), 'the entry is gone')
            array.unload(4)
            with pytest.raises(BypassError, match='its root array has no such slot'):
                SteeredInterface('near0', SMALL, ours, pin_directory=pins)


@pytest.mark.parametrize('words, said', [
    (['echo', 'nowhere'], 'nowhere'),
    (['pipeline', 'near0'], 'nothing is steered to it; name --udp-port'),
    (['pipeline', 'near0', '--udp-port', '1', '--handler', 'os'], 'write it as module:function'),
    (['pipeline', 'near0', '--pool', 'udp:1', '--handler', 'os:sep'], 'use --handler or --pool'),
    (['echo', 'near0', '--frame-size', '1000'], 'set frame_size of AF_XDP'),
    (['forward', 'near0', 'near0'], 'name two interfaces')],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_refusals_are_one_line(lab, words, said):
    text = refused(lab[0], *words, '--pin-directory', '')
    assert said in text
    assert text.startswith('ipc-bypass: ') and text.count('\n') == 1
