"""A TcpPath as a process: `path_process.py RULES SETTINGS`, then calls from standard input."""

from dataclasses import asdict
import json
import sys

from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.tcp.settings import TcpSettings

from support.processes import reply, serve
from support.steering import object_ids, rules


def main():
    """Configure and activate, tell the ids of the objects, serve."""
    ranges = json.loads(sys.argv[1])
    path = TcpPath(TcpSettings(**json.loads(sys.argv[2])))

    def start():
        path.configure()
        path.set_rules(rules(*ranges))
        path.activate()
        return object_ids(path)

    reply(start)
    serve({'flows': lambda: [asdict(flow) for flow in path.flows()], 'counters': path.counters,
           'deactivate': path.deactivate, 'cleanup': path.cleanup})


if __name__ == '__main__':
    main()
