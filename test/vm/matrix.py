"""Run the suites on a kernel, and judge what came of them."""

from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import re
import shlex
import sys

from vm import machine, programs
from vm.expected import REFUSED
from vm.suites import files

_ROOT = Path(__file__).resolve().parents[2]
_PYTEST = (sys.executable, '-m', 'pytest', '-v', '--tb=short', '-p', 'no:cacheprovider',
           '-p', 'vm.guest')


@dataclass
class Outcome:
    """
    What came of the suites on a kernel.

    `release` is what that kernel calls itself; `tests` are dicts of 'test' (its id), 'suite',
    'outcome' ('passed', 'refused' by the product itself, 'skipped', 'failed', 'not run'),
    'reason', 'seconds' and 'properties'.
    """

    version: str
    result: machine.Result
    release: str = ''
    tests: list[dict] = field(default_factory=list)

    def of(self, suite):
        """Return the tests of a suite."""
        return [entry for entry in self.tests if entry['suite'] == suite]


def run(version, names, folder, *, quick=False, **options):
    """
    Return the Outcome of suites on a kernel.

    :param version: one of kernel.RELEASES
    :param names: of the suites
    :param folder: an empty folder of the host, for results
    :param quick: run the few tests of each that CI has time for
    :param options: those of machine.run: idle, timeout, live, stop
    :raises kernel.NoKernelError: when there is no kernel to boot
    :raises ipc_bypass.kernel.errors.BypassError: when a program does not compile on the host
    """
    folder = Path(folder)
    names = [name for name in names if files([name], quick=quick)]
    compiled = shlex.quote(str(programs.prepared(idle=options.get('idle', False))))
    script = (f'uname -r >/exchange/release; mkdir -p prebuilt; mount --bind {compiled} prebuilt; '
              'exec "$@"')
    paths = os.pathsep.join([str(_ROOT), str(_ROOT / 'test'), os.environ.get('PYTHONPATH', '')])
    # Not CI there: which skips are allowed is decided here, where the kernel is known.
    result = machine.run(
        ['bash', '-c', script, 'bash', *_PYTEST, *files(names, quick=quick)],
        version=version, exchange=folder, where=_ROOT, **options,
        environment={'CI': '', 'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1', 'PYTHONPATH': paths,
                     'IPC_BYPASS_VM_SUITES': ','.join(names),
                     'IPC_BYPASS_VM_QUICK': '1' if quick else ''})
    return read(version, folder, result)


def read(version, folder, result):
    """Return the Outcome whose parts are in a folder."""
    outcome = Outcome(version, result)
    if (folder / 'release').exists():
        outcome.release = (folder / 'release').read_text().strip()
    found = {}
    if (folder / 'results').exists():
        for line in (folder / 'results').read_text().splitlines():
            entry = {'reason': '', 'seconds': 0.0, 'properties': {}, **json.loads(line)}
            # What the end of a test adds, where the test itself had failed, says less.
            if found.get(entry['test'], {}).get('outcome', 'not run') in ('not run', 'passed'):
                found[entry['test']] = entry
    outcome.tests = list(found.values())
    return outcome


def faults(outcome, suite):
    """
    Return what is wrong with a suite's outcome, in lines; none where all is as it should be.

    What the product refuses has to be in expected.REFUSED, with its reason.
    """
    tests = outcome.of(suite)
    if not tests:
        return [f'no test of {suite} ran on {outcome.version}']
    expected = REFUSED.get(outcome.version, {}).get(suite, ())
    return [f"{entry['test']} on {outcome.version}: {entry['outcome']}: {entry['reason']}"
            for entry in tests if entry['outcome'] != 'passed'
            and not (entry['outcome'] == 'refused' and any(part in entry['reason']
                                                           for part in expected))]


def in_words(outcome, suite):
    """Return ('works', 'refused', 'in part' or 'fails', the reasons) of a suite."""
    tests = outcome.of(suite)
    kinds = {entry['outcome'] for entry in tests}
    reasons = list(dict.fromkeys(_short(entry['reason']) for entry in tests
                                 if entry['outcome'] == 'refused'))
    if not kinds <= {'passed', 'refused'} or not kinds:
        return 'fails', [_short(line) for line in faults(outcome, suite)]
    if kinds == {'passed'}:
        return 'works', []
    return 'refused' if kinds == {'refused'} else 'in part', reasons


def _short(reason):
    """Return the first line of a reason, without what differs from run to run."""
    first = next(iter(reason.splitlines()), '')
    return re.sub(r'\b(pid|id|interface) \d+', r'\1 N', first)
