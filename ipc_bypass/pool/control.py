"""The node's end of the control socket: hands out the pool and its leases."""

from collections import Counter
import contextlib
import errno
import os
from pathlib import Path
import select
import socket
import stat
import struct
import threading
import time

from ipc_bypass.graph.parameter_list import printable
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError, PoolError
from ipc_bypass.pool.channel import receive, send, VERSION
from ipc_bypass.pool.counting import count
from ipc_bypass.rules.table import parse
from ipc_bypass.udp.prefixes import Prefixes

_MOST_CLIENTS = 64
#: Rules that one consumer may ask for, prefixes that it may claim, and rules that it is told of:
#: every change of rules is held against all of them, and an answer is one packet.
_MOST_ASKED, _MOST_TOLD = 64, 1024
#: Ended leases of one consumer of which it may still ask how far they counted.
_MOST_ENDED = 16


class ControlServer:
    """A thread that answers consumers; a lease ends when its consumer's connection does."""

    def __init__(self, path, leases, *, backing, descriptors, heartbeat_ms, access, exempt,
                 passed=dict, pins=''):
        """
        Listen at `path`; raises PoolError.

        :param backing: 'kernel' or 'file'
        :param descriptors: returns {name: descriptor} to hand out
        :param access: pool.access.Access: whom to let in
        :param exempt: called with a socket's descriptor whose sends shall not be captured
        :param passed: returns {reason: datagrams that were not captured}
        :param pins: folder in which what is handed out is pinned, '' for none

        `problems` counts what was survived and should not be, by its text.
        """
        self._path, self._leases, self._backing = Path(path), leases, backing
        self._descriptors, self.heartbeat_ms = descriptors, heartbeat_ms
        self._access, self._exempt = access, exempt
        self._pins, self.problems, self._passed = str(pins), Counter(), passed
        self._clients, self._poll = {}, select.poll()
        self._listener = _listen(self._path, access)
        try:
            self._end_read, self._end_write = os.pipe2(os.O_CLOEXEC)
            self._thread = threading.Thread(target=self._run, name='pool-control', daemon=True)
            self._thread.start()
        except BaseException:
            self._stop_listening()
            raise

    def clients(self):
        """Return what is connected: a list of {'name', 'pid', 'observe'}."""
        return [{'name': client.name, 'pid': client.pid, 'observe': client.observe}
                for client in list(self._clients.values()) if client.opened]

    def close(self):
        """End every lease and stop listening."""
        os.write(self._end_write, b'.')
        self._thread.join()
        with contextlib.ExitStack() as ending:  # each of them, whatever another one does
            ending.callback(os.close, self._end_read)
            ending.callback(os.close, self._end_write)
            ending.callback(self._stop_listening)
            for client in list(self._clients.values()):
                ending.callback(self._drop, client)

    def _stop_listening(self):
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _run(self):
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(self._end_read, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._end_read:
                    return
                # No request and no consumer may end this thread: all others depend on it.
                try:
                    self._attend(fd)
                except Exception as error:
                    count(self.problems, f'{type(error).__name__}: {error}')

    def _attend(self, fd):
        if fd == self._listener.fileno():
            self._accept()
            return
        client = self._clients.get(fd)
        if client:
            goes_on = False
            try:
                goes_on = self._serve(client)
            finally:
                if not goes_on:
                    self._drop(client)

    def _accept(self):
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(0.05)  # the next poll returns at once
            return
        sock.setblocking(False)  # who does not read its answers is dropped
        try:
            client, refusal = _Client(sock), self._access.refusal(sock)
        except OSError:
            sock.close()
            return
        if not refusal and len(self._clients) >= _MOST_CLIENTS:
            silent = next((other for other in self._clients.values() if not other.opened), None)
            if silent:
                self._drop(silent)
            else:
                refusal = f'{_MOST_CLIENTS} consumers are connected'
        if refusal:
            with sock, contextlib.suppress(OSError):
                send(sock, {'ok': False, 'error': refusal})
            return
        self._clients[sock.fileno()] = client
        self._poll.register(sock, select.POLLIN)

    def _drop(self, client):
        self._clients.pop(client.sock.fileno(), None)
        with contextlib.suppress(KeyError):
            self._poll.unregister(client.sock)
        try:
            self._end_lease(client)
        finally:
            for key in client.ended:
                self._leases.forget(*key)
            client.sock.close()

    def _end_lease(self, client):
        if client.lease:
            lease, client.lease = client.lease, None
            client.ended.append((lease.ring, lease.generation))
            if len(client.ended) > _MOST_ENDED:
                self._leases.forget(*client.ended.pop(0))
            self._leases.revoke(lease)

    def _serve(self, client):
        """Answer one request; return whether the connection goes on."""
        descriptors = []
        try:
            try:
                message, descriptors = receive(client.sock)
            except BlockingIOError:
                return True
            if message is None:
                return False
            handler = self._HANDLERS.get(message.get('op'))
            if handler is None:
                raise PoolError(f"answer '{message.get('op')}'", 'it is no request')
            answer, handed = handler(self, client, message, descriptors)
            send(client.sock, {'ok': True, **answer}, handed)
        except BypassError as error:
            return _tell(client, error.what + (f': {error.reason}' if error.reason else ''),
                         error.next_step)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            return _tell(client, f'the request cannot be read: {error}', '')
        except OSError:
            return False
        finally:
            for fd in descriptors:
                os.close(fd)
        return True

    def _open(self, client, message, _descriptors):
        if message.get('version') != VERSION:
            raise PoolError('serve the consumer', f"it speaks version {message.get('version')}, "
                            f'the node {VERSION}', next_step='use one installation for both')
        for asked in ('rules', 'claims'):
            if len(message[asked]) > _MOST_ASKED:
                raise PoolError('serve the consumer', f'it asks for {len(message[asked])} '
                                f'{asked}, {_MOST_ASKED} are the most',
                                next_step='use port ranges and wider prefixes')
        client.spans = [_span(text) for text in message['rules']]
        client.claims = [str(network) for network in Prefixes(
            [str(prefix) for prefix in message['claims']]).networks]
        # It is shown in logs and topics, which take no lone surrogates.
        client.name, client.observe = printable(str(message['name'])[:64]), \
            bool(message['observe'])
        client.fallback = bool(message.get('fallback')) and client.pid == os.getpid()
        client.opened = True
        found = {'backing': self._backing, 'heartbeat_ms': self.heartbeat_ms,
                 'pins': self._pins, 'rules': self._leases.rules()[:_MOST_TOLD]}
        if self._pins:
            pool = self._descriptors()
            found['pool_id'] = syscall.map_info(pool['pool_header']).id
            found['rings'] = sum(name.startswith('wake_') for name in pool)
        return found, []

    def _counters(self, client, _message, _descriptors):
        if not client.opened:
            raise PoolError('tell the counters', "it was not asked for with 'open'")
        return {'passed': self._passed()}, []

    def _maps(self, client, _message, _descriptors):
        if not client.opened:
            raise PoolError('hand over the pool', "it was not asked for with 'open'")
        found = self._descriptors()
        return {'descriptors': list(found)}, list(found.values())

    def _lease(self, client, _message, _descriptors):
        if not client.opened or client.observe:
            raise PoolError('lease rules', "it was not asked for in 'open'")
        self._end_lease(client)
        for other in self._leases.all():
            both = set(other.claims) & set(client.claims)
            if both:
                raise PoolError(f'claim {min(both)}', f"'{other.name}' (pid {other.pid}) did",
                                next_step='end that consumer, or claim other prefixes')
        client.lease = self._leases.open(name=client.name, pid=client.pid, spans=client.spans,
                                         claims=client.claims, fallback=client.fallback)
        return {'ring': client.lease.ring, 'generation': client.lease.generation,
                'cursor': client.lease.first,
                'rules': [str(rule) for rule in client.lease.rules[:_MOST_TOLD]]}, []

    def _revoked(self, client, message, _descriptors):
        key = int(message['ring']), int(message['generation'])
        if client.lease and key == (client.lease.ring, client.lease.generation):
            self._end_lease(client)
        cursor = self._leases.revoked_at(*key)
        if cursor is None or key not in client.ended:
            raise PoolError('look up the lease', 'it is not one that ended')
        client.ended.remove(key)
        self._leases.forget(*key)
        return {'cursor': cursor}, []

    def _exempt_sockets(self, _client, _message, descriptors):
        try:
            for fd in descriptors:
                self._exempt(fd)
        except OSError as error:
            raise PoolError('exempt a socket', errno=error.errno or 0) from error
        return {}, []

    _HANDLERS = {'open': _open, 'maps': _maps, 'lease': _lease, 'revoked': _revoked,
                 'exempt': _exempt_sockets, 'counters': _counters}


class _Client:
    """One connection."""

    def __init__(self, sock):
        self.sock = sock
        self.pid = struct.unpack('=iII', sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED,
                                                         12))[0]
        self.name, self.observe, self.opened, self.fallback = '', True, False, False
        self.spans, self.claims, self.lease, self.ended = [], [], None, []


