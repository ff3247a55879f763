"""What the tests of XDP share."""

from contextlib import ExitStack
import itertools
import os

from ipc_bypass.xdp.templates import Templates
import pytest
from support.capability import need_capabilities
from support.leaks import PIN_PREFIX
from support.slot_sources import ANSWER, own, set_answers

_numbers = itertools.count()


@pytest.fixture(scope='session', autouse=True)
def privileged():
    """Skip where a capability is missing, with its name."""
    need_capabilities()


@pytest.fixture(scope='session')
def pin_directory():
    """Return a function that names a folder for pins that nobody else uses."""
    return lambda: f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_{next(_numbers)}'


@pytest.fixture
def stack():
    """Yield an ExitStack, closed after the test."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope='session')
def templates():
    """Return the compiled programs of all tests of the session: compiling takes long."""
    return Templates()


@pytest.fixture
def answering(tmp_path):
    """Return a function that loads a slot with ANSWER, and has it answer so: {port: answer}."""
    def load(array, index, answers, **options):
        slot = array.load(index, own(tmp_path, ANSWER, 'answer_port'), **options)
        set_answers(slot, answers)
        return slot
    return load
