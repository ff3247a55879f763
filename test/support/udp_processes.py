"""Processes of the tests of the UDP path: a path of its own, consumers, senders."""

import json
import os
import signal

import numpy as np

from support.processes import Script
from support.waiting import wait_until


class _Started(Script):
    """A script whose first answer is waited for; it is ended where that is an error."""

    def __init__(self, *words, prefix=()):
        super().__init__(*words, prefix=prefix)
        try:
            self.first = self.answer()
        except BaseException:
            self.kill()
            raise


class UdpProcess(_Started):
    """A UdpPath in a process of its own, as a node has it."""

    def __init__(self, rules, **settings):
        """Start it, configured and active, with rules like 'udp:7400:mirror'."""
        super().__init__('udp_process.py', json.dumps(rules), json.dumps(settings))
        self.rules, self.settings = rules, settings
        self.objects = self.first


class ConsumerProcess(_Started):
    """A Consumer in a process of its own."""

    def __init__(self, control, senders=1, count=1, **options):
        """Start it; it has its lease on return. It expects datagrams of support.datagrams."""
        super().__init__('consumer_process.py', json.dumps({'control': control, **options}),
                         str(senders), str(count))
        self.pid = self.first

    def stop(self):
        """Stop it with SIGSTOP, and wait until it is."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == 'T', 'the consumer is stopped')

    def go_on(self):
        """Have it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def finish(self, folder):
        """Stop reading; return (sums and statistics, how often each datagram came)."""
        path = str(folder / f'came_{self.pid}.npy')
        sums = self.ask('stop', path)
        return sums, np.load(path)

    def _state(self):
        with open(f'/proc/{self.pid}/stat') as stream:
            return stream.read().rpartition(')')[2].split()[0]


class SenderProcess(_Started):
    """A process that sends numbered datagrams as fast as it can."""

    def __init__(self, address, port, sender=0, *, prefix=()):
        """Start it, connected."""
        super().__init__('sender_process.py', address, str(port), str(sender), prefix=prefix)
        self.pid = self.first
