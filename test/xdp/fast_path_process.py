"""A FastPath as a process: `fast_path_process.py SETTINGS`, then calls from standard input."""

from dataclasses import asdict
import json
import sys

from fast_path_lab import object_ids
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings
from support.processes import reply, serve


def main():
    """Attach, tell the ids of the objects, serve."""
    path = FastPath(FastPathSettings(**json.loads(sys.argv[1])))

    def start():
        path.attach()
        return object_ids(path)

    reply(start)
    serve({'counters': path.counters, 'close': path.close,
           'ports': lambda: [asdict(port) for port in path.ports()]})


if __name__ == '__main__':
    main()
