"""Sockets and rings: each packet once and in order, no frame lost, refusals in one line."""

import errno
import resource
import subprocess

from af_xdp_tools import (
    every_frame_is_somewhere,
    frame,
    frames_of,
    number_of,
    packet_socket,
    pipeline,
    python,
    settle,
    SMALL,
)
from ipc_bypass.kernel.errors import BypassError, PrivilegeError
from ipc_bypass.xdp.af_xdp.accounting import account
from ipc_bypass.xdp.af_xdp.batch import TRANSMIT
from ipc_bypass.xdp.af_xdp.opening import open_sockets
from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings
from ipc_bypass.xdp.af_xdp.umem import Umem
from ipc_bypass.xdp.af_xdp.xsk_socket import InterfaceGone, XskSocket
import pytest
from support.waiting import wait_until


def test_packets_come_once_and_in_order_while_the_rings_wrap(lab, everything):
    seen = []

    def note(batch):
        seen.extend(map(number_of, batch.packets()))

    with pipeline(everything, lab[0], note) as made, packet_socket(lab[1], 'far0') as sender:
        for burst in range(40):
            # One to eleven at once: few and many take different ways.
            for number in range(burst % 11 + 1):
                sender.send(frame(1000 * burst + number))
            wait_until(lambda: not made.turn(), 'all of them came')
        wanted = [1000 * burst + number for burst in range(40) for number in range(burst % 11 + 1)]
        assert [number for number in seen if number is not None] == wanted
        settle(made)
        every_frame_is_somewhere(made)


def test_sent_packets_are_seen_on_the_far_side_in_order(lab, everything):
    with pipeline(everything, lab[0], lambda batch: None) as made, \
            packet_socket(lab[1], 'far0', 0x88b5) as receiver:
        socket, = made.sockets
        sent = 0
        while sent < 200:
            sent += socket.send(frame(number) for number in range(sent, min(sent + 7, 200)))
        assert [number_of(receiver.recv(2048)) for _ in range(200)] == list(range(200))
        settle(made)
        every_frame_is_somewhere(made)


def test_a_full_ring_loses_packets_that_are_counted_and_no_frame(lab, everything):
    with pipeline(everything, lab[0], lambda batch: None) as made, \
            packet_socket(lab[1], 'far0') as sender:
        socket, = made.sockets
        for number in range(500):
            sender.send(frame(number))
        wait_until(lambda: made.sockets[0].rx.waiting >= 16, 'the ring is full')
        frames_of(made)
        settle(made)
        lost = socket.statistics()
        received = made.counters[socket].rx_packets
        # The kernel's own packets (router solicitations) come as well.
        assert lost['rx_dropped'] + lost['rx_ring_full'] + received >= 500
        assert lost['rx_fill_ring_empty_descs'] > 0
        every_frame_is_somewhere(made)


def test_a_taken_queue_is_one_line_and_free_again_after_close(lab):
    with lab[0].entered():
        with open_sockets([('near0', 0)], SMALL)[0]:
            with pytest.raises(BypassError, match='queue 0: another AF_XDP socket has this') as no:
                open_sockets([('near0', 0)], SMALL)
            assert no.value.errno == errno.EBUSY
            assert no.value.next_step
        open_sockets([('near0', 0)], SMALL)[0].close()


@pytest.mark.parametrize('queue, options, number, said', [
    (7, {}, errno.EINVAL, 'no such queue'),
    (0, {'mode': 'zero-copy'}, errno.EOPNOTSUPP, 'no zero-copy mode')])
def test_what_the_interface_has_not_is_one_line(lab, queue, options, number, said):
    with lab[0].entered(), pytest.raises(BypassError, match=said) as caught:
        open_sockets([('near0', queue)], AfXdpSettings(**options))
    assert caught.value.errno == number
    assert caught.value.next_step


def test_an_interface_that_is_not_there_is_one_line(lab):
    with lab[0].entered(), pytest.raises(BypassError, match='there is no such interface'):
        open_sockets([('nowhere', 0)], SMALL)


