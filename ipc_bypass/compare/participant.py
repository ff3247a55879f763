"""One of many nodes: says when it has found all others, and then does nothing."""

from __future__ import annotations

import json
import sys
import time

import rclpy
from std_msgs.msg import UInt8MultiArray

_TOPIC = 'ipcb_participants'


def main(words: list[str]) -> int:
    """Wait until COUNT publishers and subscriptions are found, at most SECONDS; then idle."""
    count, seconds = int(words[0]), float(words[1])
    begin = time.monotonic()
    rclpy.init(args=[])
    node = rclpy.create_node('ipcb_participant', enable_rosout=False,
                             start_parameter_services=False)
    publisher = node.create_publisher(UInt8MultiArray, _TOPIC, 10)
    subscription = node.create_subscription(UInt8MultiArray, _TOPIC, lambda _message: None, 10)
    found = 0
    while found < count and time.monotonic() < begin + seconds:
        # Matched, and not only heard of.
        found = min(node.count_publishers(_TOPIC), publisher.get_subscription_count(),
                    subscription.get_publisher_count())
        time.sleep(0.1)
    print(json.dumps({'found': found, 'seconds': time.monotonic() - begin}), flush=True)
    sys.stdin.read()
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