def _tell(client, reason, next_step):
    try:
        send(client.sock, {'ok': False, 'error': reason, 'next_step': next_step})
    except OSError:
        return False
    return True


def _span(text):
    rule = parse(str(text))
    if rule.transport != 'udp':
        raise PoolError(f"lease '{text}'", 'only datagrams are leased',
                        next_step='write udp:PORT[-PORT][:ACTION]')
    return (rule.port_first, rule.port_last,
            rule.action if str(text).count(':') > 1 else '')


def _listen(path, access):
    """Return the listening socket; a file that nobody listens at is taken over."""
    what = f'listen at {path}'
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as other:
            other.settimeout(1.0)
            try:
                other.connect(str(path))
            except ConnectionRefusedError:
                if not stat.S_ISSOCK(os.lstat(path).st_mode):
                    raise PoolError(what, 'the file there is no socket', errno=errno.EEXIST,
                                    next_step='set control_socket to another path') from None
                path.unlink()
            except FileNotFoundError:
                pass
            else:
                raise PoolError(what, 'another node does', errno=errno.EADDRINUSE,
                                next_step='stop it, or set control_socket to another path')
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        access.give(path)
        listener.listen(_MOST_CLIENTS)
    except OSError as error:
        listener.close()
        raise PoolError(what, '' if error.errno else str(error), errno=error.errno or 0,
                        next_step='set control_socket to a path that can be written') from error
    except BaseException:
        listener.close()
        raise
    return listener
