"""What becomes of packets: verdicts, faults of handlers, several queues, statistics."""

from dataclasses import replace
import json
import socket
import time

from af_xdp_tools import (
    every_frame_is_somewhere,
    Everything,
    frame,
    frames_of,
    number_of,
    packet_socket,
    pipeline,
    running,
    settle,
    SMALL,
)
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.batch import DROP, REINJECT, TRANSMIT
from ipc_bypass.xdp.af_xdp.forwarder import forward, outputs_between
from ipc_bypass.xdp.af_xdp.opening import open_sockets
from ipc_bypass.xdp.af_xdp.pipeline import Pipeline
from ipc_bypass.xdp.af_xdp.reinject import InterfaceReinjector, TunReinjector
from ipc_bypass.xdp.af_xdp.socket_statistics import json_line, lines, OUTCOMES, table
import numpy as np
import pytest
from rich.console import Console
from support.namespaces import Namespace
from support.waiting import wait_until


def feed(made, sender, count, burst=3):
    """Send frames in bursts and have a pipeline handle them; return what was counted."""
    first_socket = made.sockets[0]
    before = made.counters[first_socket].rx_packets
    for first in range(0, count, burst):
        for number in range(first, min(first + burst, count)):
            sender.send(frame(number))
        wanted = before + min(first + burst, count)
        wait_until(lambda wanted=wanted: made.turn() * 0 + made.counters[
            first_socket].rx_packets >= wanted, 'the burst was received')
    settle(made)
    counters = made.counters[first_socket]
    assert counters.rx_packets == counters.accounted
    every_frame_is_somewhere(made)
    return counters


def by_number(batch):
    """Return a verdict for each packet by the number in it."""
    return np.array([(number_of(packet) or 0) % 3 for packet in batch.packets()], np.uint8)


@pytest.mark.parametrize('burst', [1, 3, 8])
def test_each_packet_goes_where_its_verdict_says(lab, everything, burst):
    with packet_socket(lab[1], 'far0') as sender, \
            packet_socket(lab[1], 'far0', 0x88b5) as receiver:
        with lab[0].entered():
            reinjector = InterfaceReinjector('near0')
        with pipeline(everything, lab[0], by_number, reinjector=reinjector) as made:
            counters = feed(made, sender, 60, burst)
        assert (counters.transmitted, counters.reinjected) == (20, 20)
        back = sorted(number_of(receiver.recv(2048)) for _ in range(40))
        assert back == [number for number in range(60) if number % 3]


@pytest.mark.parametrize('burst', [1, 8])
@pytest.mark.parametrize('answer, counted', [
    (None, 'dropped'), (DROP, 'dropped'), (TRANSMIT, 'transmitted'),
    (np.uint8(TRANSMIT), 'transmitted'), (REINJECT, 'reinject_failed'), (7, 'verdict_invalid'),
    ([1], 'one'), ('all', 'verdict_invalid'), (300, 'verdict_invalid'),
    (np.zeros(3000), 'verdict_invalid')], ids=str)
def test_one_answer_for_all_and_answers_that_are_none(lab, everything, answer, counted, burst):
    with packet_socket(lab[1], 'far0') as sender, \
            pipeline(everything, lab[0], lambda batch: answer) as made:
        counters = feed(made, sender, 24, burst)
        if counted == 'one':
            # Right for one packet, and no answer for several.
            assert counters.transmitted + counters.verdict_invalid == counters.rx_packets
        else:
            assert getattr(counters, counted) == counters.rx_packets


def test_a_handler_that_raises_is_counted_and_loses_no_frame(lab, everything):
    def raising(batch):
        if number_of(batch.packet(0)) is not None:
            raise ValueError('no idea')

    with packet_socket(lab[1], 'far0') as sender, \
            pipeline(everything, lab[0], raising) as made:
        counters = feed(made, sender, 100, 5)
        assert counters.handler_failed >= 100
        assert made.problems['ValueError: no idea'] >= 20


def test_a_reinjector_that_raises_is_counted_and_loses_no_frame(lab, everything):
    class Broken:

        def send(self, packets):
            raise OSError('closed')

        def close(self):
            pass

    with packet_socket(lab[1], 'far0') as sender, \
            pipeline(everything, lab[0], lambda batch: REINJECT, reinjector=Broken()) as made:
        assert feed(made, sender, 20).reinject_failed >= 20
        assert made.problems['OSError: closed']


@pytest.mark.parametrize('burst', [1, 8])
def test_lengths_that_cannot_be_sent_are_counted(lab, everything, burst):
    def stretch(batch):
        for place in range(len(batch)):
            batch.set_length(place, (13, 14, 5000, 1 << 31)[number_of(batch.packet(place)) % 4])
        return TRANSMIT

    lab[0].sysctl('net.ipv6.conf.all.disable_ipv6', 1)
    lab[1].sysctl('net.ipv6.conf.all.disable_ipv6', 1)
    with packet_socket(lab[1], 'far0') as sender, \
            pipeline(everything, lab[0], stretch) as made:
        counters = feed(made, sender, 40, burst)
        assert (counters.transmit_invalid, counters.transmitted) == (30, 10)
        assert made.sockets[0].statistics()['tx_invalid_descs'] == 0


