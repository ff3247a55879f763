"""Switch the path on for a bench: the node as a process, and what it says of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time

from ipc_bypass.kernel.errors import BypassError

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0


class NodeError(BypassError):
    """The node did not become active, or does not answer; the reason is what it said last."""


class Bypass:
    """
    The node `/ipc_bypass`, active while the context lasts, with rules for a TCP port range.

    :param ports: TCP ports that are accelerated
    :param parameters: others of the node's, by name; `rules` in place of those of `ports`
    """

    def __init__(self, ports: range, **parameters: object) -> None:
        rules = [f'tcp:{ports[0]}-{ports[-1]}:accelerate'] if ports else []
        # A graph that runs on this host, perhaps with a node of the same name, is left alone: a
        # domain of our own, and no traffic but on the loopback interface. Up to domain 101 no
        # port is in Linux's ephemeral range.
        self._environment = {**os.environ, 'ROS_DOMAIN_ID': str(52 + os.getpid() % 50),
                             'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        # Files without names, so that nothing is left of them, however this process ends.
        self._log = tempfile.TemporaryFile()
        self._parameters = os.memfd_create('parameters')
        # A socket of our own: another node may listen at the usual one.
        self._folder = tempfile.TemporaryDirectory(prefix='ipc_bypass_bench_')
        # JSON is YAML. Nothing is pinned, so that nothing is shared with another node.
        os.write(self._parameters, json.dumps({'/**': {'ros__parameters': {
            'rules': rules, 'pin_directory': '',
            'control_socket': str(Path(self._folder.name) / 'pool.sock'),
            **parameters}}}).encode())
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Bypass:
        try:
            self._process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'TERM', '--', *_command('up'),
                 '--params-file', f'/proc/self/fd/{self._parameters}'],
                env=self._environment, pass_fds=(self._parameters,), stdin=subprocess.DEVNULL,
                stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True)
            self._wait_until_active()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        self._folder.cleanup()
        os.close(self._parameters)

    def statistics(self) -> dict:
        """
        Return what the node publishes: the fields of BypassStatistics, state_label and others.

        Raises NodeError.
        """
        try:
            done = subprocess.run(
                [*_command('status'), '--json', '--timeout', '5'], env=self._environment,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=_START_TIMEOUT)
            return json.loads(done.stdout)
        except ValueError:
            raise NodeError('read the statistics', done.stderr or done.stdout) from None
        except subprocess.TimeoutExpired:
            raise NodeError('read the statistics', 'no answer') from None

    @property
    def pid(self) -> int:
        """Return the id of the node's process."""
        return self._process.pid

    def _wait_until_active(self) -> None:
        """Return when the node says so; raise NodeError where it ends, or says nothing."""
        deadline = time.monotonic() + _START_TIMEOUT
        reason = ''
        while time.monotonic() < deadline:
            try:
                if self.statistics()['state_label'] == 'active':
                    return
            except NodeError as error:
                reason = error.reason
            if self._process.poll() is not None:
                reason = 'it ended'
                break
        self._log.seek(0)
        said = self._log.read().decode(errors='replace').splitlines()[-3:]
        raise NodeError('start the node', f'{reason or "not active"}: ' + ' / '.join(said),
                        next_step='`ipc-bypass doctor` says what this machine can do')


def _command(name: str) -> list[str]:
    """Return the command line of a sub-command of ours, whatever PATH is."""
    return [sys.executable, '-m', 'ipc_bypass.cli.main', name]


def statistics_lines(statistics: dict) -> list[str]:
    """
    Return the statistics of the topic as lines to print.

    :param statistics: the fields of ipc_bypass_interfaces/BypassStatistics by name
    """
    lines = ['The node, as its topic ~/statistics has it:']
    for path in statistics.get('paths', ()):
        if path['transport'] == 'tcp':
            chosen = 'selected' if path['selected'] else f'not selected: {path["reason"]}'
            lines.append(f'  path {path["name"]}: {chosen}')
    for way in ('redirected', 'passed'):
        messages, size = statistics[f'{way}_messages'], statistics[f'{way}_bytes']
        lines.append(f'  {way}: {messages:,} messages, {size:,} bytes')
    shown = {'redirected_messages', 'redirected_bytes', 'passed_messages', 'passed_bytes'}
    lines += [f'  {counter["name"]}: {counter["value"]:,} {counter["unit"]}'
              for counter in statistics.get('counters', ())
              if counter['value'] and counter['name'] not in shown]
    if not statistics['redirected_messages']:
        lines.append('  NOTHING took the fast path: tcp+bypass above is plain TCP')
    return lines
