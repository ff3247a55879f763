"""A Fast DDS peer: `sub`, or `pub RATE BYTES`, until it is terminated."""

import signal
import sys
import threading

import rclpy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

TOPIC = 'ipc_bypass_test'


def main():
    """Talk until SIGTERM."""
    role, *arguments = sys.argv[1:]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f'fast_{role}', enable_rosout=False, start_parameter_services=False)
    if role == 'pub':
        rate, size = (int(argument) for argument in arguments)
        publisher = node.create_publisher(String, TOPIC, 10)
        sample = String(data='x' * size)
        node.create_timer(1 / rate, lambda: publisher.publish(sample))
    else:
        node.create_subscription(String, TOPIC, lambda _: None, 10)
    while not ended.is_set():
        rclpy.spin_once(node, timeout_sec=0.1)
    rclpy.shutdown()


main()
