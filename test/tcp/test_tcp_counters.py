"""What the path counts is what was sent."""

from collections import Counter
import os
from pathlib import Path
import random
import time

from support.connections import close, LOOPBACK, read, unacknowledged
from support.processes import Script
from support.steering import adds_up, drained, flow_of, flows_of, rules, total_bytes
from support.traffic import Job, random_sizes, receive, send
from support.waiting import wait_until

#: The program sees a send of up to this many bytes as one message.
ONE_MESSAGE = 16 << 10


def test_bytes_and_messages(place, make_path, ports, stack):
    """Sums over flows and over the path are exact: redirected, passed, and after the close."""
    spans = rules((ports.first, ports.last))
    path = stack.enter_context(make_path((ports.first, ports.last)))
    pairs = [place.pair(next(ports)) for _ in range(3)]
    stack.callback(close, pairs)
    steps = [lambda: None, path.deactivate, path.activate, lambda: path.set_rules([]),
             lambda: path.set_rules(spans)]
    sent_bytes, sent_messages = Counter(), Counter()
    for turn, step in enumerate(steps):
        # A direction comes back only when all of it is acknowledged: delayed ACKs take 40 ms.
        wait_until(lambda: not any(map(unacknowledged, sent_bytes)), 'all is acknowledged')
        step()
        for number, ends in enumerate(pairs):
            for way, (sender, receiver) in enumerate((ends, ends[::-1])):
                generator = random.Random(100 * turn + 10 * number + way)
                sizes = [generator.randrange(1, ONE_MESSAGE) for _ in range(50)]
                reading = Job(receive, receiver, sum(sizes))
                send(sender, sizes)
                reading.result()
                sent_bytes[sender] += sum(sizes)
                sent_messages[sender] += len(sizes)

    for sock in sent_bytes:
        flow = flow_of(path, sock)
        assert flow.bytes == flow.redirected_bytes + flow.passed_bytes == sent_bytes[sock]
        assert flow.messages == flow.redirected_messages + flow.passed_messages \
            == sent_messages[sock]
        assert sum(flow.passed_by_reason.values()) == flow.passed_messages
        assert flow.passed_by_reason['inactive'] == flow.passed_by_reason['withdrawn'] == 50
        assert flow.redirected_messages == 3 * 50
    for _ in range(2):
        counters = adds_up(path)
        assert total_bytes(counters) == sum(sent_bytes.values())
        assert counters['redirected_messages'] + counters['passed_messages'] \
            == sum(sent_messages.values())
        assert counters['passed_inactive'] == counters['passed_withdrawn'] == 6 * 50
        close(pairs)
        drained(path)
    assert counters['ends_enrolled'] == counters['ends_closed'] == 6


def test_large_messages(place, make_path, ports, stack):
    """Bytes are exact for messages of any size, also where the program sees them in parts."""
    path = stack.enter_context(make_path((ports.first, ports.last)))
    client, server = pair = place.pair(next(ports))
    stack.callback(close, pair)
    sizes = random_sizes(1, 12 << 20)
    reading = Job(receive, server, sum(sizes))
    send(client, sizes)
    reading.result()
    assert flow_of(path, client).bytes == sum(sizes)
    assert total_bytes(adds_up(path)) == sum(sizes)


def test_counters_while_connections_end(make_path, ports, stack):
    """A reading while connections open and close never runs backwards."""
    path = stack.enter_context(make_path((ports.first, ports.last)))
    port, until = next(ports), time.monotonic() + 1.5
    message = bytes(1000)

    def work():
        count = 0
        while time.monotonic() < until:
            client, server = LOOPBACK.pair(port)
            for _ in range(5):
                client.sendall(message)
            read(server, 5 * len(message))
            close(client, server)
            count += 1
        return count

    working, before = Job(work), Counter()
    while working.is_alive():
        counters = path.counters()
        assert all(counters[name] >= before[name] for name in before), (before, counters)
        before = counters
    drained(path)
    assert total_bytes(adds_up(path)) == 5 * len(message) * working.result()


def test_processes_of_both_ends(make_path, ports, stack):
    """A flow names the processes of both ends, also of one that never sent."""
    path = stack.enter_context(make_path((ports.first, ports.last)))
    port = next(ports)
    server = stack.enter_context(Script('reader_process.py', LOOPBACK.address, str(port)))
    server.answer()
    client = stack.enter_context(LOOPBACK.connect(port))
    server.ask('accept')
    client.sendall(b'to the reader')
    assert server.ask('read', 13) == 13
    ours = Path('/proc/self/comm').read_text().strip()
    theirs = Path(f'/proc/{server.process.pid}/comm').read_text().strip()

    def known():
        flows = path.flows()
        return flows if all(flow.remote_pid and flow.local_pid for flow in flows) else None
    flows = wait_until(known, 'both processes are found')

    assert len(flows) == 2
    by_port = {flow.local_port: flow for flow in flows}
    flow = by_port[client.getsockname()[1]]
    assert (flow.local_pid, flow.local_comm) == (os.getpid(), ours)
    assert (flow.remote_pid, flow.remote_comm) == (server.process.pid, theirs)
    silent = by_port[port]
    assert (silent.local_pid, silent.local_comm) == (server.process.pid, theirs)
    assert (silent.remote_pid, silent.remote_comm) == (os.getpid(), ours)
    assert silent.messages == silent.bytes == 0


def test_flow_is_described(make_path, ports, stack):
    """Rule, path, reason and budget of a flow are those in force."""
    path = stack.enter_context(make_path((ports.first, ports.last), budget_bytes=1 << 20))
    client, server = pair = LOOPBACK.pair(next(ports))
    stack.callback(close, pair)
    client.sendall(bytes(1000))
    client.sendall(bytes(1000))
    flow, other = flows_of(path, client, server)
    assert flow.rule_id == other.rule_id == 1
    assert (flow.path, flow.reason) == ('sk_msg', '')
    assert flow.budget_left == (1 << 20) - flow.redirected_bytes
    assert flow.age_seconds > 0
    assert (flow.local_address, flow.local_port) == client.getsockname()
    assert (flow.remote_address, flow.remote_port) == client.getpeername()
    assert (other.local_port, other.remote_port) == (flow.remote_port, flow.local_port)
