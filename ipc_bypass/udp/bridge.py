"""
The TUN bridge: datagrams of the pool go into a TUN device, and answers come back.

Three ways meet here. The pool's: what was captured becomes packets for the device. The usual
way: what was not captured (the pool is full, no node, ...) comes by routing into a local device,
and goes on into the device as it is. The way back: what comes out of the device goes into the
local device, whence the kernel delivers it; without a local device, a raw socket sends it.
"""

from __future__ import annotations

from collections.abc import Callable
import errno
import ipaddress
import os
import select
import socket
import threading

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.udp.crossing import Crossing, write
from ipc_bypass.udp.outcomes import POOL_OUTCOMES, Tally
from ipc_bypass.udp.packets import build_parts
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.udp.resend import Resender
from ipc_bypass.udp.tun import TunDevice
from ipc_bypass.udp.ways import ways_of
import numpy as np

#: Datagrams that are taken at once.
_AT_ONCE = 256
#: Seconds; the longest that detach() waits for a consumer that has nothing to read.
_READ_TIMEOUT = 0.2


class Bridge:
    """
    Carries packets from its constructor on, and what the pool holds from attach() to detach().

    `fault` says in one line why it stopped, '' while all is well: then the lease is given back,
    and traffic goes the usual way.

    :param device: the TunDevice at the far end
    :param local_device: the TunDevice whose routes are the claimed prefixes, or None
    :param prefixes: the claimed ones
    :param report: called with `fault` when there is one, from any thread
    """

    def __init__(self, device: TunDevice, local_device: TunDevice | None,
                 prefixes: Prefixes, report: Callable[[str], object] = lambda text: None) -> None:
        self.fault, self._report = '', report
        self._device, self._local, self._prefixes = device, local_device, prefixes
        # Where both ends have an address of one prefix, this one's are not the other's.
        self._near = Prefixes(str(ipaddress.ip_address(address)) for address in (
            local_device.addresses if local_device else ()))
        self._tally = Tally()
        self._consumer = self._pool_thread = self._memory = None
        self._detaching = False
        self._resender = Resender(self._exempt)
        self._crossing = Crossing(device, local_device, prefixes, self._tally, self._exempt)
        self._idle = threading.Event()
        self._idle.set()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._guarded, args=(self._carry_packets,),
                                        name='bridge-devices', daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise BypassError where the devices are gone; another fault is over with attach()."""
        if not self._thread.is_alive():
            raise BypassError(self.fault)

    def attach(self, consumer) -> None:
        """Take datagrams from a pool.Consumer, which the bridge closes."""
        self.fault, self._consumer, self._detaching = '', consumer, False
        self._pool_thread = threading.Thread(target=self._guarded, args=(self._carry_pool,),
                                             name='bridge-pool', daemon=True)
        self._pool_thread.start()

    @property
    def problem(self) -> str:
        """Return why nothing comes from the pool, '' when all is well or nothing is attached."""
        attached = self._pool_thread is not None
        return self.fault or (self._consumer.problem if attached else '')

    def detach(self) -> None:
        """Give the lease back; what was taken by then is carried. Not attached is no error."""
        if self._pool_thread is not None:
            self._detaching = True
            self._pool_thread.join()
            self._pool_thread = None

    def close(self) -> None:
        """Detach and stop; the devices stay their maker's to close."""
        self.detach()
        if self._thread.is_alive():
            os.eventfd_write(self._end, 1)
            self._thread.join()
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
        self._crossing.forget_sockets()
        self._resender.close()

    def counters(self) -> dict[str, int]:
        """
        Return packets by outcome.

        Of each of outcomes.GROUPS the first is the sum of the others, always.
        """
        return self._tally.counters()

    def _guarded(self, run: Callable) -> None:
        """Run a loop; where it fails, say why and give the lease back."""
        try:
            run()
        except BypassError as error:
            self._fail(str(error))
        except OSError as error:
            gone = error.errno == errno.EBADFD
            self._fail(f'carry packets through {self._device.name}: '
                       + ('the device is gone; cleanup and configure again' if gone
                          else f'{error.strerror}; see the kernel log'))
        except Exception as error:  # a fault of ours: the lease must not stay with a dead loop
            self._fail(f'carry packets: {type(error).__name__}: {error}')

    def _fail(self, text: str) -> None:
        self._detaching = True
        if not self.fault:
            self.fault = ' '.join(text.split())
            self._report(self.fault)

    # From the pool ----------------------------------------------------------------------------

    def _carry_pool(self) -> None:
        """
        Take batches; while there are some, carry what waits in the devices in between.

        Two threads of Python that are busy with short system calls keep each other from running
        for milliseconds at a time: the other one stays out of it meanwhile.
        """
        try:
            with self._consumer as consumer:
                while not self._detaching:
                    batch = consumer.read(0, _AT_ONCE)
                    if not len(batch):
                        self._idle.set()
                        batch = consumer.read(_READ_TIMEOUT, _AT_ONCE)
                        self._idle.clear()
                    with batch:
                        if len(batch):
                            self._carry_batch(batch)
                    self._renew_sockets()
                    self._crossing.carry(wait=False)
        finally:
            self._idle.set()

    def _carry_batch(self, batch) -> None:
        records = batch.descriptors
        ways = ways_of(records, self._prefixes, self._near, local=self._local is not None)
        packets, kept = self._packets(batch, ways.onward | ways.back | ways.astray)
        outcomes = {**dict.fromkeys(POOL_OUTCOMES, 0), **ways.left}
        outcomes['overwritten'] = len(records) - sum(ways.left.values()) - len(packets)
        for number, elsewhere, back, parts in zip(
                kept.tolist(), ways.astray[kept].tolist(), ways.back[kept].tolist(), packets,
                strict=True):
            if elsewhere:
                lost = self._send_on(records[number], parts[1])
                outcomes['stranded' if lost else 'sent_on'] += 1
            elif write(self._local if back else self._device, b''.join(parts)):
                outcomes['to_local' if back else 'to_device'] += 1
            else:
                outcomes['device_refused'] += 1
        self._tally.add('taken', outcomes)

    @staticmethod
    def _packets(batch, chosen):
        """
        Return [(headers, payload)] of the chosen datagrams, and their places.

        Copied and then looked at again: a slot that the watchdog took away from us meanwhile
        holds somebody else's datagram.
        """
        places = np.flatnonzero(chosen)
        if len(places) == len(batch):
            payloads = [bytes(payload) for payload in batch.payloads()]
        else:
            payloads = [bytes(batch.payload(place)) for place in places.tolist()]
        parts = list(build_parts(batch.descriptors[places], payloads))
        intact = batch.intact()[places]
        if intact.all():
            return parts, places
        return [part for part, good in zip(parts, intact, strict=True) if good], places[intact]

    def _send_on(self, record, payload) -> str:
        self._renew_sockets()
        return self._resender.send(record, payload)

    def _renew_sockets(self) -> None:
        """Close what the node that is there now was not asked to let pass."""
        memory = self._consumer and self._consumer.memory
        if memory is not self._memory:
            self._resender.close()
            self._crossing.forget_sockets()
            self._memory = memory

    def _exempt(self, sock: socket.socket) -> None:
        """Have the node let a socket's packets pass; without a node nothing is captured."""
        consumer = self._consumer
        try:
            if consumer is not None and consumer.connected:
                consumer.exempt(sock)
        except BypassError as error:
            raise OSError(errno.EAGAIN, str(error)) from error

    # Between devices --------------------------------------------------------------------------

    def _carry_packets(self) -> None:
        poll = select.poll()
        for source in (self._end, self._device, self._local):
            if source is not None:
                poll.register(source, select.POLLIN)
        while all(fd != self._end for fd, _ in poll.poll()):
            self._idle.wait()
            self._renew_sockets()
            self._crossing.carry(self._idle.is_set)
