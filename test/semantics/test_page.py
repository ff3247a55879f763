"""docs/semantics.md names every test of this folder, and each on the right side."""

import importlib
from pathlib import Path
import re

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / 'docs' / 'semantics.md'


def named(text):
    """Return the tests that a text names, with repetitions."""
    return sorted(re.findall(r'`(test_\w+\.py::test_\w+)`', text))


def behaviours(differs):
    """Return the tests of behaviour that differ from plain TCP, or those that do not."""
    found = []
    for file in HERE.glob('test_*.py'):
        for name, test in vars(importlib.import_module(file.stem)).items():
            if getattr(test, 'differs', None) is differs:
                found.append(f'{file.name}::{name}')
    return sorted(found)


def test_rows_and_tests_agree():
    """Every row names a test, every test has one row."""
    _, _, tables = PAGE.read_text(encoding='utf-8').partition('\n## What differs\n')
    differing, _, same = tables.partition('\n## What stays the same\n')
    assert named(differing) == behaviours(True)
    assert named(same) == behaviours(False)
    rows = [line for line in tables.splitlines()
            if line.startswith('|') and not line.startswith(('| behaviour', '|---'))]
    assert [row for row in rows if not named(row)] == []
