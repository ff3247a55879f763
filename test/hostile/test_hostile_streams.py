"""Random operations on many TCP connections at once, enrolled and not."""

import os

import pytest
from random_streams import converse
from support.leaks import PIN_PREFIX
from support.ports import PortBlock
from support.processes import PathProcess


@pytest.fixture(scope='module')
def steered():
    """Yield (PathProcess, PortBlock); its budget is small, so that flows pass and come back."""
    block = PortBlock()
    with PathProcess([[block.first, block.last]], budget_bytes=1 << 17,
                     pin_directory=f'/sys/fs/bpf/{PIN_PREFIX}{os.getpid()}_hostile') as path:
        yield path, block
        path.ask('cleanup')
    block.close()


@pytest.mark.parametrize('seed', range(3))
def test_bytes_and_ends_are_those_of_tcp(steered, seed):
    """Every byte once, in order, and then the end, in both directions."""
    path, block = steered
    before = path.ask('counters')
    assert converse(next(block), seed, conversations=16, steps=50) > 0
    after = path.ask('counters')
    assert after['redirected_messages'] > before['redirected_messages']


def test_the_same_without_the_path():
    """What is demanded of a redirected connection, plain TCP has."""
    block = PortBlock()
    try:
        assert converse(next(block), 0, conversations=16, steps=50) > 0
    finally:
        block.close()