def test_modes_that_the_driver_has(lab):
    with lab[0].entered():
        for mode in ('auto', 'copy'):
            with open_sockets([('near0', 0)], AfXdpSettings(mode=mode))[0] as socket:
                assert not socket.zero_copy
        with open_sockets([('near0', 0)], AfXdpSettings(
                busy_poll_us=20, prefer_busy_poll=True, need_wakeup=False))[0]:
            pass


def test_without_the_capability_it_is_named(lab):
    code = ('from ipc_bypass.xdp.af_xdp.opening import open_sockets\n'
            'from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings\n'
            'try:\n    open_sockets([("near0", 0)], AfXdpSettings())\n'
            'except Exception as error:\n    print(type(error).__name__, error)')
    said = subprocess.run(
        lab[0].command('setpriv', '--bounding-set', '-net_raw', '--inh-caps', '-net_raw', '--',
                       *python('-c', code)), capture_output=True, text=True).stdout
    assert said.startswith(PrivilegeError.__name__)
    assert 'needs CAP_NET_RAW; run with sudo' in said


def test_too_little_locked_memory_is_one_line(lab):
    code = ('import resource\n'
            'resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n'
            'from ipc_bypass.xdp.af_xdp.opening import open_sockets\n'
            'from ipc_bypass.xdp.af_xdp.settings import AfXdpSettings\n'
            'try:\n    open_sockets([("near0", 0)], AfXdpSettings())\n'
            'except Exception as error:\n    print(error)')
    said = subprocess.run(
        lab[0].command('setpriv', '--bounding-set', '-ipc_lock', '--inh-caps', '-ipc_lock', '--',
                       *python('-c', code)), capture_output=True, text=True).stdout
    assert 'the UMEM is larger than the locked memory that is allowed; raise it: ulimit -l' in said
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK) != (65536, 65536)


def test_an_interface_that_is_removed_is_said_and_loses_no_frame(lab, everything):
    with pipeline(everything, lab[0], lambda batch: None) as made, \
            packet_socket(lab[1], 'far0') as sender:
        for number in range(5):
            sender.send(frame(number))
        lab[0].ip('link', 'del', 'near0')
        with pytest.raises(InterfaceGone, match='use near0 queue 0: Network is down'):
            wait_until(lambda: made.run(packets=1), 'the interface is gone')
        frames_of(made)
        with pytest.raises(InterfaceGone):
            made.sockets[0].send([frame(1)])
        frames_of(made)


def test_a_socket_that_only_sends(lab):
    with packet_socket(lab[1], 'far0', 0x88b5) as receiver, lab[0].entered():
        umem = Umem(SMALL.frames, SMALL.frame_size)
        with XskSocket('near0', 0, umem, SMALL, receive=False) as socket:
            assert socket.send(frame(number) for number in range(20)) == SMALL.ring_entries
            wait_until(lambda: not socket.in_kernel() and not socket.tx.waiting, 'all are sent')
            assert socket.send([frame(16)]) == 1
            assert [number_of(receiver.recv(2048)) for _ in range(17)] == list(range(17))
            assert account(umem, [socket]).total == umem.count


def test_an_interface_that_is_down_is_said(lab, everything):
    with pipeline(everything, lab[0], lambda batch: None) as made:
        lab[0].ip('link', 'set', 'near0', 'down')
        with pytest.raises(InterfaceGone):
            made.sockets[0].send([frame(1)])
        frames_of(made)


@pytest.mark.parametrize('burst', [2, 8])
def test_an_interface_that_goes_while_its_packets_are_handled(lab, everything, burst):
    def remove(batch):
        lab[0].ip('link', 'del', 'near0')
        return TRANSMIT

    with pipeline(everything, lab[0], remove) as made, packet_socket(lab[1], 'far0') as sender:
        for number in range(burst):
            sender.send(frame(number))
        with pytest.raises(InterfaceGone):
            wait_until(made.turn, 'packets came')
        counters = made.counters[made.sockets[0]]
        assert counters.rx_packets == counters.accounted > 0
        assert frames_of(made).user == 0
