"""What the tests of faults share: short forms of bench/soak.py, which repeats them for long."""

import os
from pathlib import Path
import sys

# A domain of this session, on this host only: nobody else's nodes get in.
os.environ['ROS_DOMAIN_ID'] = str(50 + os.getpid() % 50)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'bench'))  # the lab

from fault_lab.lab import Lab  # noqa: E402
import pytest  # noqa: E402
from support.capability import need_capabilities  # noqa: E402
from support.trials import right  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture
def lab():
    """Yield a Lab of this test."""
    with Lab() as made:
        yield made
        assert made.left() == []


@pytest.fixture
def run(lab):
    """Return a function that puts a fault of (lab, trial) into effect and checks it."""
    from fault_lab.trial import attempt
    return lambda fault, **how: right(attempt(
        fault.__name__, lambda trial: fault(lab, trial, **how)))
