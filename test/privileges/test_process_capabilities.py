"""Real processes with all, some and none of the capabilities: what each does without."""

import contextlib
import ctypes
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

from ipc_bypass.kernel.capabilities import BITS
from ipc_bypass.kernel.capability_sets import permitted
from ipc_bypass.nodes.privileges import _WORKING, FILES, USED
from node_tools import attached, inside, new_name, write_parameters
import pytest
from support.waiting import PATIENCE, wait_until
from test_systemd import Ends
from unit_tools import limited

THREE = ('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')
_AT_SECURE = 23  # uapi/linux/auxvec.h
_ASK = ('import ctypes, os; print(ctypes.CDLL(None).getauxval(23), '
        "os.environ.get('LD_LIBRARY_PATH', 'gone'))")


def mask(names):
    return sum(1 << BITS[name] for name in names)


def capabilities(pid):
    """Return {thread's id: (its name, permitted, effective)}, those masks."""
    found = {}
    for place in Path(f'/proc/{pid}/task').iterdir():
        with contextlib.suppress(FileNotFoundError):
            text = (place / 'status').read_text()
            found[int(place.name)] = ((place / 'comm').read_text().strip(), *(
                int(re.search(rf'^Cap{kind}:\s+(\w+)', text, re.MULTILINE)[1], 16)
                for kind in ('Prm', 'Eff')))
    return found


@contextlib.contextmanager
def up(home, cgroup, folder, prefix, rules, **parameters):
    """Yield (process, its output so far, its name) of `ipc-bypass up`."""
    name, log = new_name(), folder / f'{len(list(folder.iterdir()))}.log'
    written = write_parameters(home.path, {
        'rules': rules, 'cgroup_path': str(cgroup), 'pin_directory': '',
        'udp_path': 'loopback', **parameters})
    with open(log, 'w') as stream, subprocess.Popen(
            [*inside(cgroup), *prefix, sys.executable, '-m', 'ipc_bypass.cli.main', 'up',
             '--params-file', str(written), '--ros-args', '-r',
             f"__ns:={name.rpartition('/')[0]}"],
            stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **home.environment()}) as process:
        try:
            yield process, log.read_text, name
        finally:
            process.kill()


class Case:
    """A node with its rights, in a cgroup of its own, and a connection that is older than it."""

    def __init__(self, stack, home, cgroup, port, folder, missing):
        """Start all of it; `missing` are the capabilities that are taken away, None: root."""
        self.missing, self.port = missing, port
        self.granted = [name for name in THREE if name not in (missing or ())]
        self.prefix = () if missing is None else limited(self.granted)
        self.cgroup = cgroup / f'case_{port}'
        self.cgroup.mkdir(mode=0o755)
        stack.callback(self._remove_cgroup)
        self.before = stack.enter_context(Ends(self.cgroup, port))
        self.process, self.output, self.name = stack.enter_context(up(
            home, self.cgroup, folder, self.prefix, [f'tcp:{port}-{port + 1}']))

    def _remove_cgroup(self):
        def removed():
            with contextlib.suppress(OSError):
                self.cgroup.rmdir()
            return not self.cgroup.exists()
        wait_until(removed, f'{self.cgroup} is left')

    def active(self):
        """Return whether the node is active, on whatever path."""
        assert self.process.poll() is None, self.output()
        return 'active: tcp by' in self.output()

    def check_output(self):
        """Assert that it redirects, or says in one line what to add."""
        output = self.output()
        assert len(attached(self.cgroup)) == (not self.missing), output
        warnings = [line for line in output.splitlines() if line.startswith('[WARN]')]
        if self.missing:
            line, = warnings
            assert 'TCP stays on loopback' in line and 'AmbientCapabilities' in line
            assert all(capability in line.partition('run with sudo')[2]
                       for capability in self.missing)
        else:
            assert 'active: tcp by sk_msg' in output and warnings == [], output
        assert 'Traceback' not in output and '[ERROR]' not in output, output


