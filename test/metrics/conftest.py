"""What the tests of the metrics share."""

import pytest
from support.ports import PortBlock


@pytest.fixture
def ports():
    """Yield a PortBlock of this test."""
    block = PortBlock()
    yield block
    block.close()
