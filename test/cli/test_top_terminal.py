"""`ipc-bypass top` in a terminal, and without one, beside a real node with real flows."""

import json
from pathlib import Path
import signal
import sys
import threading

from ipc_bypass_interfaces.srv import ListRules
from node_tools import inside, NodeProcess
import pytest
from support.ports import PortBlock
from support.processes import Script
from support.waiting import wait_until
from terminal import Terminal

#: What the kernel calls the processes of these tests.
COMM = Path(sys.executable).name[:15]
COMMAND = (sys.executable, '-m', 'ipc_bypass.cli.main', 'top')
PROCESS = str(Path(__file__).resolve().parents[1] / 'nodes' / 'connection_process.py')


class Traffic:
    """Two connections on one port: one with traffic all the time, one that is idle."""

    def __init__(self, process, port):
        """Open them."""
        self._process, self._asking, self._end = process, threading.Lock(), threading.Event()
        busy, idle = self.ask('connect', port), self.ask('connect', port)
        self.ask('send', idle, 'client', 100, 1)
        self._thread = threading.Thread(target=self._run, args=(busy,))
        self._thread.start()

    def ask(self, *words):
        """Have the process do something, while the traffic goes on."""
        with self._asking:
            return self._process.ask(*words)

    def _run(self, busy):
        while not self._end.wait(0.05):
            self.ask('send', busy, 'client', 10_000, 10)

    def close(self):
        """Send no more."""
        self._end.set()
        self._thread.join()


@pytest.fixture(scope='module')
def node(client, module_cgroup, tmp_path_factory):
    """Yield an active node with `traffic`; `port` is enrolled, `other` is not."""
    ports = PortBlock()
    parameters = {'rules': [f'tcp:{ports.first}'], 'statistics_period_s': 0.3,
                  'tcp_path': 'sk_msg', 'cgroup_path': str(module_cgroup), 'pin_directory': ''}
    with NodeProcess(client, tmp_path_factory.mktemp('top'), parameters,
                     prefix=inside(module_cgroup)) as made:
        made.port, made.other = ports.first, ports.first + 1
        made.bring_up()
        with Script(PROCESS, prefix=inside(module_cgroup)) as process:
            made.traffic = Traffic(process, made.port)
            try:
                yield made
            finally:
                made.traffic.close()
    ports.close()


def top(node, *words):
    return (*COMMAND, '--node', node.name, *words)


def rules(node):
    """Return the first ports of the node's rules."""
    return [rule.port_first for rule in node.call(ListRules, 'list_rules').rules]


def test_screen(node):
    """80 columns and 24 rows: rows, keys, details, rules, another size, and the end."""
    with Terminal(*top(node)) as terminal:
        text = terminal.see('active', 'tcp by sk_msg', str(node.port), f'{COMM}(', 'B/s▼',
                            'q')
        assert len(text.splitlines()) == 24
        terminal.see('4 flows: 4 redirected')
        terminal.press('s')
        terminal.see('MSG/s▼', 'flows by messages')
        terminal.press('<r')
        terminal.see('B/s▲', 'flows by rate')
        terminal.press('r')
        terminal.press('p')
        terminal.see('COMMAND', 'FAST', '100%')
        terminal.press('p')
        terminal.see('FROM', 'WAY')
        terminal.press('\r')
        terminal.see('queue delay, from queued bytes and rate', 'budget left', 'way      sk_msg',
                     f'port     {node.port}, rule 1', 'samples:')
        terminal.press('\r')
        terminal.see('FROM')
        terminal.press('t')
        terminal.see('redirected only')
        terminal.press('t')
        terminal.see('passed only', 'no flow like that')
        terminal.press('t/nobody')
        terminal.see('filter: nobody_', 'no flow like that')
        terminal.press('\x1b')
        terminal.see('FROM', 'sk_msg')
        terminal.press('e' + '\x7f' * 5 + f'{node.other}\r')
        terminal.see(f'port {node.other} is enrolled')
        assert node.other in rules(node)
        other = node.traffic.ask('connect', node.other)
        terminal.press(f'/:{node.other}\r')
        terminal.see(f"with ':{node.other}'", f'{COMM}(')
        terminal.press('w')
        terminal.see('is withdrawn')
        assert rules(node) == [node.port]
        node.traffic.ask('end', other)
        terminal.see('no flow like that')
        terminal.press('/\x1b')
        terminal.see('flows by rate', 'sk_msg')
        terminal.press('e' + '\x7f' * 5 + '70000\r')
        terminal.see("'70000' is no port from 1 to 65535")
        terminal.press('?')
        terminal.see('withdraw the rule of the chosen flow')
        terminal.press('?')
        terminal.see('FROM')
        terminal.resize(120, 30)
        terminal.see('DELAYS', 'AGE')
        terminal.resize(40, 8)
        terminal.see_no('DELAYS')
        terminal.see('FROM')
        terminal.resize(80, 24)
        terminal.see('WAY')
        node.process.send_signal(signal.SIGSTOP)
        try:
            terminal.see('active, silent for')
        finally:
            node.process.send_signal(signal.SIGCONT)
        terminal.see_no('silent for')
        terminal.press('q')
        assert terminal.end() == (0, True)
        assert 'Traceback' not in terminal.raw


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signals_leave_the_terminal_as_it_was(node, number):
    with Terminal(*top(node), environment={'LC_ALL': 'C'}) as terminal:
        assert terminal.see('active', 'B/sv').isascii()
        terminal.process.send_signal(number)
        assert terminal.end() == (0, True)
        assert 'Traceback' not in terminal.raw