def test_nodes(cgroup, home, ports, tmp_path):
    """
    Root (None), an ordinary user with the three, without one of them, and without any.

    Without one the node says in one line what to add and stays, and no byte of a connection on
    an enrolled port is lost, one that was open before included. They start at once.
    """
    cgroup.chmod(0o755)  # as the root of the hierarchy is
    with contextlib.ExitStack() as stack:
        cases = []
        for missing in (None, (), *((each,) for each in THREE), THREE):
            port = next(ports)
            next(ports)
            cases.append(Case(stack, home, cgroup, port, tmp_path, missing))
        for case in cases:
            case.before.exchange(1)
            wait_until(case.active, f'without {case.missing} it is active', 6 * PATIENCE)
        for case in cases:
            with Ends(case.cgroup, case.port + 1) as after:
                for ends in (case.before, after):
                    ends.exchange(5)
            case.check_output()
            check_threads(capabilities(case.process.pid), case.granted, case.missing is None)
        _commands_work(home, cases[-1].prefix, cases[-1].name)
        for case in cases:
            case.process.send_signal(signal.SIGTERM)
        for case in cases:
            assert case.process.wait(2 * PATIENCE) == 0, case.output()
            assert attached(case.cgroup) == []
            case.before.exchange(1)


def _commands_work(home, prefix, name):
    """`doctor` and `status` answer without a capability."""
    for words, codes in ((('doctor', '--json', '--no-graph'), (0, 1)),
                         (('status', '--json', '--node', name), (0,))):
        done = subprocess.run(
            [*prefix, sys.executable, '-m', 'ipc_bypass.cli.main', *words], text=True,
            capture_output=True, timeout=4 * PATIENCE, env={**os.environ, **home.environment()})
        assert done.returncode in codes, done.stderr
        said = json.loads(done.stdout)
    assert [path['name'] for path in said['paths'] if path['selected']] == ['loopback'] * 2


def check_threads(found, granted, root):
    """Assert that threads of DDS have nothing, and the others no more than the node uses."""
    dds = [each for each in found.values() if each[0].startswith('dds.')]
    assert dds
    if root:
        assert {each[1] for each in dds} == {mask(FILES)}
        # udp_path might change, so that CAP_NET_RAW is kept.
        limits = mask(USED['ipc_bypass'] & permitted())
        # But for what libraries started before Python was there to say anything.
        ours = [each for each in found.values() if not each[1] & ~limits]
        assert len(found) - len(ours) <= 4, found
        assert mask(_WORKING['ipc_bypass'] & permitted()) in {each[2] for each in ours}
    else:
        assert all(each[1] == 0 for each in dds), found
        assert all(not each[1] & ~mask(granted) for each in found.values())
        assert any(each[1] == mask(granted) for each in found.values())


def test_states(start):
    """What is effective follows the state; what may not be used any more is gone."""
    node = start(tcp_path='loopback', pin_directory='', runtime_parameters=['rules'])
    used = mask(USED['ipc_bypass'] & permitted() - {'CAP_NET_RAW'})
    at_work = mask(_WORKING['ipc_bypass'] & permitted())

    def effective():
        return {each[2] for each in capabilities(node.process.pid).values() if each[1] == used}
    assert node.state() == 'unconfigured'
    assert effective() == {mask(FILES)}
    for transition, working in (('configure', True), ('activate', True), ('deactivate', True),
                                ('cleanup', False), ('configure', True)):
        assert node.change(transition), node.output()
        expected = at_work if working else mask(FILES)
        # The answer of a transition comes before the thread that answered lets go.
        wait_until(lambda: expected in effective()  # noqa: B023 - called at once
                   and (working or used not in effective()), transition)  # noqa: B023


def test_ambient_capabilities_leave_the_loader_alone(privileged):
    """LD_LIBRARY_PATH counts, as the middleware needs it."""
    done = subprocess.run([*limited(THREE), sys.executable, '-S', '-E', '-c', _ASK],
                          env={'LD_LIBRARY_PATH': '/somewhere'}, capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.stdout.split() == ['0', '/somewhere'], done.stderr
    assert ctypes.CDLL(None).getauxval(_AT_SECURE) == 0


def test_file_capabilities_do_not(privileged, folder):
    """They are not a way to run this: LD_LIBRARY_PATH is gone."""
    python = folder / 'python3'
    shutil.copy(os.path.realpath('/usr/bin/python3'), python)
    if subprocess.run(['setcap', 'cap_net_admin+ep', str(python)]).returncode:
        pytest.skip('the file system has no file capabilities')
    done = subprocess.run(
        ['setpriv', '--reuid', 'nobody', '--regid', 'nogroup', '--clear-groups', str(python),
         '-S', '-E', '-c', _ASK], capture_output=True, text=True, timeout=PATIENCE,
        env={'LD_LIBRARY_PATH': '/somewhere', 'PYTHONHOME': '/usr'})
    assert done.stdout.split() == ['1', 'gone'], done.stderr
