"""
The long forms of these tests; `scripts/fuzz` sets up and runs it.

Fuzz targets run under atheris (libFuzzer), each in a process of its own, and keep what they find
in a folder: inputs that reach new code in NAME/found, and the one that failed in NAME/crash-*.
"""

import argparse
from contextlib import ExitStack
import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from ipc_bypass.bench.signals import unwinding  # noqa: E402
from ipc_bypass.kernel.bpffs import MOUNT_POINT  # noqa: E402
from ipc_bypass.kernel.headers import cache_folder  # noqa: E402
from mutations import targets  # noqa: E402
from support.leaks import PIN_PREFIX  # noqa: E402


def main():
    """Run what is asked for, one after the other; return 0, or 1 where something failed."""
    parser = argparse.ArgumentParser(prog='scripts/fuzz', description=__doc__.splitlines()[1])
    parser.add_argument('names', nargs='*', metavar='NAME', help='targets (default: all)')
    parser.add_argument('--list', action='store_true', help='print the names of the targets')
    parser.add_argument('--seconds', type=int, default=600, help='for each target (default: 600)')
    parser.add_argument('--folder', type=Path, default=cache_folder() / 'fuzz',
                        help='where found inputs are kept (default: %(default)s)')
    parser.add_argument('--programs', action='store_true', help='run programs on mutated packets '
                        'by PROG_TEST_RUN instead')
    parser.add_argument('--packets', type=int, default=1_000_000,
                        help='for each program (default: %(default)s)')
    parser.add_argument('--streams', action='store_true',
                        help='hold random conversations on accelerated connections instead')
    parser.add_argument('--floods', action='store_true', help='flood enrolled ports, in a network '
                        'namespace, instead: 20,000 connections, 50,000 opened and closed')
    args = parser.parse_args()
    if args.list:
        print('\n'.join(targets()))
        return 0
    if args.programs:
        return _run('programs.py', args.packets, *args.names)
    if args.streams:
        return _run('stream_lab.py', args.seconds)
    if args.floods:
        return _run('flood_lab.py')
    if importlib.util.find_spec('atheris') is None:
        print(f'fuzz: atheris is missing: {sys.executable} -m pip install atheris',
              file=sys.stderr)
        return 1
    unknown = {*args.names} - {*targets()}
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}: see --list")
    failed = [name for name in args.names or targets()
              if _run('run_target.py', name, args.seconds, args.folder / name)]
    print(f"failed: {', '.join(failed)}; see {args.folder}" if failed else 'nothing failed')
    return int(bool(failed))


def _run(script, *words):
    # libFuzzer ends its process without what Python does at the end.
    pins = f'{MOUNT_POINT}/{PIN_PREFIX}{os.getpid()}_fuzz'
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix='ipc_bypass_fuzz_'))
        stack.callback(shutil.rmtree, pins, ignore_errors=True)
        return subprocess.run(
            [sys.executable, str(HERE / script), *map(str, words)], check=False,
            env={**os.environ, 'ROS_DOMAIN_ID': '114', 'TMPDIR': temporary,
                 'IPC_BYPASS_FUZZ_PINS': pins}).returncode


if __name__ == '__main__':
    with unwinding():
        sys.exit(main())
