"""One TCP path for the tests of socket behaviour, and connections of each kind over it."""

import contextlib
import errno
import itertools
import socket

from ipc_bypass.kernel.errors import PrivilegeError
from ipc_bypass.rules.table import RuleTable
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings
import pytest
from semantics_tools import ADDRESSES, Pair, PATIENCE, set_timeouts

PLAIN_PORTS = range(22000, 22500)
ENROLLED_PORTS = range(22500, 23000)


@pytest.fixture(scope='session')
def path():
    """Yield an active TcpPath with a rule for ENROLLED_PORTS, that pins nothing."""
    tcp_path = TcpPath(TcpSettings(tcp_path='sk_msg', pin_directory='', exclude=(),
                                   find_unfit=False))
    try:
        tcp_path.configure()
    except PrivilegeError as error:
        pytest.skip(str(error))
    rules = RuleTable()
    rules.add('tcp', ENROLLED_PORTS[0], ENROLLED_PORTS[-1])
    tcp_path.set_rules(rules.rules())
    tcp_path.activate()
    yield tcp_path
    tcp_path.cleanup()


@pytest.fixture(scope='session')
def listeners():
    """Yield a function that returns a new listener: listen(enrolled, family)."""
    ports = {False: itertools.cycle(PLAIN_PORTS), True: itertools.cycle(ENROLLED_PORTS)}

    def listen(enrolled, family):
        for _ in range(len(PLAIN_PORTS)):
            sock = socket.socket(socket.AF_INET if family == 'ipv4' else socket.AF_INET6)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((ADDRESSES[family], next(ports[enrolled])))
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            sock.listen()
            return sock
        raise OSError(errno.EADDRINUSE, 'no free port for the tests')

    return listen


@pytest.fixture
def connections(path, listeners):
    """
    Yield a context manager that opens a Pair, by kind, family, and whether it may pass.

    At its end it holds the path's counters against the kind: what a redirected connection sends
    is redirected, what a passed one sends passes, and a plain one is not seen at all.
    """

    @contextlib.contextmanager
    def connection(kind, family, may_pass=False):
        before = path.counters()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(listeners(kind != 'plain', family))
            client = stack.enter_context(
                socket.create_connection(listener.getsockname()[:2], PATIENCE))
            server = stack.enter_context(listener.accept()[0])
            client.settimeout(None)
            for sock in (client, server):
                set_timeouts(sock, PATIENCE)
            if kind == 'passed':
                stack.callback(path.activate)
                path.deactivate()
            yield Pair(client, server, kind)
        after = path.counters()
        seen = {name: after[name] - before[name]
                for name in ('ends_enrolled', 'redirected_messages', 'passed_messages')}
        assert (seen['ends_enrolled'] > 0) == (kind != 'plain')
        assert (seen['redirected_messages'] > 0) == (kind == 'redirected')
        if not may_pass:
            assert (seen['passed_messages'] > 0) == (kind == 'passed')

    return connection
