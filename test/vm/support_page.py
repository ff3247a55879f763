"""docs/kernel_support.md and its data, docs/kernel_support.json, from outcomes on kernels."""

import json
from pathlib import Path

from ipc_bypass.kernel.verifier_cost import LIMIT

from vm import kernel, matrix
from vm.suites import SUITES

_DOCS = Path(__file__).resolve().parents[2] / 'docs'
PAGE, DATA = _DOCS / 'kernel_support.md', _DOCS / 'kernel_support.json'

_HEAD = """\
# Kernels

Written by `scripts/test --kernels` from tests that ran in virtual machines with kernels of Debian;
not to be changed by hand. The programs were compiled with the headers of one release (6.1) and are
the same on all kernels: they use the stable interface only, and learn from the running kernel's
BTF where a struct has a member.

'works': every test of that row passed. 'refused': the node does without, and says why; the same
traffic goes the usual way, and the first row says that all of it arrives. 'in part': some tests
passed, the others were refused for the reasons below. Behind it stands how many tests passed of
those that ran, and whether a suite ran in its short form alone (`--quick`, as in CI).
"""
_FOOT = """\

## To run it

    scripts/test --kernels                # all of it, and writes this page
    scripts/test --kernels 5.10 --quick   # of one kernel, the tests that CI has time for
    pytest test/vm                        # as in CI, where it runs beside the other tests
    python test/vm/run.py --kernel 7.2 bash -c 'uname -r; ipc-bypass doctor'

`test/vm` boots each kernel by qemu, which emulates the processor: it needs `qemu-system-x86` and
`busybox-static` (scripts/setup installs them), and no KVM. Apt downloads the kernels of Debian's
releases into `~/.cache/ipc_bypass/kernels`, with lists of their own; nothing is installed. The
machine sees the host's file system read-only, under a layer of memory. `test/vm/suites.py` lists
the tests, `test/vm/expected.py` what a kernel may be refused for: any other refusal is a failure.
The programs are compiled on the host, since that takes the emulated processor minutes.

The kernel is told the rate of the processor's counter. Left to find it out on a busy host, it is
wrong by any factor, and so is its clock.
"""
_STATES = {'works': 'works', 'refused': 'refused', 'in part': 'in part', 'fails': '**fails**'}


def summary(outcome, *, quick=False):
    """Return what of an Outcome is kept; `quick`: only the tests that CI has time for ran."""
    properties = {name: value for entry in outcome.tests
                  for name, value in entry['properties'].items()}
    suites = {}
    for name in SUITES:
        tests = outcome.of(name)
        if tests:
            state, reasons = matrix.in_words(outcome, name)
            suites[name] = {'state': state, 'reasons': reasons, 'quick': quick,
                            'tests': len(tests), 'passed': sum(entry['outcome'] == 'passed'
                                                               for entry in tests)}
    return {'release': outcome.release, 'suites': suites,
            'paths': {name: properties[name] for name in ('tcp', 'udp') if name in properties},
            'instructions': properties.get('instructions', {})}


def update(outcome, *, quick=False):
    """Put an Outcome in place of the earlier one of its kernel, and write the page anew."""
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    found = summary(outcome, quick=quick)
    before = data.get(outcome.version, {'suites': {}, 'paths': {}, 'instructions': {}})
    # Suites that were left out this time stay as they were, and the whole is worth more than a
    # part of it, unless that has found a fault.
    found['suites'] = {name: entry for name, entry in found['suites'].items()
                       if not quick or entry['state'] == 'fails'
                       or before['suites'].get(name, {}).get('quick', True)}
    data[outcome.version] = {
        'release': found['release'],
        **{part: {**before[part], **found[part]} for part in ('suites', 'paths')},
        'instructions': found['instructions'] or before['instructions']}
    suites = data[outcome.version]['suites']
    data[outcome.version]['suites'] = {name: suites[name] for name in SUITES if name in suites}
    ordered = {version: data[version] for version in kernel.RELEASES if version in data}
    DATA.write_text(json.dumps(ordered, indent=1, sort_keys=False) + '\n')
    PAGE.write_text(page(ordered))


def page(data):
    """Return the page for {kernel: what summary() returned}."""
    lines = [_HEAD, _row('', *(f'{version}' for version in data)),
             _row('---', *('---' for _ in data))]
    for name, suite in SUITES.items():
        lines.append(_row(suite.title, *(_state(found['suites'].get(name))
                                         for found in data.values())))
    lines.append('')
    for version, found in data.items():
        lines += _kernel(version, found)
    return '\n'.join([*lines, *_costs(data)]) + '\n' + _FOOT


def _kernel(version, found):
    """Return the lines on one kernel."""
    lines = [f'## {version}', '', f"Debian {kernel.RELEASES[version]}, `{found['release']}`.", '']
    refused = [f'- {SUITES[name].title}, {entry["state"]}: {reason}'
               for name, entry in found['suites'].items() if name in SUITES
               for reason in entry['reasons']]
    if refused:
        lines += ['Refused, in the words of the node:', '', *refused, '']
    notes = [f'- {name.upper()}: {note}' for name, path in found['paths'].items()
             for note in path['notes']]
    if notes:
        lines += ['What works, but not at its best, in the words of the node:', '', *notes, '']
    if not refused and not notes:
        lines += ['Nothing is refused.', '']
    return lines


def _costs(data):
    """Return the table of what the verifier processes."""
    names = sorted({name for found in data.values() for name in found['instructions']})
    lines = ['## Cost in the verifier', '',
             f'Instructions that the verifier processes, the most of all forms of a program; it '
             f'gives up at {LIMIT:,}. A test fails above four fifths of that. Empty: the kernel '
             'refuses the program.', '',
             _row('program', *data), _row('---', *('---:' for _ in data))]
    return lines + [_row(f'`{name}`', *(_number(found['instructions'].get(name))
                                        for found in data.values())) for name in names]


def _state(entry):
    if not entry:
        return 'not run'
    return f"{_STATES[entry['state']]} ({entry['passed']} of {entry['tests']}" \
           f"{', short form' if entry['quick'] else ''})"


def _number(count):
    return '' if count is None else f'{count:,}'


def _row(*cells):
    return f"| {' | '.join(cells)} |"
