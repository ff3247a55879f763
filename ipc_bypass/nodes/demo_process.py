"""What the demo talker and listener share: their quality of service, and the process."""

from __future__ import annotations

import math
import signal
import sys
import threading

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.demo_streams import Stream, STREAMS
from ipc_bypass.nodes.lifecycle import END_SIGNALS
from ipc_bypass.nodes.parameters import Spec, START
import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

#: Parameters of both.
SPECS = (
    Spec('stream', 'What is sent.', 'camera', choices=tuple(STREAMS), change=START),
    Spec('reliable', 'Reliable quality of service; false: best effort.', True, change=START),
    Spec('depth', 'Messages of the history, in messages; 0: those of one second.', 0,
         limits=(0, 100_000), change=START),
)
# How long a signal may have to wait: Python's handlers do not wake a thread in rcl.
_STEP = 0.1


def quality(stream: Stream, values: dict) -> QoSProfile:
    """
    Return the quality of service that the parameters ask for.

    A reliable writer that keeps the last N overwrites what has not arrived when a reader falls N
    behind, so that N is what lets a graph survive a busy moment: one second by default.
    """
    reliability = (ReliabilityPolicy.RELIABLE if values['reliable']
                   else ReliabilityPolicy.BEST_EFFORT)
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, reliability=reliability,
                      depth=values['depth'] or math.ceil(stream.rate_hz))


def serve(make_node, args=None) -> int:
    """
    Run a node until it has ended or a signal asks for it; return its exit code.

    :param make_node: called without arguments; the node has `ended`, a threading.Event, and
        `finish()`, which returns the exit code
    """
    asked = threading.Event()
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: asked.set())
    node = executor = None
    try:
        # rclpy's own handlers would end the context before the node could sum up.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not (asked.is_set() or node.ended.is_set()):
            executor.spin_once(timeout_sec=_STEP)
        return node.finish()
    except (BypassError, InvalidParameterTypeException, InvalidParameterValueException,
            RuntimeError) as error:
        # RuntimeError: rcl's, for arguments that it cannot read.
        print(' '.join(str(error).split()), file=sys.stderr)
        return 2
    finally:
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
