"""Receive batches from AF_XDP sockets, hand them over, and do what the verdicts say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
import select
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.af_xdp.accounting import account
from ipc_bypass.xdp.af_xdp.batch import Batch, DROP, REINJECT, TRANSMIT
from ipc_bypass.xdp.af_xdp.placing import pin
from ipc_bypass.xdp.af_xdp.socket_statistics import Counters, Meter, SocketStatistics
from ipc_bypass.xdp.af_xdp.xsk_socket import InterfaceGone, XskSocket
import numpy as np

#: Bytes of the shortest frame that can be sent: an Ethernet header.
SHORTEST = 14
#: Milliseconds of sleep after which is looked whether the interface is there still.
_LOOK_MS = 200
#: Packets without a pause that make a spell a busy one.
_BUSY = 8
#: Up to so many packets, numpy takes longer than the work.
_FEW = 4
#: Looks at the rings between two looks at anything else.
_SPINS = range(64)
_FAILED = object()
_monotonic = time.monotonic


class Pipeline:
    """
    The loop around sockets; for one thread, which `run` may pin to a processor.

    `problems` counts what handlers and reinjectors raised, by its text.

    :param sockets: XskSocket, each with its fill ring empty; they are closed with the pipeline
    :param handler: called with each Batch; returns a verdict for all packets, an array of one
        each, or None (forget them). Verdicts are DROP, TRANSMIT and REINJECT
    :param outputs: {socket: the socket out of which its packets are sent}, by default itself;
        both have the same Umem
    :param reinjector: has send(packets) -> how many of the first it took
    :param on_statistics: called with a list of SocketStatistics each `period_s` seconds
    :param check: called now and then while nothing comes; what it raises ends the loop
    """

    def __init__(self, sockets: Iterable[XskSocket], handler: Callable, *,
                 outputs: Mapping[XskSocket, XskSocket] | None = None, reinjector=None,
                 on_statistics: Callable | None = None, period_s: float = 1.0,
                 check: Callable[[], None] | None = None) -> None:
        self.sockets = list(sockets)
        self.settings = self.sockets[0].settings
        self.handler, self.reinjector = handler, reinjector
        self.counters = {one: Counters() for one in self.sockets}
        self.problems: Counter = Counter()
        self._fault: InterfaceGone | None = None
        self._also_check = check
        self._outputs = {one: one for one in self.sockets} | dict(outputs or {})
        for one, other in self._outputs.items():
            if one.umem is not other.umem:
                raise BypassError(f'forward from {one.interface} to {other.interface}',
                                  'their sockets have no UMEM in common',
                                  next_step='open them with one Umem')
        self._receiving = [one for one in self.sockets if one.rx is not None]
        self._on_statistics, self._period = on_statistics, period_s
        now = _monotonic()
        self._meters = {one: Meter(now) for one in self.sockets}
        self._due = now + period_s
        self._drives = self.settings.busy_poll_us > 0
        self._poll = select.poll()
        for one in self._receiving:
            self._poll.register(one.fileno(), select.POLLIN)
            sharing = sum(other.umem is one.umem for other in self._receiving)
            # The other half is for what is being handled and sent.
            one.fill_target = min(one.settings.ring_entries,
                                  max(1, one.umem.count // (2 * sharing)))
            one.refill()

    # Running ----------------------------------------------------------------------------------

    def run(self, stop: Callable[[], bool] = lambda: False, *,
            packets: int | None = None) -> None:
        """
        Handle packets until `stop()` is true, or so many came.

        :raises InterfaceGone: an interface was removed, or is down
        """
        pin(self.settings.cpu)
        left = float('inf') if packets is None else packets
        rest, batch, spell = self.settings.rest_us / 1e6, self.settings.batch, 0
        while left > 0 and not stop():
            came = self.turn()
            left -= came
            spell += came
            if not came:
                spell = 0
                self._wait(min(_LOOK_MS, 1 + 1000 * max(0.0, self._due - _monotonic())))
            elif spell >= _BUSY and came < batch and rest:
                spell = 0
                time.sleep(rest)
            if _monotonic() >= self._due:
                self._report()

    def turn(self) -> int:
        """
        Handle what is there now, at most a batch a queue; return how many packets came.

        :raises InterfaceGone: an interface to send by was removed, or is down
        """
        came, batch = 0, self.settings.batch
        for one in self._receiving:
            count = one.rx.ready
            if count:
                if count > _FEW:
                    descriptors = one.receive(batch)
                    count = len(descriptors)
                    self._handle(one, descriptors)
                else:
                    count = min(count, batch)
                    self._handle_few(one, count)
                came += count
        # What has time comes behind what somebody may wait for.
        for one in self.sockets:
            one.reclaim()
            if one.rx is not None:
                one.refill()
                if one.fill.needs_wakeup:
                    one.drive()  # a driver in zero-copy mode that ran out of frames
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        return came

    def wait(self, timeout_s: float) -> None:
        """Sleep until a packet comes, or the time is over; raises InterfaceGone."""
        self._wait(timeout_s * 1000)

    def _wait(self, most_ms):
        if self._drives:
            for one in self._receiving:
                one.drive()
        unsent = [one for one in self.sockets if one.tx.waiting]
        for one in unsent:
            one.kick()
        if self.settings.spin:
            for _ in _SPINS:
                for one in self._receiving:
                    if one.rx.ready:
                        return
            if _monotonic() >= self._due:
                self._check()
            return
        most_ms = 1 if unsent else most_ms
        events = [event for _, event in self._poll.poll(most_ms)]
        if not events or any(event != select.POLLIN for event in events):
            self._check()
            if events and not any(event & select.POLLIN for event in events):
                # An error that is not the interface's: poll would return at once again.
                time.sleep(most_ms / 1000)

    def _check(self):
        for one in self.sockets:
            one.check()
        if self._also_check is not None:
            self._also_check()

    # Handling ---------------------------------------------------------------------------------

    def _handle(self, source, descriptors):
        counters, count = self.counters[source], len(descriptors)
        batch = Batch(source.umem, source.interface, source.queue, descriptors=descriptors)
        addresses = batch.addresses
        counters.rx_packets += count
        counters.rx_bytes += int(batch.lengths.sum())
        verdicts = self._ask(batch)
        # The usual answers first: one for all.
        if verdicts is None or verdicts is DROP:
            counters.dropped += count
        elif verdicts is TRANSMIT:
            addresses = self._transmit(source, counters, addresses, batch.lengths)
        elif verdicts is _FAILED:
            counters.handler_failed += count
        else:
            addresses = self._apply(source, counters, batch, verdicts)
        if len(addresses):
            source.recycle(addresses)

    def _handle_few(self, source, count):
        """Do as `_handle`, without numpy, which for a few packets takes longer than the work."""
        counters = self.counters[source]
        starts, sizes = source.receive_few(count)
        counters.rx_packets += count
        counters.rx_bytes += sum(sizes)
        batch = Batch(source.umem, source.interface, source.queue, starts=list(starts),
                      sizes=sizes)
        verdicts = self._ask(batch)
        if verdicts is TRANSMIT:
            size, sizes = source.umem.frame_size, batch.sizes()
            if all(SHORTEST <= length <= size - start % size
                   for start, length in zip(starts, sizes)) \
                    and self._outputs[source].tx.room >= count:  # noqa: B905
                self._send_few(source, counters, starts, sizes)
                return
        addresses = np.array(starts, np.uint64)
        if verdicts is None or verdicts is DROP:
            counters.dropped += count
        elif verdicts is _FAILED:
            counters.handler_failed += count
        elif verdicts is TRANSMIT:
            addresses = self._transmit(source, counters, addresses, batch.lengths)
        else:
            addresses = self._apply(source, counters, batch, verdicts)
        if len(addresses):
            source.recycle(addresses)

    def _send_few(self, source, counters, starts, sizes):
        output, count = self._outputs[source], len(starts)
        output.transmit_few(starts, sizes)
        source.held -= count
        self._kick(output)
        counters.transmitted += count
        sender = self.counters[output]
        sender.tx_packets += count
        sender.tx_bytes += sum(sizes)

    def _ask(self, batch):
        """Return the handler's answer, _FAILED where it raised."""
        try:
            return self.handler(batch)
        except Exception as error:
            self.problems[f'{type(error).__name__}: {error}'] += 1
            return _FAILED

    def _apply(self, source, counters, batch, verdicts):
        """Do what an array of verdicts says; return the addresses that are done with."""
        count, addresses = len(batch), batch.addresses
        try:
            verdicts = np.asarray(verdicts, dtype=np.uint8)
            if verdicts.ndim == 0:
                verdicts = np.full(count, verdicts)
            fits = verdicts.shape == (count,)
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            self.problems[f'no verdict for each of {count} packets'] += 1
            counters.verdict_invalid += count
            return addresses
        numbers = np.bincount(verdicts, minlength=3)
        counters.dropped += int(numbers[DROP])
        counters.verdict_invalid += int(numbers[3:].sum())
        if numbers[REINJECT]:
            self._reinject(counters, batch, np.flatnonzero(verdicts == REINJECT))
        if not numbers[TRANSMIT]:
            return addresses
        chosen = verdicts == TRANSMIT
        left = self._transmit(source, counters, addresses[chosen], batch.lengths[chosen])
        return np.concatenate((addresses[~chosen], left))

    def _transmit(self, source, counters, addresses, lengths):
        """Queue packets at the output and wake it; return the addresses that found no room."""
        output = self._outputs[source]
        sound = lengths - np.uint32(SHORTEST) <= self._most(source, addresses)
        refused = addresses[:0]
        if not sound.all():
            refused = addresses[~sound]
            counters.transmit_invalid += len(refused)
            addresses, lengths = addresses[sound], lengths[sound]
        sent = output.transmit(addresses, lengths)
        if sent < len(addresses):
            # Once more, when the kernel has made room.
            self._kick(output)
            output.reclaim()
            sent += output.transmit(addresses[sent:], lengths[sent:])
        source.held -= sent
        counters.transmitted += sent
        counters.transmit_full += len(addresses) - sent
        sender = self.counters[output]
        sender.tx_packets += sent
        sender.tx_bytes += int(lengths[:sent].sum())
        if sent:
            self._kick(output)
        return np.concatenate((addresses[sent:], refused)) if len(refused) else addresses[sent:]

    def _kick(self, output):
        """Wake the kernel; a fault waits until all packets of the turn are accounted for."""
        try:
            output.kick()
        except InterfaceGone as error:
            self._fault = error

    def _most(self, source, addresses):
        """Return how many bytes more than the shortest a packet may have where it lies."""
        umem = source.umem
        room = np.uint64(umem.frame_size - SHORTEST) - (addresses & ~umem.mask)
        return room.astype(np.uint32)

    def _reinject(self, counters, batch, places):
        taken = 0
        if self.reinjector is not None:
            try:
                taken = self.reinjector.send([batch.packet(place) for place in places.tolist()])
            except Exception as error:
                self.problems[f'{type(error).__name__}: {error}'] += 1
        counters.reinjected += taken
        counters.reinject_failed += len(places) - taken

    # What is shown ----------------------------------------------------------------------------

    def statistics(self) -> list[SocketStatistics]:
        """Return what each socket did since this was asked last, and in total."""
        now = _monotonic()
        return [self._meters[one].measure(one, self.counters[one], account(
            one.umem, [other for other in self.sockets if other.umem is one.umem]), now)
            for one in self.sockets]

    def _report(self):
        self._due = max(self._due + self._period, _monotonic())
        if self._on_statistics is not None:
            self._on_statistics(self.statistics())

    def close(self) -> None:
        """Close the sockets and the reinjector; what was on its way in them is lost."""
        for one in self.sockets:
            one.close()
        if self.reinjector is not None:
            self.reinjector.close()

    def __enter__(self) -> Pipeline:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close it."""
        self.close()
