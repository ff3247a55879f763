"""The trace path as one object: its life, its rules, and what it counted."""

import logging
import threading

from ipc_bypass.kernel.errors import BypassError, PrivilegeError, UnsupportedError
from ipc_bypass.pool import layout
from ipc_bypass.pool.writer import Capture
from ipc_bypass.rules.table import resolve
from ipc_bypass.trace.objects import BITS, FUNCTIONS, LEAVE, TraceObjects
from ipc_bypass.trace.probes import Probes
from ipc_bypass.trace.records import RecordReader, unpack

#: Why a send that was seen is not in the pool.
REASONS = ('no_consumer', 'stale_heartbeat', 'ring_full', 'pool_full', 'no_slot', 'too_large')
_IPV6_ONLY = 'udpv6_sendmsg'
#: Ports and senders with statistics.
_ENDPOINTS = 4096


class TracePath:
    """
    The trace path of one node; every method may be called from any thread.

    It sees sends to enrolled ports and copies their first bytes, never more: nothing is
    suppressed, and what it puts into the pool is marked as truncated.

    `selected` is 'trace' or 'loopback', None before configure; `reasons` says for each path that
    is not selected why; `notes` what of the selected one is not at its best, and why.
    """

    def __init__(self, settings, logger=None, *, writer=None, by_headers=False):
        """
        Remember the TraceSettings; nothing is touched before `configure`.

        `writer` is a pool.writer.PoolWriter, None to count only; `by_headers` True takes the
        kernel's structs from its headers, as where it has no type information.
        """
        self.settings, self._writer, self._by_headers = settings, writer, by_headers
        self._log = logger or logging.getLogger('ipc_bypass.trace')
        self._lock = threading.RLock()
        self._probes = Probes()
        self._reset()

    def _reset(self):
        self.selected, self.reasons, self.notes = None, {}, []
        self._objects = self._reader = None
        self._active = False
        self._rules = {transport: [None] * 65536 for transport in BITS}
        self._shares, self._sent = {}, {}
        self._outcomes = dict.fromkeys(('captured', *REASONS), 0)
        self._read = self._lost = 0
        self._gone = dict.fromkeys(BITS, 0)

    # Lifecycle --------------------------------------------------------------------------------

    def configure(self):
        """
        Load, and try to attach; raises BypassError and leaves nothing.

        With path 'auto', what cannot be had makes 'loopback' the path, with the reason.
        """
        with self._lock:
            if self.settings.path == 'loopback':
                self.selected, self.reasons = 'loopback', {'trace': 'forbidden by parameter'}
                return
            try:
                self._probes.remove_leftovers()
                self._try_probe()
                self._objects = TraceObjects(self.settings, by_headers=self._by_headers)
                self.notes = list(self._objects.notes)
                self._attach()
                self._probes.detach()
            except BypassError as error:
                self._release()
                if self.settings.path == 'trace':
                    self._reset()
                    raise
                self._reset()
                self.selected, self.reasons = 'loopback', {'trace': str(error)}
                self._log.warning(f'Sends are not traced: {error}')
                if error.log:
                    self._log.debug(error.log)
                return
            except BaseException:
                self._release()
                self._reset()
                raise
            self.selected = 'trace'
            self.reasons = {'loopback': 'not needed: trace works here'}
            self.notes.append('only the first '
                              f'{self.settings.capture_bytes} bytes of a send are copied, and '
                              'nothing is accelerated')

    def activate(self):
        """Attach: sends are seen from now on."""
        with self._lock:
            if self.selected == 'trace' and not self._active:
                self._objects.forget_sends()
                try:
                    self._reader = RecordReader(self._objects.map_fd('records'),
                                                self.settings.buffer_bytes, self._take)
                except OSError as error:
                    raise UnsupportedError('open the buffers for traced sends',
                                           errno=error.errno or 0,
                                           next_step='free some memory') from error
                try:
                    self._attach()
                except BaseException:
                    self._probes.detach()
                    self._end_reader()
                    raise
            self._active = True

    def deactivate(self):
        """Detach; what was seen until then is taken."""
        with self._lock:
            self._probes.detach()
            if self._reader:
                self._end_reader()
                # Nothing is on its way any more: what was counted and did not come is lost.
                self._lost = self._seen() - self._read
            self._active = False

    def cleanup(self):
        """Release everything."""
        with self._lock:
            self.deactivate()
            self._release()
            self._reset()

    # Rules ------------------------------------------------------------------------------------

    def set_rules(self, rules):
        """
        Make these the rules.

        A rule for UDP matches the destination port, one for TCP either port; their actions make
        no difference here.
        """
        with self._lock:
            self._rules = {transport: resolve([rule for rule in rules
                                               if rule.transport == transport])
                           for transport in BITS}
            if self._objects:
                self._write_rules()

    def set_shares(self, shares):
        """Say whose the rules are, [(Rule, ring or None)]: where captures of a rule go."""
        self._shares = {rule.id: ring for rule, ring in shares if ring is not None}

    def _write_rules(self):
        wanted = {transport: BITS[transport] for transport in self.settings.transports}
        self._objects.write_rules([
            sum(bit for transport, bit in wanted.items() if self._rules[transport][port])
            for port in range(65536)])

    # What is shown ----------------------------------------------------------------------------

    def counters(self):
        """
        Return the monotonic counters by name, of sends to enrolled ports.

        sends_udp, bytes_udp, failed_udp, untracked_udp, the same of TCP: as the program counted,
        `failed` those that the kernel refused, `untracked` those whose end it did not see.
        captured: in the pool. lost: the buffer had no room. passed_REASON: not in the pool. These
        add up to sends_udp + sends_tcp, but for `on_the_way`, which is 0 when nothing is sent.
        """
        with self._lock:
            # Read in this order, so that nothing is on the way before it was sent.
            outcomes, lost = dict(self._outcomes), self._lost
            if self._reader:
                lost += self._reader.lost
            totals = self._objects.totals() if self._objects else {}
            if self._active and self._objects:
                for transport, count in self._objects.forget_gone().items():
                    self._gone[transport] += count
            answer = {f'{name}_{transport}': totals.get(transport, {}).get(name, 0)
                      for transport in BITS for name in ('sends', 'bytes', 'failed', 'untracked')}
            for transport, count in self._gone.items():
                answer[f'untracked_{transport}'] += count
            answer['captured'], answer['lost'] = outcomes.pop('captured'), lost
            answer.update({f'passed_{reason}': count for reason, count in outcomes.items()})
            answer['on_the_way'] = answer['sends_udp'] + answer['sends_tcp'] - lost - \
                answer['captured'] - sum(outcomes.values())
            return answer

    def endpoints(self):
        """Return {(transport, destination port, sender's pid): (sends, bytes)} as read so far."""
        with self._lock:
            return {key: tuple(sums) for key, sums in list(self._sent.items())}

    # Inside -----------------------------------------------------------------------------------

    def _try_probe(self):
        """Raise where this kernel has no probes, before anything is compiled."""
        if not self._probes.available():
            raise UnsupportedError('trace sends', 'the kernel has no kprobes',
                                   next_step='use a kernel with CONFIG_KPROBE_EVENTS and '
                                   'CONFIG_BPF_EVENTS, as distributions have it')

    def _attach(self):
        for transport in self.settings.transports:
            for function, enter in FUNCTIONS[transport].items():
                try:
                    self._probes.attach(function, self._objects.program(enter),
                                        self._objects.program(LEAVE))
                except PrivilegeError:
                    raise
                except UnsupportedError as error:
                    if function != _IPV6_ONLY:
                        raise
                    note = f'UDP by IPv6 is not seen: {error.what}: {error.reason}'
                    if note not in self.notes:
                        self.notes.append(note)
        self._write_rules()

    def _take(self, samples):
        """Put samples into the pool; called by the reader's thread alone."""
        outcomes, sent = self._outcomes, self._sent
        for sample in samples:
            send = unpack(sample)
            key = send.transport, send.destination_port, send.sender_pid
            # A server's answers go to ever new ports.
            sums = sent.setdefault(key, [0, 0]) if len(sent) < _ENDPOINTS else \
                sent.get(key, [0, 0])
            sums[0] += 1
            sums[1] += send.length
            outcomes[self._put(send) or 'captured'] += 1

    def _put(self, send):
        """Put a send into the pool; return why not, '' where it is there."""
        rules = self._rules[send.transport]
        rule = rules[send.destination_port]
        if rule is None and send.transport == 'tcp':
            rule = rules[send.source_port]
        ring = self._shares.get(rule.id) if rule else None
        if ring is None or self._writer is None:
            return 'no_consumer'
        flags = layout.TRUNCATED | (layout.TCP if send.transport == 'tcp' else 0)
        return self._writer.write(ring, send.data, Capture(
            send.capture_ns, send.cookie, send.source_address, send.destination_address,
            send.source_port, send.destination_port, send.family, layout.MIRROR, flags,
            send.sender_pid, 0, rule.id, send.length))

    def _seen(self):
        totals = self._objects.totals()
        return sum(sums['sends'] for sums in totals.values())

    def _end_reader(self):
        reader, self._reader = self._reader, None
        reader.close()
        self._read += reader.read

    def _release(self):
        self._probes.detach()
        if self._objects:
            self._objects.close()
            self._objects = None
