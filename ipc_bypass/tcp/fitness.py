"""
Keeps the TCP path away from programs that rely on what a redirected socket does not have.

Three parts: a list of names and users (exclusions.py), programs in the kernel that see who splices
or waits for all (watch.py), and here the end of connections that would never go on.
"""

import os
import socket
import struct
import threading
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.tcp.abandoned import abort
from ipc_bypass.tcp.exclusions import Exclusions, parse
from ipc_bypass.tcp.renewal import unread_bytes
from ipc_bypass.tcp.watch import SIGHTS, Watch

PERIOD = 0.5
#: How long a reader may splice in vain until its connection is reset, in seconds.
PATIENCE = 3.0
_BYTES_RECEIVED = 128  # struct tcp_info: tcpi_bytes_received, 64 bits


class Fitness:
    """
    The parts of one configured TcpPath.

    `notes` are lines for its notes; the list grows while it runs. `reset` counts connections that
    were ended since their reader spliced in vain.
    """

    def __init__(self, objects, owners, settings, log):
        """Load; what cannot be had is a note. Raises BypassError where the list is wrong."""
        self._objects, self._owners, self._settings, self._log = objects, owners, settings, log
        self.notes, self.reset = [], 0
        parse(settings.exclude)
        self.exclusions = Exclusions(objects, told=self._tell)
        self._stuck, self._optioned, self._watch = {}, set(), None
        self._end, self._thread = threading.Event(), None
        self._running = self._watching = False
        try:
            # Also with nothing to see: it marks the sockets of what is listed.
            self._watch = Watch(objects, settings.cgroup_path,
                                SIGHTS if settings.find_unfit else {})
            self.notes += self._watch.notes
        except BypassError as error:
            unseen = 'programs that need a plain socket are not seen, and ' \
                if settings.find_unfit else ''
            self.notes.append(f'{unseen}the list `exclude` holds for what listens now only: '
                              f'{error}')

    def start(self, watching):
        """
        Mark what is listed, and look around from now on; raises BypassError.

        `watching` as for `watch`.
        """
        self._end.clear()
        self._running = True
        self.watch(watching)
        self.exclusions.list_only(self._settings.exclude)
        thread = threading.Thread(target=self._run, name='fitness', daemon=True)
        thread.start()
        self._thread = thread  # not before: one that could not start cannot be joined

    def watch(self, on):
        """Attach, or detach where there is no rule: then it would cost, and see nothing."""
        on = on and self._running
        if on == self._watching:
            return
        self._watching = on
        if not on:
            if self._watch:
                self._watch.detach()
            return
        try:
            if self._watch:
                self._watch.attach()
        except BypassError as error:
            self._watching = False
            self._note(f'programs that need a plain socket are not seen: {error}')
        try:
            # Nobody marked the sockets that were made while it was detached.
            self.exclusions.mark_listeners()
        except OSError as error:
            self._note(f'what is left out and listens already is not found: {error}')

    def _note(self, line):
        if line not in self.notes:
            self.notes.append(line)
        self._log.warning(line)

    def apply(self, settings):
        """Use another list; raises BypassError, and OSError of the kernel's."""
        self._settings = settings
        if self._running:
            self.exclusions.list_only(settings.exclude)

    def stop(self):
        """Detach and end the thread; it may be started again."""
        self._end.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        self._running = False
        self.watch(False)

    def close(self):
        """Stop and release."""
        self.stop()
        if self._watch:
            self._watch.close()
            self._watch = None

    def _tell(self, excluded):
        self._note(f'{excluded}; its new connections go the usual way')

    def _run(self):
        while not self._end.wait(PERIOD):
            try:
                self._look_at_options()
                self.exclusions.look()
                self._look_at_readers()
            except OSError as error:  # such as no memory: the next look may do
                self._log.debug(f'looking for programs that splice: {error}')

    def _look_at_options(self):
        """Leave out who set an option that redirect does not heed, from its next connection on."""
        flows = self._objects.flows
        for index in flows.live():
            number, cookie = flows.get(index, 'option'), flows.get(index, 'cookie')
            if number and cookie and cookie not in self._optioned:
                pid = flows.get(index, 'pid') or self._owner(cookie)
                if pid:
                    self._optioned.add(cookie)
                    self.exclusions.add(pid, flows.get(index, 'rule_port'), number)

    def _owner(self, cookie):
        self._owners.find([cookie])
        return self._owners.pid(cookie)

    def _look_at_readers(self):
        """End connections whose reader splices, again and again, and takes nothing."""
        flows, splice = self._objects.flows, self._objects.enums['unfit']['UNFIT_SPLICE']
        seen = {}
        for index in flows.live():
            if flows.get(index, 'unfit') == splice:
                cookie = flows.get(index, 'cookie')
                seen[cookie] = self._look_at(cookie, flows.get(index, 'pid'))
        self._stuck = seen

    def _look_at(self, cookie, pid):
        """
        Return since when it took nothing, and what it had taken, unread and spliced by then.

        None where it cannot be seen: the next look begins anew.
        """
        now, splices = time.monotonic(), self._splices(cookie)
        fd = self._owners.socket(cookie, pid)
        if fd is None:
            return None
        by_peek = bool(self._objects.settings_view.get(0, 'renew_by_peek'))
        try:
            unread, taken = unread_bytes(fd, by_peek), _taken_bytes(fd)
            fresh = now, taken, unread, splices
            before = self._stuck.get(cookie) or fresh
            since, taken_then, unread_then, splices_then = before
            # A sender may fill the queue as fast as it is read: what is unread alone says nothing.
            if not unread or unread < unread_then or taken > taken_then:
                return fresh
            # Who reads by other calls, but slowly, does not splice any more.
            if now - since > PATIENCE and splices > splices_then and abort(fd):
                self.reset += 1
                self._log.warning(f'reset a connection of process {pid}: it waits for splice(2) '
                                  'to move what was redirected; the next one is plain')
                return fresh
            return before
        except OSError:
            return None
        finally:
            os.close(fd)

    def _splices(self, cookie):
        arrivals = self._objects.maps['arrivals']
        value = syscall.map_lookup(arrivals.fd, cookie.to_bytes(8, 'little'), arrivals.value_size)
        return arrivals.value.unpack(value)['splices'] if value else 0


def _taken_bytes(fd):
    """Return how many bytes of what came by TCP the owner of a socket has read, in all."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    return struct.unpack_from('=Q', info, _BYTES_RECEIVED)[0] - unread_bytes(fd, by_peek=False)