def test_a_handler_works_on_the_memory_itself(lab, everything):
    header = np.dtype([('destination', 'u1', 6), ('source', 'u1', 6), ('ethertype', '>u2'),
                       ('number', '>u4')])

    def add(batch):
        heads = batch.headers(header)
        heads['number'] += 1000
        batch.write_headers(heads)
        return TRANSMIT

    with packet_socket(lab[1], 'far0') as sender, \
            packet_socket(lab[1], 'far0', 0x88b5) as receiver, \
            pipeline(everything, lab[0], add) as made:
        feed(made, sender, 30, 8)
        assert [number_of(receiver.recv(2048)) for _ in range(30)] == list(range(1000, 1030))


def test_packets_go_to_the_kernel_by_a_tun_device(lab, everything):
    near, far = lab
    with near.entered():
        reinjector = TunReinjector('tun0')
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(('10.124.0.1', 4242))
        receiver.settimeout(10)
    far.ip('neigh', 'replace', '10.124.0.1', 'lladdr', '02:00:00:00:00:01', 'dev', 'far0')
    with far.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender, pipeline(everything, near, lambda batch: REINJECT,
                                    reinjector=reinjector) as made, running(made):
        sender.sendto(b'by tun', ('10.124.0.1', 4242))
        assert receiver.recv(100) == b'by tun'


@pytest.mark.parametrize('share', [True, False])
def test_one_socket_a_queue(privileged, share):
    with Namespace('n') as near, Namespace('f') as far:
        near.ip('link', 'add', 'near0', 'numrxqueues', '2', 'numtxqueues', '2', 'type', 'veth',
                'peer', 'name', 'far0', 'numrxqueues', '2', 'numtxqueues', '2', 'netns', far.name)
        near.ip('link', 'set', 'near0', 'up')
        far.ip('link', 'set', 'far0', 'up')
        with Everything(near, 'near0') as everything, packet_socket(far, 'far0') as sender, \
                pipeline(everything, near, lambda batch: TRANSMIT,
                         replace(SMALL, share_umem=share), queues=(0, 1)) as made:
            assert (made.sockets[0].umem is made.sockets[1].umem) is share

            def both():
                # The queue follows from a flow's hash.
                for number in range(4):
                    sender.send(b'\x02\0\0\0\0\x01' + bytes([2, 0, 0, 0, 0, number])
                                + frame(number)[12:])
                made.turn()
                return any(made.counters[one].rx_packets for one in made.sockets)
            wait_until(both, 'packets came')
            settle(made)
            for one in made.sockets:
                assert made.counters[one].rx_packets == made.counters[one].accounted
            frames_of(made) if share else None
            assert {(one.interface, one.queue) for one in made.statistics()} == {
                ('near0', 0), ('near0', 1)}


def test_the_forwarder_joins_two_interfaces(privileged):
    with Namespace('a') as left, Namespace('m') as middle, Namespace('b') as right:
        for space, name in ((left, 'to_left'), (right, 'to_right')):
            middle.ip('link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns',
                      space.name)
            middle.ip('link', 'set', name, 'up')
            space.ip('link', 'set', 'eth0', 'up')
        with Everything(middle, 'to_left') as one, Everything(middle, 'to_right') as other, \
                Everything(left, 'eth0'), Everything(right, 'eth0'):
            with middle.entered():
                sockets = open_sockets([('to_left', 0), ('to_right', 0)], SMALL)
            with Pipeline(sockets, forward, outputs=outputs_between(sockets)) as made, \
                    packet_socket(left, 'eth0', 0x88b5) as a, \
                    packet_socket(right, 'eth0', 0x88b5) as b:
                one.enter(sockets[0])
                other.enter(sockets[1])
                with running(made):
                    for number in range(200):
                        a.send(frame(number))
                        assert number_of(b.recv(2048)) == number
                        b.send(frame(number + 1000))
                        assert number_of(a.recv(2048)) == number + 1000
                settle(made)
                every_frame_is_somewhere(made)
                assert all(made.counters[each].transmitted >= 200 for each in sockets)


def test_a_forwarder_takes_two_interfaces_and_one_memory(lab):
    with lab[0].entered():
        sockets = open_sockets([('near0', 0)], SMALL)
        with sockets[0], pytest.raises(BypassError, match='name two interfaces'):
            outputs_between(sockets)


def test_statistics_are_shown_as_lines_json_and_table(lab, everything):
    shown = []
    with packet_socket(lab[1], 'far0') as sender, \
            pipeline(everything, lab[0], lambda batch: TRANSMIT, period_s=0.05,
                     on_statistics=shown.extend) as made:
        feed(made, sender, 30)
        wait_until(lambda: (made.run(packets=1, stop=lambda: bool(shown)), shown)[1],
                   'a period is over')
        found = made.statistics()[0]
    assert shown[0].rx_packets >= 30
    assert sum(found.frames.values()) == SMALL.frames
    assert found.rx_packets == sum(found.counters[name] for name in OUTCOMES)
    first, second, *_ = lines(shown[0])
    assert first.startswith('AF_XDP RX:') and 'pkts (' in first and ' Kbytes (' in first
    assert second.startswith('       TX:') and ' Mbits/s) period:0.' in second
    assert json.loads(json_line(found))['kernel']['rx_dropped'] == found.lost == 0
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table([found]))
    assert 'near0' in captured.get()


def test_rates_are_of_the_period(lab, everything):
    with packet_socket(lab[1], 'far0') as sender, \
            pipeline(everything, lab[0], lambda batch: None) as made:
        feed(made, sender, 10)
        found = made.statistics()[0]
        assert found.rx_pps == pytest.approx(found.rx_packets / found.period_s)
        time.sleep(0.01)
        after = made.statistics()[0]
        assert after.rx_pps * after.period_s == pytest.approx(
            after.rx_packets - found.rx_packets)
