"""A thread that knows the MAC of next hops, by the neighbour table and its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import contextlib
from dataclasses import dataclass
import os
import select
import socket
import struct
import threading
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.namespaces import enter
from ipc_bypass.xdp.bypass_flows import Address
from ipc_bypass.xdp.fast_path.rtnetlink import Asking, Link, Listening
from ipc_bypass.xdp.features import xdp_features, XdpFeature
from ipc_bypass.xdp.interfaces import namespace_inode
from ipc_bypass.xdp.netlink import attribute, attributes, head

#: Seconds between two looks without a message, and between two times that a hop is asked for.
_INTERVAL, _ASK_EVERY = 2.0, 10.0
#: Seconds until the next try after an error.
_AGAIN = 0.5
_BEATS = 4
# uapi/linux/rtnetlink.h, uapi/linux/neighbour.h
_GROUPS = 0x1 | 0x4
_NEW_NEIGHBOUR, _GET_NEIGHBOUR = 28, 30
_DESTINATION, _LLADDR, _USE = 1, 2, 0x01
# REACHABLE, STALE, DELAY, PROBE, NOARP, PERMANENT
_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_REPLACE_CREATE = 0x100 | 0x400
_NEIGHBOUR = struct.Struct('=BxxxiHBB')
_HEADER = struct.Struct('=IHHII')
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_Wanted = tuple[Address | bytes, str]


@dataclass(frozen=True)
class Hop:
    """
    What is known of a next hop.

    `wanted` is what was asked for; `obstacle` why nothing can be sent to it, '' where it can;
    `ifindex` is 0 for XDP_TX, back out of the interface that packets come in at.
    """

    wanted: _Wanted
    obstacle: str
    ifindex: int = 0
    mtu: int = 0
    mac: bytes = b''
    source_mac: bytes = b''
    arrival_mac: bytes = b''


class NextHops:
    """
    Keeps next hops in the namespace of the thread that makes it, until close().

    Its thread runs while there are any: it reads all links at each change of one. `problem` is
    what went wrong at its last look, '' when all is well; hops are stale then in a short time.

    :param index: ifindex of the interface that packets come in at
    :param write: called with a Hop for each that is wanted, in their order
    :param beat: called with the time (CLOCK_MONOTONIC, nanoseconds) until which they are good
    """

    def __init__(self, index: int, write: Callable[[Sequence[Hop]], None],
                 beat: Callable[[int], None]) -> None:
        self._index, self._write, self._beat = index, write, beat
        self._wanted: tuple[_Wanted, ...] = ()
        self._heartbeat_ms, self._closed, self.problem = 2000, False, ''
        self._guard, self._thread = threading.Lock(), None
        self._parts = contextlib.ExitStack()
        try:
            self._asking = self._parts.enter_context(_Asking())
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._parts.callback(os.close, self._wake)
            self._namespace = os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
            self._parts.callback(os.close, self._namespace)
        except OSError as error:
            self._parts.close()
            raise BypassError('look after the next hops of the bypass', errno=error.errno or 0,
                              next_step='needs CAP_NET_ADMIN') from error

    def keep(self, wanted: Iterable[_Wanted], heartbeat_ms: int) -> None:
        """Look after these from now on: (address or MAC, name of the interface or '')."""
        with self._guard:
            if self._closed:
                return
            self._wanted, self._heartbeat_ms = tuple(wanted), heartbeat_ms
            os.eventfd_write(self._wake, 1)
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name='next-hops', daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; once more is no error."""
        with self._guard:
            if self._closed:
                return
            self._closed, thread = True, self._thread
            os.eventfd_write(self._wake, 1)
        if thread is not None:
            thread.join()
        self._parts.close()

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over():
            try:
                if namespace_inode() != os.fstat(self._namespace).st_ino:
                    enter(f'/proc/self/fd/{self._namespace}')
                with contextlib.closing(Listening(_GROUPS, neighbours=False)) as listening:
                    self._work(listening)
            except Exception as error:  # without a beat, hops are stale; the next try may end well
                self.problem = str(error) or type(error).__name__
                time.sleep(_AGAIN)

    def _over(self) -> bool:
        """Return whether there is nothing to look after; then another thread may begin."""
        with self._guard:
            if self._wanted and not self._closed:
                return False
            self._thread, self.problem = None, ''
            return True

    def _work(self, listening: Listening) -> None:
        """Look and beat until there is nothing to look after any more."""
        poll = select.poll()
        poll.register(listening, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        next_look = next_ask = 0.0
        while self._wanted and not self._closed:
            pause = min(self._heartbeat_ms / 1000 / _BEATS, max(0, next_look - time.monotonic()))
            poll.poll(pause * 1000)
            now = time.monotonic_ns()
            changed = sum(1 for _ in listening.take())
            with contextlib.suppress(BlockingIOError):
                changed += os.eventfd_read(self._wake)
            if changed or time.monotonic() >= next_look:
                next_look = time.monotonic() + _INTERVAL
                ask = time.monotonic() >= next_ask
                next_ask = time.monotonic() + _ASK_EVERY if ask else next_ask
                self._look(ask)
                self.problem = ''
            self._beat(now + self._heartbeat_ms * 10**6)

    def _look(self, ask: bool) -> None:
        wanted = self._wanted
        try:
            links = self._asking.links()
            found = [self._hop(each, links, ask) for each in wanted]
        except OSError as error:
            found = [Hop(each, f'the kernel does not tell ({error})') for each in wanted]
        self._write(found)

    def _hop(self, wanted: _Wanted, links: dict[int, Link], ask: bool) -> Hop:
        hop, name = wanted
        here = links.get(self._index)
        link = here if not name else next(
            (each for each in links.values() if each.name == name), None)
        if here is None or link is None:
            return Hop(wanted, 'the interface is gone' if here is None else f'there is no {name}')
        if not link.up or len(link.mac) != 6:
            return Hop(wanted, f'{link.name} is down, or no Ethernet')
        # A veth takes frames while its peer has NAPI, also back from where they came.
        offered = xdp_features(link.index)
        takes = offered & XdpFeature.NDO_XMIT if offered is not None else link.kind != 'veth'
        if not takes and (link.index != self._index or link.kind == 'veth'):
            return Hop(wanted, f'{link.name} takes no redirected frames now'
                       if offered is not None else f'{link.name}: whether a veth takes redirected '
                       'frames is told by kernel 6.3 or later alone')
        mac = hop
        if not isinstance(hop, bytes):
            mac = self._asking.neighbour(link.index, hop)
            if ask or not mac:
                self._asking.use(link.index, hop)
            if not mac:
                return Hop(wanted, f'{hop} has no MAC in the neighbour table of {link.name}')
        # What XDP_TX puts into the queue of a veth's peer lies there until the next frame, unless
        # an XDP program is there (veth_xdp_flush, drivers/net/veth.c); a redirect does not.
        back = link.index == self._index and link.kind != 'veth'
        return Hop(wanted, '', 0 if back else link.index, link.mtu, mac, link.mac, here.mac)


class _Asking(Asking):
    """Also asks for single neighbours."""

    def neighbour(self, index: int, address: Address) -> bytes | None:
        """Return the MAC of an address on a link, None while it is not known."""
        try:
            answer, = self.ask(_GET_NEIGHBOUR, self._body(index, address, 0))
            state = head(_NEIGHBOUR, answer)[2]
        except OSError:
            return None
        mac = attributes(answer, _NEIGHBOUR.size).get(_LLADDR, b'')
        return mac if state & _VALID and len(mac) == 6 else None

    def use(self, index: int, address: Address) -> None:
        """Have the kernel find out, or confirm in its own time, who has an address."""
        body = self._body(index, address, _USE)
        # Not by ask(), as that makes no new entry; the answer is of no interest.
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _NEW_NEIGHBOUR,
                                       0x1 | _REPLACE_CREATE, 0, 0) + body)

    @staticmethod
    def _body(index: int, address: Address, flags: int) -> bytes:
        return _NEIGHBOUR.pack(_FAMILIES[address.version], index, 0, flags, 0) + attribute(
            _DESTINATION, address.packed)
