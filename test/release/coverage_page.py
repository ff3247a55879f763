"""Write docs/coverage.md from what coverage.py tells: `coverage_page.py JSON_FILE TESTS`."""

from collections import defaultdict
import json
from pathlib import Path
import sys

#: Files below this share of executed lines are named, with the functions that were never called.
LOW = 70.0
_HEAD = """# What the tests execute

Lines of the Python package that were executed in processes of the tests, by `scripts/coverage`:

    {tests}

The kernel programs are not in it: tests count their branches by reason. A line that is executed is
not proven right; one that is not is not tested at all, but for three kinds that are executed where
nobody counts: what runs in virtual machines alone (`trace`, whose probes many kernels lack; the
dispatcher of libxdp), what needs `launch_ros` or `ros2 doctor` (`launching`), and processes with
an environment of their own (the peers of `compare` and of the check of profiles), or that end by
SIGKILL.

**{share:.1f} %** of {lines:,} lines.

| room | lines | executed |
|---|---|---|
"""


def page(data, tests):
    """Return the page's text."""
    rooms, low = defaultdict(lambda: [0, 0]), []
    for name, entry in sorted(data['files'].items()):
        parts = Path(name).parts
        parts = parts[parts.index('ipc_bypass') + 1:]
        summary = entry['summary']
        room = rooms['/'.join(parts[:-1]) or '.']
        room[0] += summary['num_statements']
        room[1] += summary['covered_lines']
        if summary['num_statements'] and summary['percent_covered'] < LOW:
            low.append(('/'.join(parts), summary, never_called(entry)))
    totals = data['totals']
    text = _HEAD.format(tests=tests, share=totals['percent_covered'],
                        lines=totals['num_statements'])
    for name, (lines, covered) in sorted(rooms.items()):
        if lines:
            text += f'| {name} | {lines:,} | {100 * covered / lines:.0f} % |\n'
    text += f'\n## Files below {LOW:.0f} %\n\n| file | executed | never called |\n|---|---|---|\n'
    for name, summary, functions in low:
        text += f'| {name} | {summary["percent_covered"]:.0f} % | {", ".join(functions)} |\n'
    return text


def never_called(entry):
    """Return the names of functions none of whose lines was executed."""
    return [f'`{name}`' for name, function in entry.get('functions', {}).items()
            if name and function['summary']['num_statements']
            and not function['summary']['covered_lines']]


if __name__ == '__main__':
    print(page(json.loads(Path(sys.argv[1]).read_text()), ' '.join(['pytest', *sys.argv[2:]])),
          end='')
