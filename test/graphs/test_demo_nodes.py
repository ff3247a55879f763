"""The demo talker and listener as processes, without a profile."""

import json
import signal
import subprocess
import sys

from ipc_bypass.nodes import demo_process
from ipc_bypass.nodes.demo_streams import stream_named
import pytest
import rclpy
from support.waiting import PATIENCE, wait_until


def start(role, *options, **parameters):
    """Start a demo node with parameters."""
    words = [sys.executable, '-m', f'ipc_bypass.nodes.demo_{role}', '--ros-args', *options]
    for name, value in parameters.items():
        words += ['-p', f'{name}:={json.dumps(value) if isinstance(value, bool) else value}']
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    """Return (exit code, output, error output) of a process that ends by itself."""
    try:
        output, errors = process.communicate(timeout=2 * PATIENCE)
    finally:
        process.kill()
        process.wait()
    return process.returncode, output, errors


@pytest.fixture
def publisher():
    """Yield a publisher of the stream `state` in this process."""
    context = rclpy.Context()
    context.init(args=[])
    node = rclpy.create_node('demo_test', context=context)
    stream = stream_named('state')
    yield node.create_publisher(stream.message_type, stream.topic,
                                demo_process.quality(stream, {'reliable': True, 'depth': 0}))
    node.destroy_node()
    context.shutdown()


def test_all_arrives():
    listener = start('listener', stream='point_cloud', until_complete=True, duration_s=30.0)
    talker = start('talker', stream='point_cloud', wait_for=1, count=10, rate_hz=20.0)
    assert ended(talker)[:2] == (0, 'point_cloud: sent 10\n')
    code, output, _ = ended(listener)
    assert code == 0
    assert '10 messages arrived, 21.0 MB' in output
    assert 'lost 0, out of order 0' in output


@pytest.fixture
def listening():
    """Return a function that starts a listener; it ends with the test."""
    started = []

    def listener(**parameters):
        started.append(start('listener', **parameters))
        return started[-1]
    yield listener
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('numbers, reliable, code', [
    ((0, 2, 3), True, 1), ((0, 2, 3), False, 0)])
def test_exit_code(publisher, listening, numbers, reliable, code):
    """A reliable stream may not lose or reorder anything; one without that promise may."""
    stream = stream_named('state')
    listener = listening(stream='state', reliable=reliable, json=True, report_period_s=0.1)
    stranger, message = stream.message(), stream.message()

    def knows_the_publisher():
        # Until then it would lose what is sent without a promise. A stranger's is not counted.
        publisher.publish(stranger)
        return json.loads(listener.stdout.readline())['foreign']
    wait_until(knows_the_publisher, 'the listener hears the publisher')
    for number in numbers:
        stream.mark(message, 'test', number, 0)
        publisher.publish(message)
    wait_until(lambda: json.loads(listener.stdout.readline())['rate_hz'], 'messages arrive')
    listener.send_signal(signal.SIGINT)
    found, output, _ = ended(listener)
    told = json.loads(output.splitlines()[-1])
    assert (told['kind'], told['received']) == ('summary', len(numbers))
    assert found == code


def test_nothing_in_time():
    code, output, _ = ended(start('listener', stream='camera', duration_s=0.5))
    assert (code, output) == (1, 'camera      nothing arrived\n')


def test_unknown_stream():
    code, _, errors = ended(start('talker', stream='lidar'))
    assert code == 2
    assert errors.startswith("use stream 'lidar'")
    assert len(errors.splitlines()) == 1
