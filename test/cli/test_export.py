"""`ipc-bypass export` beside real nodes: figures, a node that is killed, a port that is taken."""

import json
from pathlib import Path
import signal
import subprocess
import sys
import time
import urllib.request

from node_tools import inside
from prometheus_client.parser import text_string_to_metric_families
import pytest
from support.processes import Script
from support.streams import listening
from support.waiting import PATIENCE, wait_until

#: What the kernel calls the processes of these tests.
COMM = Path(sys.executable).name[:15]
COMMAND = (sys.executable, '-m', 'ipc_bypass.cli.main', 'export')
PROCESS = str(Path(__file__).resolve().parents[1] / 'nodes' / 'connection_process.py')
#: Also where the machine is busy.
STALE_AFTER = '3'


@pytest.fixture
def export():
    """Return a function that starts the command, and returns (process, its samples)."""
    processes = []

    def started(*words):
        process = subprocess.Popen([*COMMAND, '--port', '0', '--json', *words],
                                   stdout=subprocess.PIPE, text=True)
        processes.append(process)
        where = json.loads(process.stdout.readline())
        assert where['address'] == '127.0.0.1'

        def samples():
            with urllib.request.urlopen(f"http://127.0.0.1:{where['port']}/metrics",
                                        timeout=PATIENCE) as answer:
                text = answer.read().decode()
            return {(sample.name.removeprefix('ipc_bypass_'),
                     tuple(value for _, value in sorted(sample.labels.items()))): sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples}
        return process, samples
    yield started
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_node_that_is_killed(start, cgroup, ports, export):
    port = next(ports)
    # Without pins: what is killed leaves them.
    node = start(rules=[f'tcp:{port}'], statistics_period_s=0.2, pin_directory='')
    process, samples = export('--node', node.name, '--stale-after', STALE_AFTER)
    # Whether it has heard of the node yet or not.
    assert {(name, ()) for name in ('up', 'xdp_up', 'proxy_up')} <= set(samples())
    node.bring_up()
    with Script(PROCESS, prefix=inside(cgroup)) as connections:
        number = connections.ask('connect', port)

        def sent():
            connections.ask('send', number, 'client', 1000, 10)
            time.sleep(0.2)
            found = samples()
            flows = {labels: value for (name, labels), value in found.items()
                     if name == 'flow_bytes_total' and value}
            return found if flows else None
        found = wait_until(sent, 'flows are counted')
        assert found['up', ()] == 1 and found['node_state', ('active',)] == 1
        assert found['path_selected', ('sk_msg', 'tcp')] == 1
        assert found['bytes_total', ('redirected',)] >= 10_000
        assert found['flows', ('redirected',)] == 2
        labels, = {labels for name, labels in found if name == 'flow_connections'}
        assert labels == (str(port), COMM, COMM)
        assert found['flow_connections', labels] == 2
    node.end(signal.SIGKILL)
    gone = {('up', ()): 0, ('xdp_up', ()): 0, ('proxy_up', ()): 0}
    wait_until(lambda: samples() == gone, 'the node counts as gone', interval=0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


def test_helper(start_sockmap, export, forward):
    port, text = forward
    node = start_sockmap(forwards=[text], kernel_path='never')
    _, samples = export('--proxy-node', node.name, '--node', '/n7_nobody')
    node.bring_up()
    found = wait_until(lambda: samples() if samples().get(('proxy_up', ())) else None, 'it is up')
    wait_until(lambda: ('proxy_backend_up', ('1',)) in {
        (name, labels[1:2]) for name, labels in samples()}, 'the forward is there')
    assert found['up', ()] == 0


def test_one_line(ports):
    port = next(ports)
    with listening('127.0.0.1', port):
        done = subprocess.run([*COMMAND, '--port', str(port)], capture_output=True, text=True,
                              timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, '')
    line, = done.stderr.splitlines()
    assert 'Address already in use' in line and '--port' in line
