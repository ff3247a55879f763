"""A launch file as a process, with all that it starts."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import uuid

import pytest
from support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
#: Runs a launch file with arguments name:=value, as `ros2 launch` does.
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService(argv=[])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[word.split(':=', 1) for word in sys.argv[2:]])]))
sys.exit(service.run())
"""
_MARK = 'IPC_BYPASS_TEST_LAUNCH'


class Launched:
    """
    A launch file that runs; a context manager that ends all that it started.

    :param name: of the file in launch/
    :param folder: where its output goes
    :param prefix: words before the command
    :param first: Python that runs before it
    :param arguments: of the launch file, by name
    """

    def __init__(self, name, folder, prefix=(), first='', **arguments):
        """Start it."""
        self._mark = f'{_MARK}={uuid.uuid4()}'
        self._output = Path(folder) / 'launch.log'
        with open(self._output, 'wb') as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, '-c', f'{first}\n{RUN}', str(ROOT / 'launch' / name),
                 *(f'{key}:={value}' for key, value in arguments.items())],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, **dict([self._mark.split('=')])})

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """End what has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)

    def output(self):
        """Return what it and its processes said."""
        return self._output.read_text(errors='replace')

    def wait_for(self, text, times=1):
        """Return when it has said something so often."""
        def said():
            if self.process.poll() is not None and self.output().count(text) < times:
                pytest.fail(f'it ended without {text!r}:\n{self.output()}')
            return self.output().count(text) >= times
        wait_until(said, f'{text!r} is said', 2 * PATIENCE)

    def end(self):
        """End it as Ctrl-C does; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(2 * PATIENCE)

    def left(self):
        """Return the processes that it started and that are there."""
        found = []
        for name in filter(str.isdigit, os.listdir('/proc')):
            try:
                if self._mark in Path(f'/proc/{name}/environ').read_text(errors='replace'):
                    found.append(int(name))
            except OSError:
                continue
        return found