def test_node_that_is_not_configured(start):
    """And a signal, and a terminal that goes, without a signal, as with `setsid`."""
    node = start()
    with Terminal(*top(node), controlling=False) as terminal:
        terminal.see('unconfigured', 'no flow: no connection is open on an enrolled port')
        terminal.hang_up()
        wait_until(lambda: terminal.process.poll() is not None, 'it ends')
        assert terminal.process.returncode == 0


def test_signal_before_the_node_is_there():
    """No traceback of a look at what never came."""
    for words in (('--json',), ()):
        with Terminal(*COMMAND, '--node', '/n7_nobody', *words) as terminal:
            terminal.see_handled(signal.SIGHUP)
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == (0, True)
            assert 'Traceback' not in terminal.raw


def test_dumb_terminal(node):
    with Terminal(*top(node, '--count', '2'), environment={'TERM': 'dumb'}) as terminal:
        assert terminal.end() == (0, True)
        assert '\x1b' not in terminal.raw
        assert terminal.raw.count('FROM') == 2
    with Terminal(*top(node), environment={'TERM': 'no_such_terminal'}) as terminal:
        terminal.see('FROM')
        terminal.press('\x03')
        assert terminal.end()[0] == 0


def test_json_and_tables(node, command):
    def run(*words):
        code, output, errors = command('top', '--node', node.name, *words)
        assert code == 0, errors
        return output
    looks = [json.loads(line) for line in
             run('--json', '--count', '3', '--sort', 'bytes').splitlines()]
    assert len(looks) == 3
    last = looks[-1]
    assert (last['node'], last['state'], last['paths']['tcp']) == (node.name, 'active', 'sk_msg')
    assert [look['stamp'] for look in looks] == sorted({look['stamp'] for look in looks})
    sent = [flow['bytes'] for flow in last['flows']]
    assert len(sent) == 4 and sent == sorted(sent, reverse=True) and sent[1:] == [100, 0, 0]
    busy = last['flows'][0]
    assert busy['rate'] > 0 and busy['messages'] > 0 and busy['port'] == node.port
    assert busy['redirected'] == busy['bytes'] and busy['delay'] is not None
    assert sum(busy['queue_delays_us'].values()) >= 2
    process, = last['processes']
    assert process['flows'] == 8 and process['out_rate'] == process['in_rate'] > 0
    table = run('--once', '--filter', str(node.port), '--processes')
    assert 'COMMAND' in table and COMM in table
    assert COMM not in run('--once', '--filter', 'nobody')


def test_no_node(command):
    code, output, errors = command('top', '--once', '--node', '/n7_nobody', '--timeout', '0.5')
    assert (code, output) == (1, '')
    line, = errors.splitlines()
    assert '/n7_nobody' in line and 'ipc-bypass up' in line
