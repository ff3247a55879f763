"""A full disk below whatever writes: one clear line, nothing half done, and the next try works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import shutil
import socket
import subprocess
import sys
import tempfile

from fault_lab.lab import Lab
from fault_lab.node import Node
from fault_lab.trial import Trial
from ipc_bypass.kernel.errors import UnsupportedError

_PATIENCE = 240.0


class TinyDisk:
    """A file system that is full, or not; `folder` is its place. A context manager."""

    def __enter__(self) -> TinyDisk:
        self.folder = Path(tempfile.mkdtemp(prefix='ipc_bypass_soak_'))
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k,nr_inodes=12,mode=700',
                               'ipcb', str(self.folder)], capture_output=True, text=True,
                              check=False)
        if done.returncode:
            self.folder.rmdir()
            raise UnsupportedError('mount a tmpfs', done.stderr, next_step='run as root')
        return self

    def __exit__(self, *_exception) -> None:
        subprocess.run(['umount', '-l', str(self.folder)], check=True)
        self.folder.rmdir()

    @contextmanager
    def full(self) -> Iterator[None]:
        """Have no room, neither for a byte nor for a name."""
        filler, number = self.folder / 'filler', 0
        with open(filler, 'wb', buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                pass
        names = []
        try:
            while True:
                path = self.folder / f'name{number}'
                path.touch()
                names.append(path)
                number += 1
        except OSError:
            pass
        try:
            yield
        finally:
            filler.unlink()
            for path in names:
                path.unlink()

    def grow(self) -> None:
        """Have room from now on."""
        subprocess.run(['mount', '-o', 'remount,size=64m,nr_inodes=100000', str(self.folder)],
                       check=True)


def configure(lab: Lab, trial: Trial) -> None:
    """Configure with the cache and the control socket on a full disk, then with room."""
    with TinyDisk() as disk:
        node = lab.node(
            environment={'XDG_CACHE_HOME': str(disk.folder)},
            udp_path='cgroup_skb', pool_size=4 << 20,
            control_socket=str(disk.folder / 'pool.sock'))
        with disk.full():
            went = node.change('configure')
            said = node.errors()
        _one_line(trial, went, said, 'configure')
        if any(node.held().values()) or lab.attached():
            trial.problems.append(f'it holds {node.held()}')
        disk.grow()
        lab.bring_up(node)
        lab.note(node)
        if node.end():
            trial.problems.append('it ended with an error')


def log_folder(lab: Lab, trial: Trial) -> None:
    """
    Fill the disk of ROS's log files up: the node works all the same.

    Where it is full at the start, rcl itself does not begin, and says so in one line.
    """
    with TinyDisk() as disk:
        node = lab.node(environment={'ROS_LOG_DIR': str(disk.folder)})
        node.ask('state')
        with disk.full():
            _works(lab, trial, node)


def _works(lab: Lab, trial: Trial, node: Node) -> None:
    lab.bring_up(node)
    streams = lab.streams()
    trial.add(streams.wait())
    trial.add(streams.finish())
    if node.end():
        trial.problems.append('it ended with an error')


def record(lab: Lab, trial: Trial) -> None:
    """Fill the disk up while `ipc-bypass record` writes: it says so; the node goes on."""
    control, port = str(lab.folder / 'record.sock'), lab.port()
    node = lab.active(udp_path='cgroup_skb', pool_size=4 << 20, control_socket=control,
                      rules=[f'udp:{port}:mirror'])
    with TinyDisk() as disk, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reader:
        reader.bind(('127.0.0.1', port))
        recorder = subprocess.Popen(
            [*_command('record'), str(disk.folder / 'traffic.pcapng'), '--control', control],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True)
        sender = subprocess.Popen(
            [*lab.inside(), sys.executable, '-c', _SENDER, str(port)], stdin=subprocess.DEVNULL)
        try:
            _, said = recorder.communicate(timeout=_PATIENCE)
        finally:
            for process in (recorder, sender):
                process.kill()
                process.wait()
        _one_line(trial, not recorder.returncode, said.splitlines(), 'record')
    if node.ask('state') != 'active' or node.end():
        trial.problems.append('the node did not go on')


_SENDER = """
import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + 60
while time.monotonic() < end:
    sender.sendto(bytes(8000), ('127.0.0.1', int(sys.argv[1])))
    time.sleep(0.002)
"""


def profile(_lab: Lab, trial: Trial) -> None:
    """`ipc-bypass profile` on a full disk: one line, and no half of a profile."""
    with TinyDisk() as disk:
        where = disk.folder / 'profile'
        with disk.full():
            done = _run('profile', 'fastdds', '--output', str(where))
        _one_line(trial, not done.returncode, done.stderr.splitlines(), 'profile')
        if where.exists() and any(where.iterdir()):
            trial.problems.append(f'left: {sorted(path.name for path in where.iterdir())}')
        shutil.rmtree(where, ignore_errors=True)
        disk.grow()
        done = _run('profile', 'fastdds', '--output', str(where))
        if done.returncode:
            trial.problems.append(f'with room: {done.stderr}')


def _run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(_command(*words), capture_output=True, text=True, check=False,
                          timeout=_PATIENCE)


def _command(*words: str) -> list[str]:
    return [sys.executable, '-m', 'ipc_bypass.cli.main', *words]


def _one_line(trial: Trial, went: bool, said: list[str], what: str) -> None:
    """See that something failed, and said in one line that there is no space."""
    trial.told = said[0].split(': ', 1)[-1] if said else ''
    if went:
        trial.problems.append(f'{what} worked on a full disk')
    elif len(said) != 1 or 'No space left on device' not in said[0] \
            or 'a fault in ipc_bypass' in said[0]:
        trial.problems.append(f'{what} said {said}')


FAULTS = {'disk full at configure': configure, 'disk full for logs': log_folder,
          'disk full while recording': record, 'disk full for a profile': profile}
