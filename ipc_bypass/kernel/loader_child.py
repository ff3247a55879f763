"""Run `ipc_bypass.kernel.loader_worker` once: its interpreter, its answer, its end."""

from __future__ import annotations

from array import array
import errno
import importlib.util
import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys

from ipc_bypass.kernel.errors import LoaderError, UnsupportedError

_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
_SYSTEM_PYTHON = '/usr/bin/python3'
# SCM_MAX_FD of the kernel: no message carries more descriptors.
_MOST_DESCRIPTORS = 253


def run_worker(request: dict, tree: Path, name: str, timeout: float,
               ) -> tuple[dict, list[int], str]:
    """
    Run the child once.

    :param request: what `loader_worker` takes
    :param tree: kernel headers, for BCC
    :param name: the program file's name, for errors
    :param timeout: seconds until the child is given up
    :returns: the answer, the descriptors that came with it, and what the compiler printed
    :raises LoaderError: when it hangs or dies
    """
    ours, theirs = socket.socketpair()
    answer_fd, output_fd = (os.memfd_create(label) for label in ('answer', 'output'))
    child = None
    try:
        with theirs:
            child = _start(tree, theirs.fileno(), answer_fd, output_fd)
        ours.settimeout(timeout)
        try:
            ours.sendall(json.dumps(request).encode() + b'\n')
            done, descriptors = _receive(ours)
        except TimeoutError:
            raise LoaderError(f'compile and load {name}',
                              f'the loader gave no answer in {timeout:g} s', errno=errno.ETIMEDOUT,
                              next_step='try again when the machine is less busy',
                              log=_contents(output_fd)) from None
        except ConnectionError:
            done = b''
        if not done:
            raise _death(child, name, _contents(output_fd))
        return json.loads(_contents(answer_fd)), descriptors, _contents(output_fd)
    finally:
        ours.close()
        if child is not None:
            # What it had to say is said; its own end may take BCC a while.
            child.kill()
            child.wait()
        os.close(answer_fd)
        os.close(output_fd)


def find_worker_python() -> str:
    """
    Return the interpreter that can import BCC, this process's own before the system's.

    :raises UnsupportedError: when none can
    """
    spec = importlib.util.find_spec('bcc')
    # There is another package of that name, which has no libbcc.
    if spec and any(os.path.exists(os.path.join(place, 'libbcc.py'))
                    for place in spec.submodule_search_locations or ()):
        return sys.executable
    places = [Path('/usr/lib/python3/dist-packages'),
              *(place for folder in ('/usr/lib', '/usr/lib64')
                for place in Path(folder).glob('python3*/site-packages'))]
    if os.access(_SYSTEM_PYTHON, os.X_OK) and any((place / 'bcc/libbcc.py').exists()
                                                  for place in places):
        return _SYSTEM_PYTHON
    raise no_bcc('it is not installed')


def no_bcc(reason: str) -> UnsupportedError:
    """Return the error for a missing BCC."""
    return UnsupportedError('load the BPF compiler (bcc)', reason,
                            next_step='apt-get install python3-bpfcc (Fedora: python3-bcc)')


def _start(tree: Path, channel: int, answer: int, output: int) -> subprocess.Popen:
    """Start the child with these descriptors."""
    python = find_worker_python()
    paths = [str(_PACKAGE_FOLDER), os.environ.get('PYTHONPATH', '')]
    environment = dict(os.environ, BCC_KERNEL_SOURCE=str(tree),
                       PYTHONPATH=os.pathsep.join(path for path in paths if path))
    if python != sys.executable:
        environment.pop('PYTHONHOME', None)
    return subprocess.Popen(
        [python, '-m', 'ipc_bypass.kernel.loader_worker', str(channel), str(answer)],
        pass_fds=(channel, answer), env=environment, stdin=subprocess.DEVNULL, stdout=output,
        # Python looks for modules in the working folder, which may be anybody's.
        stderr=output, cwd=_PACKAGE_FOLDER)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Return a byte and the descriptors that came with it, closed on exec."""
    # socket.recv_fds() does not pass its flags on.
    descriptors = array('i')
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * descriptors.itemsize)
    data, ancillary, _, _ = channel.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[:len(content) - len(content) % descriptors.itemsize])
    return data, list(descriptors)


def _contents(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode('utf-8', 'replace')


def _death(child: subprocess.Popen, name: str, output: str) -> LoaderError:
    """Return the error for a child that ended without an answer."""
    what, code = f'compile and load {name}', child.wait()
    if code >= 0:
        last = next((line for line in reversed(output.splitlines()) if line.strip()), '')
        return LoaderError(what, f'the loader ended with exit code {code}: {last}', log=output)
    return LoaderError(what, f'the loader was killed by {signal.Signals(-code).name}', log=output,
                       next_step='look for memory limits: it takes about 200 MB'
                       if -code == signal.SIGKILL else '')
