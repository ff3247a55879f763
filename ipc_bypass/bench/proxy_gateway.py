"""
The gateway under test, in a process of its own: `ipc-bypass proxy run`, and what came of it.

    python3 -m ipc_bypass.bench.proxy_gateway KERNEL_PATH FORWARD...

Prints `ready` when it listens, and a line of JSON at each SIGUSR1 and at SIGTERM, which ends it.
"""

from __future__ import annotations

from collections import Counter
import json
import os
import signal
import sys

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.proxy.helper import ProxyHelper, ProxySettings
from ipc_bypass.proxy.status import ProxyReport


def summary(report: ProxyReport) -> dict:
    """Return {'remote', 'reasons', 'ended', 'fallbacks'}; `ended` are connections by path."""
    counters, found = report.counters, {'ended': Counter(), 'fallback': Counter()}
    for name, count in counters.items():
        kind, _, rest = name.partition('_')
        if kind in found:
            found[kind][rest] += count
    return {'remote': report.remote, 'reasons': report.reasons, 'ended': found['ended'],
            'fallbacks': found['fallback']}


def main(arguments: list[str]) -> None:
    """Forward until SIGTERM."""
    kernel_path, *forwards = arguments
    helper = ProxyHelper(ProxySettings(forwards=tuple(forwards), kernel_path=kernel_path))
    # A signal just before a call that blocks does not end that call, but a byte is there then.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    try:
        helper.configure()
        helper.activate()
        print('ready', flush=True)
        number = 0
        while number != signal.SIGTERM:
            number, = os.read(reading, 1)
            print(json.dumps(summary(helper.report())), flush=True)
    finally:
        helper.close()


if __name__ == '__main__':
    try:
        main(sys.argv[1:])
    except BypassError as error:
        sys.exit(str(error))
