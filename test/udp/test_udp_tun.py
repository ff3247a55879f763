"""TUN devices in namespaces: made, set up, refused with a next step, gone when closed."""

import errno
import os
import signal
import subprocess
import sys

from ipc_bypass.udp.tun import DeviceError, is_own, namespace_path, TunDevice
import pytest
from support.namespaces import Namespace
from support.waiting import wait_until

ADDRESSES = ['10.125.0.2/24', 'fd00:125::2/64']


@pytest.fixture(scope='module', autouse=True)
def _privileged(privileged):
    """Devices need capabilities."""


@pytest.fixture
def space():
    """Yield a Namespace."""
    with Namespace('t') as made:
        yield made


def said(space, *arguments):
    """Return what `ip` says in a namespace."""
    return subprocess.run(['ip', '-n', space.name, *arguments], capture_output=True,
                          text=True).stdout


def test_set_up(space):
    before = os.stat('/proc/thread-self/ns/net').st_ino
    device = TunDevice('tun5', namespace=space.name, addresses=ADDRESSES, mtu=9000,
                       routes=['10.0.0.0/8', '::/0', '0.0.0.0/0'])
    assert os.stat('/proc/thread-self/ns/net').st_ino == before
    link = said(space, 'link', 'show', 'tun5')
    assert ',UP,' in link
    assert 'mtu 9000' in link
    shown = said(space, 'address', 'show', 'tun5')
    assert all(address in shown for address in ADDRESSES)
    assert 'fe80' not in shown
    routes = said(space, 'route') + said(space, '-6', 'route')
    assert routes.count('default dev tun5') == 2
    assert '10.0.0.0/8 dev tun5' in routes
    assert device.statistics() == {'refused': 0, 'queue_dropped': 0}
    device.close()
    device.close()
    wait_until(lambda: not said(space, 'link', 'show', 'tun5'), 'the device goes')
    assert said(space, 'route') == ''


@pytest.mark.parametrize('how', ['name', 'pid'])
def test_names_of_a_namespace(space, how):
    if how == 'name':
        device = TunDevice('tun5', namespace=space.name)
        assert said(space, 'link', 'show', 'tun5')
        device.close()
    else:
        process = subprocess.Popen(space.command('sleep', '1000'))
        try:
            path = f'/proc/{process.pid}/ns/net'
            wait_until(lambda: not is_own(path), 'it is in its namespace')
            device = TunDevice('tun5', namespace=path)
            assert said(space, 'link', 'show', 'tun5')
            device.close()
        finally:
            process.kill()
            process.wait()
    assert not is_own(space.name)
    assert is_own('')
    assert namespace_path('') == f'/proc/{os.getpid()}/ns/net'


def test_device_ends_with_its_process(space):
    """Killed: no device, no route is left."""
    code = ('import sys, time; from ipc_bypass.udp.tun import TunDevice; '
            'device = TunDevice("tun5", namespace=sys.argv[1], routes=["10.9.0.0/16"]); '
            'print("made", flush=True); time.sleep(1000)')
    process = subprocess.Popen([sys.executable, '-c', code, space.name], stdout=subprocess.PIPE,
                               text=True)
    with process:
        assert process.stdout.readline() == 'made\n'
        assert '10.9.0.0/16 dev tun5' in said(space, 'route')
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not said(space, 'link', 'show', 'tun5'), 'the device goes')
    assert said(space, 'route') == ''


@pytest.mark.parametrize('arguments, says, number', [
    ({'namespace': 'ipcb_there_is_none'}, 'does not exist; make it first', 0),
    ({'mtu': 100}, 'an MTU of 100 bytes; use 1280 to 65535', 0),
    ({'name': 'much_too_long_a_name'}, 'no name of an interface', 0),
    ({'name': ''}, 'no name of an interface', 0),
    ({'addresses': ['10.9.0.400/8']}, "'10.9.0.400/8'", 0),
    ({'routes': ['10.9.0.1/8']}, 'has host bits set', 0),
    ({'addresses': ['10.9.0.1/8', '10.9.0.1/8']}, 'File exists', errno.EEXIST),
    ({'routes': ['10.9.0.0/16', '10.9.0.0/16']}, 'File exists', errno.EEXIST)], ids=str)
def test_refused(space, arguments, says, number):
    with pytest.raises(DeviceError) as caught:
        TunDevice(**{'name': 'tun5', 'namespace': space.name, **arguments})
    assert says in str(caught.value)
    assert caught.value.errno == number
    assert '\n' not in str(caught.value)
    wait_until(lambda: not said(space, 'link', 'show', 'tun5'), 'nothing is left')


def test_name_is_taken(space):
    first = TunDevice('tun5', namespace=space.name)
    with pytest.raises(DeviceError, match='tun5: Device or resource busy; another one has'):
        TunDevice('tun5', namespace=space.name)
    first.close()


def test_without_capability(space):
    code = ('import sys; from ipc_bypass.udp.tun import *\n'
            'try: TunDevice("tun5", namespace=sys.argv[1])\n'
            'except DeviceError as error: print(error)')
    said_so = subprocess.run(
        ['setpriv', '--bounding-set', '-sys_admin,-net_admin', '--inh-caps', '-all',
         sys.executable, '-c', code, space.name], capture_output=True, text=True).stdout
    assert said_so.startswith('make the TUN device tun5: Operation not permitted; run as root')
