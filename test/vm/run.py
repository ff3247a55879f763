"""Run a command on another kernel: `run.py [--kernel VERSION] [--timeout SECONDS] COMMAND...`."""

import argparse
from pathlib import Path
import sys
import tempfile

# For `vm` and `ipc_bypass`, from any folder.
sys.path[:1] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from ipc_bypass.bench.signals import unwinding  # noqa: E402

from vm import kernel, machine  # noqa: E402


def main():
    """Run it, print what it printed, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kernel', choices=kernel.RELEASES, default='6.1')
    parser.add_argument('--timeout', type=float, default=900.0, help='seconds')
    parser.add_argument('command', nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    lacking = machine.missing()
    if lacking or not arguments.command:
        parser.error('missing: ' + ', '.join(lacking or ['a command']))
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_exchange_') as folder:
        result = machine.run(arguments.command, exchange=folder,
                             version=arguments.kernel, timeout=arguments.timeout,
                             live=sys.stdout.buffer)
    if result.status is None:
        print(result.console, file=sys.stderr)
        return 1
    return result.status


if __name__ == '__main__':
    with unwinding():  # or the machine would go on by itself
        sys.exit(main())
