"""
Run the suites on kernels, and write what came of it to docs/kernel_support.md.

Each kernel has a machine of its own, one after the other, since each keeps the processors busy.
"""

import argparse
from pathlib import Path
import subprocess
import sys
import tempfile

# For `vm`, `support` and `ipc_bypass`, from any folder.
sys.path[:1] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from ipc_bypass.bench.signals import unwinding  # noqa: E402
from ipc_bypass.kernel.errors import BypassError  # noqa: E402

from vm import kernel, machine, matrix, support_page  # noqa: E402
from vm.suites import SUITES  # noqa: E402

_PATIENCE = 3600.0


def main(arguments=None):
    """Run it; return 0 where every kernel does what vm/expected.py says, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('kernels', nargs='*', metavar='KERNEL',
                        help=f"which ({', '.join(kernel.RELEASES)}); all when left out")
    parser.add_argument('--suites', nargs='+', choices=SUITES, default=list(SUITES))
    parser.add_argument('--quick', action='store_true', help='only the few tests that CI runs')
    parser.add_argument('--timeout', type=float, default=_PATIENCE,
                        help='seconds until a machine is given up')
    parser.add_argument('--no-page', action='store_true', help='leave the page as it is')
    args = parser.parse_args(arguments)
    unknown = set(args.kernels) - set(kernel.RELEASES)
    if unknown:
        parser.error(f"there is no kernel {', '.join(sorted(unknown))}: "
                     f"use {', '.join(kernel.RELEASES)}")
    lacking = machine.missing()
    if lacking:
        parser.error('the machines need ' + ', '.join(lacking))
    found = []
    for version in args.kernels or kernel.RELEASES:
        print(f'==> kernel {version}', flush=True)
        with tempfile.TemporaryDirectory(prefix='ipc_bypass_exchange_') as folder:
            try:
                outcome = matrix.run(version, args.suites, folder, quick=args.quick,
                                     timeout=args.timeout, live=sys.stdout.buffer)
            except (kernel.NoKernelError, BypassError, subprocess.SubprocessError) as error:
                found.append(f'{version}: {error}')
                continue
        if not outcome.tests:
            found.append(f'{version}: no test ran\n{outcome.result.console[-3000:]}')
            continue
        if outcome.result.status is None:
            found.append(f'{version}: the machine ended before its tests did\n'
                         f'{outcome.result.console[-6000:]}')
        found += [line for suite in args.suites if matrix.files([suite], quick=args.quick)
                  for line in matrix.faults(outcome, suite)]
        if not args.no_page:
            support_page.update(outcome, quick=args.quick)
    print('\n'.join(found) or 'every kernel does what it should')
    return int(bool(found))


if __name__ == '__main__':
    with unwinding():  # or the machine would go on by itself
        sys.exit(main())
