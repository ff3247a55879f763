"""What is learned of a graph that runs: two topics, and one that nothing comes on."""

import json
import os
import subprocess
import sys

from ipc_bypass.compare.places import both

_GRAPH = """
import threading, time
import rclpy
from std_msgs.msg import String, UInt8MultiArray
rclpy.init(args=[])
node = rclpy.create_node('graph')
image = node.create_publisher(UInt8MultiArray, '/image', 10)
state = node.create_publisher(String, '/state', 10)
silent = node.create_publisher(String, '/silent', 10)
print('on', flush=True)
number = 0
while True:
    state.publish(String(data='x' * 100))
    if number % 5 == 0:
        image.publish(UInt8MultiArray(data=bytes(50000)))
    number += 1
    time.sleep(0.02)
"""
_LEARN = """
import json
from ipc_bypass.compare import learn
found = learn.learn(2.0)
print(json.dumps({'messages': [[each.topic, each.size, each.rate] for each in found.messages],
                  'not_learned': found.not_learned}))
"""


def test_sizes_and_rates_are_learned(rclpy_there, privileged):
    environment = {**os.environ, 'ROS_DOMAIN_ID': '65'}
    with both('same-host') as (place, _):
        graph = subprocess.Popen(place.command(sys.executable, '-c', _GRAPH), env=environment,
                                 stdout=subprocess.PIPE, text=True)
        try:
            assert graph.stdout.readline() == 'on\n'
            done = subprocess.run(place.command(sys.executable, '-c', _LEARN), env=environment,
                                  capture_output=True, text=True, timeout=40, check=True)
        finally:
            graph.kill()
            graph.wait()
            graph.stdout.close()
    found = json.loads(done.stdout)
    (first, size, rate), (second, small, fast) = found['messages']
    assert (first, second) == ('/image', '/state')
    assert 50000 <= size <= 50100
    assert 100 <= small <= 150
    assert 3 < rate < 20 < fast < 100
    assert found['not_learned'] == ['/silent: not learned: 0 messages came']
