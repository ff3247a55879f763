"""
Segments that come twice, in parts, or out of their order, as after a loss.

What comes by TCP to an entered socket takes another way through the kernel than for a plain one,
also from a peer that is on another host. Each byte is read once.
"""

import random

import pytest
from support.connections import accept, bridged, read
from support.namespaces import bridged_pair
from support.segments import Segments
from support.steering import flow_of
from support.traffic import nothing_more

STREAM = random.Random(7).randbytes(60_000)


@pytest.fixture(scope='module')
def pair(privileged):
    """Yield a bridged pair of this module's own."""
    with bridged_pair() as spaces:
        yield spaces


@pytest.fixture
def connection(pair, way, steered, ports, stack):
    """Return (peer made of frames, the server's socket)."""
    port = steered[1].first if way == 'steered' else ports.first
    listener = stack.enter_context(bridged(pair).listen(port))
    peer = Segments(pair, port)
    peer.connect()
    server = stack.enter_context(accept(listener))
    assert (flow_of(steered[0], server) is not None) == (way == 'steered')
    yield peer, server
    peer.reset(len(STREAM))


CASES = {
    'in_order': [(0, 500), (500, 1000)],
    'the_same_twice': [(0, 500), (0, 500), (500, 1000)],
    'older_twice': [(0, 500), (500, 1000), (0, 500), (1000, 1500)],
    'repeated_with_more': [(0, 500), (250, 750)],
    'repeated_whole_with_more': [(0, 500), (0, 501)],
    'repeated_all_but_one': [(0, 500), (499, 1000)],
    'out_of_order': [(500, 1000), (0, 500)],
    'gap_filled_with_overlap': [(500, 1000), (0, 750)],
    'gap_filled_beyond': [(500, 600), (0, 700)],
    'overlaps_in_a_gap': [(500, 1000), (750, 1250), (0, 500)],
    'several_repeats': [(0, 200), (50, 300), (150, 300), (0, 700)],
}


@pytest.mark.parametrize('case', CASES)
def test_segments(connection, case):
    """One case of repeated or disordered segments."""
    peer, server = connection
    for start, end in CASES[case]:
        peer.send(start, STREAM[start:end])
    size = max(end for _, end in CASES[case])
    assert read(server, size) == STREAM[:size]
    nothing_more(server)


@pytest.mark.parametrize('case', CASES)
def test_segments_to_a_reader(connection, case):
    """The same, with a read after each segment that carries on."""
    peer, server = connection
    got, covered = b'', set()
    for start, end in CASES[case]:
        peer.send(start, STREAM[start:end])
        covered.update(range(start, end))
        there = next(byte for byte in range(len(STREAM)) if byte not in covered)
        got += read(server, there - len(got))
    assert got == STREAM[:there]
    nothing_more(server)


@pytest.mark.parametrize('seed', range(4))
def test_any_segments(connection, seed):
    """A stream in random segments, some of them twice, some too early, many overlapping."""
    peer, server = connection
    generator, place, got = random.Random(seed), 0, b''
    while place < len(STREAM):
        segments, end = [], place
        for _ in range(generator.randrange(1, 6)):
            start = max(0, end - generator.choice([0, 0, 1, 100, 1400]))
            end = min(len(STREAM), max(end, start) + generator.randrange(1, 1400))
            segments.append((start, min(end, start + 1400)))
            end = segments[-1][1]
        if generator.random() < 0.5:
            generator.shuffle(segments)
        for start, stop in [*segments, *generator.sample(segments, 1)]:
            peer.send(start, STREAM[start:stop])
        place = max(place, end)
        got += read(server, place - len(got))
    assert got == STREAM
    nothing_more(server)
