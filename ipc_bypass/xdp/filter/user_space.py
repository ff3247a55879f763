"""
The filter in user space, for where XDP cannot be had: the same rules, and the same status.

A packet socket sees what the interface receives beside the kernel, not before it: what is dropped
here does not come to `deliver`, but the kernel's own sockets get it all the same. For those of
the user's own program, `socket_filter.filter_socket` makes dropping real.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import os
import select
import socket
import struct
import threading

from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.filter.model import Model, OUTCOMES, PASS, TX, verdict_of
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.rules import FilterRule
from ipc_bypass.xdp.filter.settings import FilterSettings
from ipc_bypass.xdp.filter.status import FilterStatus, RuleStatus

#: What status adds to the reason.
LIMIT = 'packets are judged beside the kernel, whose own sockets get all of them'
# uapi/linux/if_packet.h, uapi/linux/if_ether.h
_SOL_PACKET, _STATISTICS, _AUXDATA, _OUTGOING, _ALL = 263, 6, 8, 4, 3
_VLAN_VALID, _TPID_VALID, _VLAN = 0x10, 0x40, 0x8100
_AUX = struct.Struct('=IIIHHHH')
_LARGEST = 65536 + 64
_BATCH = 64
#: Seconds until the thread goes on after an error.
_AGAIN = 0.1


class UserSpaceFilter:
    """
    The filter of one interface in user space; has the methods of filter.Filter.

    Frames are judged by a thread between start() and stop(), or by poll() in the caller's.
    `problem` is the last error of that thread, which goes on after it; status shows it, too.

    :param interface: name, in this thread's network namespace
    :param settings: and the rules in them
    :param deliver: is called with each frame that passes, as bytes
    :param reason: why XDP cannot be had; status shows it
    :param table: rules that filters of several interfaces share
    :raises PrivilegeError: without CAP_NET_RAW
    :raises BypassError: there is no such interface
    """

    def __init__(self, interface: str, settings: FilterSettings | None = None, *,
                 deliver: Callable[[bytes], object] | None = None, reason: str = '',
                 table: FilterTable | None = None) -> None:
        self.interface, self.reason = interface, reason or 'XDP was not asked for'
        self.table = table if table is not None else FilterTable()
        self.settings = settings or FilterSettings()
        self._deliver = deliver
        self._lock = threading.RLock()
        self._outcomes, self._packets, self._bytes = Counter(), Counter(), Counter()
        self._missed, self.problem = 0, ''
        self._thread: threading.Thread | None = None
        self._wake = -1
        if table is None:
            self.table.replace(self.settings.rules)
        self.sync()
        self._socket = _open(interface)

    def apply(self, settings: FilterSettings) -> None:
        """Put settings and their rules in force; raises RuleError, and nothing changed then."""
        with self._lock:
            self.table.replace(settings.rules)
            self.sync(settings)

    def sync(self, settings: FilterSettings | None = None) -> None:
        """Put the table's rules in force, and these settings (their rules are not looked at)."""
        with self._lock:
            self.settings = settings or self.settings
            self._model = Model(self.settings, self.table.rules())

    def add(self, rule: str | FilterRule, origin: str = 'service') -> FilterRule:
        """Add a rule and return it with its id; raises RuleError."""
        with self._lock:
            added = self.table.add(rule, origin)
            self.sync()
            return added

    def remove(self, rule: int | str) -> FilterRule:
        """Remove a rule by its id or its text and return it; raises RuleError."""
        with self._lock:
            removed = self.table.remove(rule)
            self.sync()
            return removed

    def rules(self) -> list[FilterRule]:
        """Return the rules in force, by id."""
        with self._lock:
            return sorted(self._model.rules, key=lambda rule: rule.id)

    def judge(self, frame: bytes) -> str:
        """Judge and count one frame, deliver or answer it; return the verdict."""
        with self._lock:
            decision = self._model.judge(frame)
            verdict = verdict_of(decision.outcome, self.settings)
            self._outcomes[decision.outcome] += 1
            if decision.rule is not None:
                self._packets[decision.rule.id] += 1
                self._bytes[decision.rule.id] += len(frame)
        if verdict == TX:
            try:
                self._socket.send(decision.answer)
            except OSError:
                with self._lock:
                    self._outcomes['ptb_sent_count'] -= 1
                    self._outcomes['ptb_mem_err_count'] += 1
        elif verdict == PASS and self._deliver is not None:
            self._deliver(frame)
        return verdict

    def poll(self, timeout: float = 0.0) -> int:
        """Judge what has come, a batch at most; wait so many seconds for the first frame."""
        if not _ready([self._socket.fileno()], timeout):
            return 0
        judged = 0
        while judged < _BATCH:
            try:
                data, extra, _flags, sender = self._socket.recvmsg(_LARGEST, 64)
            except BlockingIOError:
                break
            except OSError:  # the interface went down; it may come back
                break
            if sender[2] != _OUTGOING:
                self.judge(_with_tag(data, extra))
                judged += 1
        return judged

    def start(self) -> None:
        """Judge in a thread from now on; again is no error."""
        if self._thread is None:
            ended, self._wake = os.pipe()
            self._thread = threading.Thread(target=self._work, args=(ended,), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; frames are no longer judged. Again is no error."""
        thread, self._thread = self._thread, None
        if thread is not None:
            os.close(self._wake)
            thread.join()

    def status(self) -> FilterStatus:
        """Return settings, rules with their counters, and packets by outcome."""
        with self._lock:
            received = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8)
            self._missed += struct.unpack('=II', received)[1]
            failed = f'; the thread failed: {self.problem}' if self.problem else ''
            return FilterStatus(
                'user space', f'{self.reason}; {LIMIT}{failed}', self.settings.shown(),
                tuple(RuleStatus(rule.id, str(rule), rule.origin, self._packets[rule.id],
                                 self._bytes[rule.id]) for rule in self.rules()),
                {name: self._outcomes[name] for name in OUTCOMES}, self._missed)

    def close(self) -> None:
        """Stop, and close the socket."""
        self.stop()
        self._socket.close()

    def __enter__(self) -> UserSpaceFilter:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close."""
        self.close()

    def _work(self, ended):
        try:
            while True:
                ready = _ready([self._socket.fileno(), ended])
                if ended in ready:
                    return
                try:
                    self.poll()
                except Exception as error:  # `deliver` is not ours; the next frame may go well
                    self.problem = f'{type(error).__name__}: {error}'
                    if _ready([ended], _AGAIN):
                        return
        finally:
            os.close(ended)


def _ready(descriptors, timeout=None):
    """Return those that can be read; select(2) would take none above 1,023."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _events in poll.poll(None if timeout is None else timeout * 1000)]


def _open(interface):
    what = f'filter {interface} in user space'
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    except PermissionError as error:
        raise privilege_error(what, ('CAP_NET_RAW',), error.errno) from error
    try:
        made.setblocking(False)
        made.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        made.bind((interface, _ALL))
    except OSError as error:
        made.close()
        raise BypassError(what, errno=error.errno or 0,
                          next_step='name an interface that is there: ip link') from error
    # What came from other interfaces before it was bound.
    while _ready([made.fileno()], 0):
        try:
            made.recv(1)
        except OSError:
            break
    return made


def _with_tag(data, extra):
    """Return a frame with the VLAN tag that the kernel took out of it."""
    for level, kind, block in extra:
        if level == _SOL_PACKET and kind == _AUXDATA and len(block) >= _AUX.size:
            status, *_lengths, tag, protocol = _AUX.unpack_from(block)
            if status & _VLAN_VALID:
                protocol = protocol if status & _TPID_VALID else _VLAN
                return data[:12] + struct.pack('>HH', protocol, tag) + data[12:]
    return data
