"""What the lifecycle nodes share: the transitions, and the process that serves a node."""

import os
import signal
import sys
import threading
import time
import traceback

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.privileges import Privileges
from lifecycle_msgs.msg import State
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR
#: Seconds to rest after a callback that raised, so that a storm of them takes no processor.
_AFTER_FAULT = 0.01
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SteppedNode(LifecycleNode):
    """
    A lifecycle node made of the steps _configure, _activate, _deactivate and _release.

    A step that fails raises. _release lets go of everything, whatever the state; _announce is
    told each state that was reached, a lifecycle_msgs State id. A transition that fails says why
    in one line at level error, and gives the compiler's or verifier's log in full at level debug.
    """

    def __init__(self, name, **node_arguments):
        """Make the node, unconfigured; nothing is announced yet."""
        super().__init__(name, **node_arguments)
        self._state = State.PRIMARY_STATE_UNCONFIGURED
        self._privileges = None  # this process's capabilities are not the node's to change

    def create_timer(self, timer_period_sec, callback, **options):
        """Make a timer of the steady clock: one of the wall clock halts when that is set back."""
        return super().create_timer(
            timer_period_sec, callback, **{'clock': Clock(clock_type=ClockType.STEADY_TIME),
                                           **options})

    def on_configure(self, _state):
        """Take what the node needs."""
        return self._transition('configure', self._configure, State.PRIMARY_STATE_INACTIVE)

    def on_activate(self, _state):
        """Begin to work."""
        return self._transition('activate', self._activate, State.PRIMARY_STATE_ACTIVE)

    def on_deactivate(self, _state):
        """Stop at once; traffic goes the usual way."""
        return self._transition('deactivate', self._deactivate, State.PRIMARY_STATE_INACTIVE)

    def on_cleanup(self, _state):
        """Release everything."""
        return self._transition('cleanup', self._release, State.PRIMARY_STATE_UNCONFIGURED)

    def on_shutdown(self, _state):
        """Release everything, whatever the state."""
        return self._transition('shutdown', self._release, State.PRIMARY_STATE_FINALIZED)

    def on_error(self, _state):
        """Release what a transition left behind, and go back to unconfigured."""
        if self._privileges is not None:
            self._privileges.begin_transition()
        self._release_quietly()
        self._reached(State.PRIMARY_STATE_UNCONFIGURED)
        if self._privileges is not None:
            self._privileges.reach(self._state)
        return SUCCESS

    def take_privileges(self, privileges):
        """Have `privileges`, a Privileges, follow the state from now on."""
        privileges.give_up(self._unused_capabilities())
        privileges.reach(self._state)
        self._privileges = privileges

    def _unused_capabilities(self):
        """Return the names of capabilities that this configuration can never use."""
        return ()

    def bring_up(self, activate=True):
        """Configure, and activate if asked to; return whether it succeeded."""
        return (self.trigger_configure() == SUCCESS
                and (not activate or self.trigger_activate() == SUCCESS))

    def bring_down(self):
        """Go through deactivate, cleanup and shutdown, as far as the state has them."""
        if self._state == State.PRIMARY_STATE_ACTIVE:
            self.trigger_deactivate()
        if self._state == State.PRIMARY_STATE_INACTIVE:
            self.trigger_cleanup()
        if self._state != State.PRIMARY_STATE_FINALIZED:
            self.trigger_shutdown()

    def _transition(self, name, step, goal):
        """
        Run the step of a transition and return what it comes to.

        Where a failed step leaves the node as it was, that is a FAILURE; where the way back is to
        release everything, an ERROR, which rclpy follows with on_error.
        """
        if self._privileges is None:
            return self._take_step(name, step, goal)
        self._privileges.begin_transition()
        try:
            return self._take_step(name, step, goal)
        finally:
            # After a failure rclpy may call on_error, which begins again.
            self._privileges.reach(self._state)

    def _take_step(self, name, step, goal):
        try:
            step()
        except BypassError as error:
            self.get_logger().error(f'{name} failed: {error}')
            if error.log:
                self.get_logger().debug(f'{name}: the full log\n{error.log}')
            return FAILURE if name in ('configure', 'activate') else ERROR
        except Exception as error:
            # rclpy drops what a callback raises.
            text = ' '.join(f'{type(error).__name__}: {error}'.split())
            self.get_logger().error(f'{name} failed by a fault in ipc_bypass: {text}')
            self.get_logger().debug(traceback.format_exc())
            return ERROR
        self._reached(goal)
        return SUCCESS

    def _reached(self, state):
        self._state = state
        self._announce(state)

    def _release_quietly(self):
        try:
            self._release()
        except Exception as error:  # there is nobody to raise it to
            self.get_logger().error(f'release failed: {error}')


def serve(make_node, args=None, *, bring_up=None, program='ipc_bypass'):
    """
    Run a SteppedNode until SIGINT or SIGTERM; return the exit code of the process.

    :param make_node: called without arguments, returns the node
    :param args: command line with ROS arguments, sys.argv when left out
    :param bring_up: called with the node at the start, returns whether to go on; when left out,
        the parameter `autostart` decides, and a node that could not be configured stays
    :param program: the node's name, with which a line that says why there is no node begins
    """
    end = _note_signals()
    # rclpy's own handlers would end the context before the node could say good-bye.
    try:
        privileges = Privileges(program)  # before rclpy and DDS start their threads
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # BypassError, or rcl's, which has no class of its own
        return _refuse(error, program)
    try:
        node = privileges.without(make_node)
        try:
            node.take_privileges(privileges)
            if bring_up is None:
                if node.get_parameter('autostart').value:
                    node.bring_up()
            elif not bring_up(node):
                return 1
            _spin(node, end)
            return 0
        finally:
            node.bring_down()
            node.destroy_node()
    except (BypassError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        return _refuse(error, program)
    finally:
        # All is released: a second Ctrl-C, or launch's, shall not make this look like a crash.
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        rclpy.try_shutdown()


def _note_signals():
    """
    Have SIGINT and SIGTERM written to a pipe; return its (reader, writer).

    A signal handler of Python's does not reliably wake a main thread that waits for a lock.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader, writer


def _refuse(error, program):
    """Say in one line why there is no node, and return the exit code."""
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _spin(node, end):
    """
    Answer callbacks, in a thread, until something is written to the pipe `end`.

    A callback that raises ends nothing: rclpy's own parameter services raise for a request with a
    type of value that there is not, and everybody on the graph may ask them.
    """
    reader, writer = end
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended, failed = Future(executor=executor), []

    def spin():
        try:
            while not ended.done():
                try:
                    executor.spin_until_future_complete(ended)
                except Exception as error:
                    if not node.context.ok():
                        raise
                    text = ' '.join(f'{type(error).__name__}: {error}'.split())
                    node.get_logger().error(f'a callback failed: {text}',
                                            throttle_duration_sec=1.0)
                    time.sleep(_AFTER_FAULT)
        except BaseException as error:
            failed.append(error)
        finally:
            os.write(writer, b'.')

    thread = threading.Thread(target=spin, name='executor')
    thread.start()
    os.read(reader, 1)
    # Not by shutdown(): called from another thread, it may take the wake-up away unseen.
    ended.set_result(None)
    thread.join()
    executor.shutdown()
    if failed:
        raise failed[0]
