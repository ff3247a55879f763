"""The kernel programs, compiled on the host for the machines: there a compiler takes minutes."""

import fcntl
from pathlib import Path
import platform
import subprocess
import sys

from ipc_bypass.kernel.headers import cache_folder, find_headers
from ipc_bypass.kernel.loader import read_source
from ipc_bypass.kernel.prebuilt_files import prebuilt_name, write_prebuilt
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.prebuilt.catalogue import entries, POOLS
from ipc_bypass.prebuilt.compiling import compile_prebuilt

#: The pool of the tests of the UDP path (test/udp/conftest.py).
_POOLS = (*POOLS, (8 << 20, POOLS[0][1]))


def prepared(*, idle=False):
    """
    Return a folder to stand beside bpf/ as `prebuilt`; what has not changed is not made again.

    :param idle: compile with what processor time nobody else wants
    :raises BypassError: when something does not compile
    :raises subprocess.SubprocessError: the same, with `idle`
    """
    if idle:
        root = Path(__file__).resolve().parents[2]
        subprocess.run(['chrt', '--idle', '0', sys.executable, '-m', 'vm.programs'], check=True,
                       cwd=root / 'test', stdin=subprocess.DEVNULL, capture_output=True)
    folder, machine = cache_folder() / 'machine_programs', platform.machine()
    place = folder / machine
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = set()
        for entry in entries(machine, _POOLS):
            path = file_of(entry, folder)
            if path.name not in kept and not path.exists():
                write_prebuilt(path, compile_prebuilt(bpf_source(entry.source), entry.definitions,
                                                      entry.programs, find_headers()))
            kept.add(path.name)
        for path in place.glob('*.json'):
            if path.name not in kept:
                path.unlink()
    return folder


def file_of(entry, folder):
    """Return the path of an Entry's file in a folder that `prepared` returned."""
    source = bpf_source(entry.source)
    name = prebuilt_name(source, read_source(source), entry.definitions)
    return folder / platform.machine() / name


if __name__ == '__main__':
    prepared()
