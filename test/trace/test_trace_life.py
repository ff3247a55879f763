"""The life of the trace path: on and off, what is lost, and what a killed process leaves."""

from dataclasses import replace
import os
from pathlib import Path
import signal
import struct
import subprocess
import sys
import threading

from ipc_bypass.kernel import syscall
from ipc_bypass.trace.objects import BITS, LEAVE
from ipc_bypass.trace.path import TracePath
from ipc_bypass.trace.probes import Probes
from ipc_bypass.trace.records import RECORD
from ipc_bypass.trace.settings import TraceSettings
import pytest
from support.waiting import wait_until
from trace_sending import sender

TRACING = Path('/sys/kernel/tracing')
#: Attaches two programs in a process of its own, says so, and waits to be killed.
HOLD = """
import sys
from pathlib import Path
from ipc_bypass.trace.probes import Probes
probes = Probes(*([Path('/nonexistent')] if sys.argv[3] == 'by_line' else []))
probes.attach('udp_sendmsg', int(sys.argv[1]), int(sys.argv[2]))
print('attached', flush=True)
sys.stdin.read()
"""


def send(port, count=1):
    """Send so many datagrams to a port where nobody listens."""
    with sender(4) as sock:
        for number in range(count):
            sock.sendto(b'%d' % number, ('127.0.0.1', port))


def test_off_and_on(traced, ports):
    """While it is inactive nothing is seen; after that, everything again."""
    port = next(ports)
    traced.path.deactivate()
    send(port)
    traced.path.activate()
    assert traced.since() == {}
    send(port)
    assert traced.since() == {'sends_udp': 1, 'bytes_udp': 1, 'captured': 1}


def test_a_send_whose_thread_has_gone_is_counted(traced):
    """The probe may miss the end of a send: what it noted at the entry does not stay for ever."""
    with subprocess.Popen([sys.executable, '-c', '']) as gone:
        pass
    sends = traced.path._objects._object.maps['sends']

    def note(thread, transport):
        value = RECORD.pack(0, 0, bytes(16), bytes(16), 0, 0, 4, BITS[transport], 0, 0, thread)
        syscall.map_update(sends.fd, struct.pack('=II', thread, thread),
                           value.ljust(sends.value_size, bytes(1)))
    for transport in BITS:
        note(gone.pid, transport)
        assert traced.since() == {f'untracked_{transport}': 1}
        note(os.getppid(), transport)  # it lives
        assert traced.since() == {}
    traced.path._objects.forget_sends()


def test_without_a_consumer(traced, ports):
    """Where nobody owns the rule, sends are counted under that reason."""
    port = next(ports)
    traced.path.set_shares([])
    send(port, 3)
    assert traced.since() == {'sends_udp': 3, 'bytes_udp': 3, 'passed_no_consumer': 3}
    traced.path.set_shares([(rule, 1) for rule in traced.rules])


def test_rules_change(traced, ports):
    """A port that is withdrawn is not seen any more."""
    port = next(ports)
    traced.path.set_rules(traced.rules[1:])
    send(port)
    assert traced.since() == {}
    traced.path.set_rules(traced.rules)
    send(port)
    assert traced.since()['captured'] == 1


def test_buffer_that_is_full(traced, ports):
    """What the buffer has no room for is counted as lost: no more, no less."""
    port, count, path = next(ports), 300, traced.path
    path.deactivate()
    settings, path.settings = path.settings, replace(path.settings, buffer_bytes=4096)
    held, go_on = threading.Event(), threading.Event()

    class Stopped:

        def write(self, *_arguments):
            held.set()
            assert go_on.wait(60)
            return ''
    writer, path._writer = path._writer, Stopped()
    path.activate()
    try:
        send(port)
        assert held.wait(60)
        send(port, count)
        go_on.set()
        path.deactivate()
        counters = traced.since()
    finally:
        go_on.set()
        path.deactivate()
        path.settings, path._writer = settings, writer
        path.activate()
    assert counters['sends_udp'] == count + 1
    assert counters['captured'] + counters['lost'] == count + 1
    assert counters['lost'] > count // 2


@pytest.mark.parametrize('way', ['by_event', 'by_line'])
def test_process_that_is_killed(traced, ports, way):
    """Probes end with their process; a line in tracefs is removed by the next start."""
    port, path = next(ports), traced.path
    path.deactivate()
    before = path.counters()['sends_udp']
    programs = [path._objects.program(name) for name in ('udp_enter', LEAVE)]
    with subprocess.Popen([sys.executable, '-c', HOLD, *map(str, programs), way],
                          pass_fds=programs, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b'attached\n'
        send(port, 5)
        assert path.counters()['sends_udp'] == before + 5
        holder.send_signal(signal.SIGKILL)
    send(port, 5)
    assert path.counters()['sends_udp'] == before + 5
    assert Probes().remove_leftovers() == (2 if way == 'by_line' else 0)
    assert 'ipc_bypass' not in (TRACING / 'kprobe_events').read_text()
    for step in (path.activate, path.deactivate, path.activate):
        step()
    # Nobody read what the program counted in between.
    assert traced.since() == {'sends_udp': 5, 'bytes_udp': 5, 'lost': 5}


def test_by_headers(traced, ports, probes_work, leaks):
    """Where the kernel has no type information, its own headers say where the fields are."""
    path = TracePath(TraceSettings(path='trace', transports=('udp',)), by_headers=True)
    path.configure()
    leaks.note(path._objects.ids)
    try:
        assert any('headers' in note for note in path.notes)
        path.set_rules(traced.rules)
        path.activate()
        port = next(ports)
        send(port, 4)
        wait_until(lambda: path.counters()['passed_no_consumer'] == 4, 'the sends are read')
        (transport, number, _), sums = path.endpoints().popitem()
        assert (transport, number, sums) == ('udp', port, (4, 4))
    finally:
        path.cleanup()
