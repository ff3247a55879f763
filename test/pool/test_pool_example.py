"""The example of docs/pool.md, run as it stands there."""

from pathlib import Path
import re
import subprocess
import sys
import threading

from ipc_bypass.pool import channel, layout
import pytest
from support.waiting import PATIENCE

DOCUMENT = Path(__file__).resolve().parents[2] / 'docs' / 'pool.md'


@pytest.fixture
def example():
    """Return the program of the document."""
    found = re.search(r'```python\n(.*?)```', DOCUMENT.read_text(), re.DOTALL)[1]
    assert len(found.splitlines()) <= 15
    return found


def test_it_runs(pool, ports, example):
    """Its port is ours here, and so is the socket, which nobody would name in an example."""
    assert example.count("['udp:7411']") == 1
    example = example.replace('7411', str(ports[0]))
    run = f'from ipc_bypass.pool import consumer\n' \
          f"consumer.Consumer.__init__.__kwdefaults__['control'] = {pool.control!r}\n{example}"
    process = subprocess.Popen([sys.executable, '-c', run], stdout=subprocess.PIPE, text=True)
    stop = threading.Event()

    def send():
        pool.wait_for_leases(1)
        for number in range(40):
            pool.send(ports[0], b'half' if number % 2 else b'rest of it')
            stop.wait(0.001)

    sender = threading.Thread(target=send)
    sender.start()
    said = process.communicate(timeout=PATIENCE)[0]
    sender.join()
    lines = sorted(re.fullmatch(r'(\d+) datagrams of process \d+ begin with (.*)', line).groups()
                   for line in said.splitlines())
    assert lines == [('20', "b'half'"), ('20', "b'rest'")]
    assert channel.DEFAULT_SOCKET.startswith('/run/')


def test_the_table(example):
    """Sizes in the document are those of the layout."""
    text = DOCUMENT.read_text()
    for part, size in (('pool_header', layout.HEADER.itemsize), ('small_slots', layout.SLOT[0]),
                       ('large_slots', layout.SLOT[1]), ('released', 8),
                       ('rings', layout.RING.itemsize),
                       ('descriptors', layout.DESCRIPTOR.itemsize)):
        assert re.search(rf'^\| `{part}` \|[^|]*\| {size:,} \|', text, re.MULTILINE), part
