"""The node under test as a process, what it holds of the kernel, and what it has said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
import json
import os
from pathlib import Path
import tempfile

from fault_lab.script import Script

_numbers = itertools.count()


class Node(Script):
    """
    The node `ipc_bypass` in a process; it has no services before `ask` is first answered.

    :param parameters: the node's, by name
    :param kind: which of our nodes, of node_process.NODES
    """

    def __init__(self, parameters: Mapping[str, object], *, kind: str = 'ipc_bypass',
                 prefix: Sequence[str] = (),
                 environment: Mapping[str, str] | None = None) -> None:
        self._file = tempfile.NamedTemporaryFile('w', suffix='.yaml')
        # JSON is YAML.
        json.dump({'/**': {'ros__parameters': dict(parameters)}}, self._file)
        self._file.flush()
        self._read = 0
        super().__init__('fault_lab.node_process', kind, '--ros-args', '-r',
                         f'__ns:=/soak_{os.getpid()}_{next(_numbers)}', '--params-file',
                         self._file.name, prefix=prefix, environment=environment)

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self._file.close()

    def change(self, *labels: str) -> bool:
        """Go through transitions in turn as long as they succeed; return whether all did."""
        return all(self.ask('change', label) for label in labels)

    def errors(self) -> list[str]:
        """Return the lines of level error or above since the last call."""
        text, before = self.output(), self._read
        self._read = len(text)
        return [line for line in text[before:].splitlines()
                if '[ERROR]' in line or '[FATAL]' in line]

    def held(self) -> dict[str, set[int]]:
        """Return the ids of the kernel objects that it has open: {'map': ids, 'prog', 'link'}."""
        found: dict[str, set[int]] = {'map': set(), 'prog': set(), 'link': set()}
        folder = Path(f'/proc/{self.pid}/fdinfo')
        for entry in folder.iterdir():
            try:
                lines = entry.read_text().splitlines()
            except OSError:
                continue
            words = dict(line.split(':', 1) for line in lines if ':' in line)
            # A link's file tells its program, too.
            kind = next((kind for kind in ('link', 'map', 'prog') if f'{kind}_id' in words), None)
            if kind:
                found[kind].add(int(words[f'{kind}_id']))
        return found

    def size(self) -> dict[str, int]:
        """Return its open files, threads, and resident memory in bytes."""
        status = dict(line.split(':', 1) for line in
                      Path(f'/proc/{self.pid}/status').read_text().splitlines())
        return {'fds': len(os.listdir(f'/proc/{self.pid}/fd')),
                'threads': int(status['Threads']),
                'rss_bytes': int(status['VmRSS'].split()[0]) * 1024}
