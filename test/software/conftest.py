"""What the tests of programs over an enrolled port share."""

from pathlib import Path
import sys

_HERE = Path(__file__).resolve()
sys.path[:0] = [str(_HERE.parents[2] / 'bench'), str(_HERE.parents[1] / 'semantics')]

import pytest  # noqa: E402
from software_cases.runs import steered  # noqa: E402
from support.capability import need_capabilities  # noqa: E402
from support.ports import PortBlock  # noqa: E402
from support.steering import object_ids  # noqa: E402


@pytest.fixture(scope='session')
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture(scope='module')
def ways(privileged, leaks):
    """Yield (path, ports without a rule, ports with one); a program may use the next, too."""
    plain, enrolled = PortBlock(), PortBlock()
    with steered(range(enrolled.first, enrolled.last + 1)) as path:
        leaks.note(object_ids(path))
        yield path, plain, enrolled
    for block in (plain, enrolled):
        block.close()
