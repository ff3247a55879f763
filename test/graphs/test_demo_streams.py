"""The messages of the demo graph: their numbers are found again, and damage is seen."""

from ipc_bypass.launching.arguments import DEMO_STREAMS
from ipc_bypass.nodes.demo_streams import DemoError, stream_named, STREAMS
import pytest


@pytest.fixture(params=STREAMS)
def stream(request):
    """Return each of the streams."""
    return stream_named(request.param)


def test_identity(stream):
    message = stream.message()
    stream.mark(message, 'session', 7, 9)
    found = stream.identity(message)
    assert (found.session, found.sequence, found.total) == ('session', 7, 9)
    assert found.sent_ns > 0
    assert stream.intact(message, 7)
    assert not stream.intact(message, 8)


def test_messages_of_others_have_no_identity(stream):
    assert stream.identity(stream.message()) is None


def test_a_piece_of_another_message_is_seen(stream):
    """Every 64 KB, which is what travels in one piece, is looked at; the end too."""
    message, before = stream.message(), stream.message()
    stream.mark(before, 's', 1, 0)
    data = 'data' if hasattr(message, 'data') else 'position'
    length = len(getattr(message, data))
    for start in range(0, length, 65536):
        stream.mark(message, 's', 2, 0)
        assert stream.intact(message, 2)
        end = min(start + 65536, length)
        getattr(message, data)[start:end] = getattr(before, data)[start:end]
        assert not stream.intact(message, 2)


def test_a_short_message_is_seen(stream):
    message = stream.message()
    stream.mark(message, 's', 1, 0)
    if hasattr(message, 'data'):
        message.data = message.data[:-8]
    else:
        message.position = message.position[:-1]
    assert not stream.intact(message, 1)


def test_sizes():
    sizes = {name: stream.size for name, stream in STREAMS.items()}
    assert sizes == {'camera': 1_036_800, 'camera_6mb': 6_220_800, 'point_cloud': 2_097_152,
                     'state': 96}


def test_unknown_stream():
    with pytest.raises(DemoError, match="use stream 'lidar'.*use one of camera, "):
        stream_named('lidar')


def test_the_launch_files_know_them():
    assert set(DEMO_STREAMS) == set(STREAMS)
