"""A TcpPath for tests: rules from port ranges, flows by socket, and which objects it made."""

from ipc_bypass.kernel import syscall
from ipc_bypass.rules.table import RuleTable

from support.connections import cookie, read
from support.waiting import wait_until


def rules(*ranges):
    """Return rules that accelerate ports or (first, last) ranges of TCP."""
    table = RuleTable()
    for span in ranges:
        table.add('tcp', *(span if isinstance(span, (list, tuple)) else (span,)))
    return table.rules()


def flow_of(path, sock):
    """Return the Flow of what a socket sends, None where it is not enrolled."""
    number = cookie(sock)
    return next((flow for flow in path.flows() if flow.flow_id == number), None)


def flows_of(path, *sockets):
    """Return the Flows of what these sockets send; raises AssertionError when one has none."""
    by_id = {flow.flow_id: flow for flow in path.flows()}
    missing = [sock for sock in sockets if cookie(sock) not in by_id]
    assert not missing, f'{len(missing)} of {len(sockets)} sockets are not enrolled'
    return [by_id[cookie(sock)] for sock in sockets]


def object_ids(path):
    """Return {'programs': ids, 'maps': ids} of a configured path."""
    objects = path._objects
    if objects is None:
        return {'programs': [], 'maps': []}
    return {'programs': [syscall.prog_info(fd).id for fd in objects.programs.values()],
            'maps': [syscall.map_info(entry.fd).id for entry in objects.maps.values()]}


def drained(path):
    """Wait until no flow of a path is open: the kernel closes connections in its own time."""
    wait_until(lambda: not path.flows(), 'the records of closed connections are given back')


def adds_up(path):
    """Assert that what a path counted adds up; return its counters."""
    counters = path.counters()
    events = ('passed_bytes', 'passed_messages')
    by_reason = {name: count for name, count in counters.items()
                 if name.startswith('passed_') and name not in events}
    assert sum(by_reason.values()) == counters['passed_messages'], counters
    return counters


def total_bytes(counters):
    """Return all bytes that the program saw."""
    return counters['redirected_bytes'] + counters['passed_bytes']


def returns_to_redirect(path, sender, receiver, rounds=200):
    """
    Send request and answer until a sender's flow is redirected again; return its Flow.

    A message that passed has to be read before the next may be redirected.
    """
    sent = 0

    def redirected():
        nonlocal sent
        assert sent < rounds, flow_of(path, sender)
        sent += 1
        message = b'message %06d' % sent
        sender.sendall(message)
        assert read(receiver, len(message)) == message
        flow = flow_of(path, sender)
        return flow if flow and flow.path == 'sk_msg' and flow.redirected_messages else None
    return wait_until(redirected, 'the flow comes back to redirect', interval=0.05)
