"""`python3 -m ipc_bypass.prebuilt`: compile the programs into the folder beside their sources."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import platform
import sys
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.headers import find_headers
from ipc_bypass.kernel.loader import read_source
from ipc_bypass.kernel.prebuilt_files import (
    prebuilt_folder,
    prebuilt_name,
    write_prebuilt,
    write_stamp,
)
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.prebuilt.catalogue import entries, POOLS
from ipc_bypass.prebuilt.compiling import compile_prebuilt
from ipc_bypass.prebuilt.cross import cross_headers

# The kernel's name of the machine, for BCC, by that of uname(2).
_ARCH = {'x86_64': 'x86', 'aarch64': 'arm64'}


def main(arguments: list[str] | None = None) -> int:
    """Compile; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog='python3 -m ipc_bypass.prebuilt', description='Compile the kernel programs, so that '
        'a machine needs neither BCC nor kernel headers. Takes CAP_BPF and CAP_NET_ADMIN, for '
        'BCC makes maps while it compiles.')
    parser.add_argument('--machine', choices=sorted(_ARCH), default=platform.machine(),
                        help='kind of machine that the programs are for (default: this one)')
    parser.add_argument('--headers', type=Path, metavar='DIR',
                        help="kernel headers for that machine, Debian's folder "
                        'linux-headers-*-arm64; needed for another machine than this one')
    parser.add_argument('--output', type=Path, metavar='DIR',
                        help='folder for the files (default: prebuilt/MACHINE beside bpf/)')
    parser.add_argument('--pool', action='append', default=[], metavar='BYTES:CONSUMERS',
                        help='a pool_size and max_consumers of the node that shall be served '
                        'beside the defaults; may be given again')
    parser.add_argument('--only', default='', metavar='TEXT',
                        help='compile only the sources whose name contains this')
    args = parser.parse_args(arguments)
    try:
        pools = [*POOLS, *(tuple(map(int, text.split(':'))) for text in args.pool)]
    except ValueError:
        parser.error('--pool takes BYTES:CONSUMERS, as 67108864:8')
    try:
        build(args.machine, args.headers, args.output or prebuilt_folder(args.machine), pools,
              args.only)
    except BypassError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def build(machine: str, headers: Path | None, output: Path, pools, only: str = '') -> None:
    """
    Compile every entry of the catalogue, and drop what is not in it any more.

    :raises BypassError: when something does not compile
    """
    if machine == platform.machine() and headers is None:
        tree = find_headers()
    else:
        tree = cross_headers(headers, _ARCH[machine])
        os.environ['ARCH'] = _ARCH[machine]  # read by BCC, in the compiler's own process
    output.mkdir(parents=True, exist_ok=True)
    wanted, start = {}, time.monotonic()
    for entry in entries(machine, pools):
        source = bpf_source(entry.source)
        wanted.setdefault(prebuilt_name(source, read_source(source), entry.definitions),
                          (source, entry))
    for name, (source, entry) in wanted.items():
        if only in source.name:
            write_prebuilt(output / name, compile_prebuilt(source, entry.definitions,
                                                           entry.programs, tree))
    for path in output.glob('*.json'):
        if path.name not in wanted:
            path.unlink()
    if all((output / name).exists() for name in wanted):
        write_stamp(output)
    print(f'{len(wanted)} programs for {machine} in {output}, '
          f'{sum(path.stat().st_size for path in output.glob("*.json")) >> 10} KiB, '
          f'in {time.monotonic() - start:.0f} s')


if __name__ == '__main__':
    sys.exit(main())
