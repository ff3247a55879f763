"""Stopped processes around a port whose datagrams are diverted: each arrives once."""

from __future__ import annotations

import signal
import time

from fault_lab.lab import Lab
from fault_lab.script import Script
from fault_lab.trial import Trial
import numpy as np

_PATIENCE = 120.0


def stopped(lab: Lab, trial: Trial, *, who: tuple[str, ...] = ('consumer',),
            seconds: float = 3.0, times: int = 1) -> None:
    """Stop the node, the consumer or both for some seconds, several times."""
    port, control = lab.port(), str(lab.folder / 'divert.sock')
    node = lab.active(tcp_path='loopback', udp_path='cgroup_skb', pool_size=8 << 20,
                      rules=[f'udp:{port}:divert'], control_socket=control)
    words = str(port), control
    with Script('fault_lab.datagram_process', 'ends', *words, prefix=lab.inside()) as ends, \
            Script('fault_lab.datagram_process', 'consumer', *words) as consumer:
        ends.answer()
        consumer.answer()
        ends.ask('start')
        _goes_on(consumer)
        processes = {'node': node, 'consumer': consumer}
        for _ in range(times):
            for name in who:
                processes[name].signal(signal.SIGSTOP)
            before = ends.ask('sent')
            time.sleep(seconds)
            if ends.ask('sent') <= before:
                trial.problems.append('the sender was held up')
            for name in who:
                processes[name].signal(signal.SIGCONT)
            if node.ask('state') != 'active':
                trial.problems.append('the node is not active any more')
            _goes_on(consumer)
        sent = ends.ask('stop_sending')
        time.sleep(1.0)  # what was diverted is taken, or sent on
        _count(lab, trial, sent, consumer, ends)
    lab.note(node)
    if node.errors() or node.end():
        trial.problems.append('the node ended with an error')
    trial.problems += [f'left: {line}' for line in lab.left()]


def _goes_on(consumer: Script) -> None:
    """Wait until more is diverted to the consumer."""
    before, end = consumer.ask('came'), time.monotonic() + _PATIENCE
    while consumer.ask('came') <= before:
        if time.monotonic() > end:
            raise AssertionError('nothing is diverted any more')
        time.sleep(0.02)


def _count(lab: Lab, trial: Trial, sent: int, *parts: Script) -> None:
    """Compare what was sent with what all parts have got together."""
    sums, told = np.zeros(1 << 20, np.uint8), []
    for part in parts:
        path = str(lab.folder / f'counts_{part.pid}.npy')
        told.append(part.ask('finish', path))
        sums += np.load(path)
    lost, doubled = (int(np.count_nonzero(found)) for found in (sums[:sent] == 0, sums > 1))
    strangers = sum(each['strangers'] for each in told)
    trial.sent_bytes += sent * 64
    trial.told = f"{sent} sent, {told[0]['came']} diverted, {told[1]['came']} the usual way"
    trial.lost_bytes += lost * 64
    if lost or doubled or strangers:
        trial.problems.append(f'{lost} lost, {doubled} twice, {strangers} damaged')


FAULTS = {
    'divert, node stopped': {'who': ('node',)},
    'divert, consumer stopped': {'who': ('consumer',)},
    'divert, node and consumer stopped': {'who': ('node', 'consumer')}}
