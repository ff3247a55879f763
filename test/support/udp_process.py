"""A UdpPath as a process: `udp_process.py RULES SETTINGS`, then calls from standard input."""

import json
import sys

from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.settings import UdpSettings

from support.capturing import object_ids, rules
from support.processes import reply, serve


def main():
    """Configure and activate, tell the ids of the objects, serve."""
    path = UdpPath(UdpSettings(**json.loads(sys.argv[2])))

    def start():
        path.configure()
        path.set_rules(rules(*json.loads(sys.argv[1])))
        path.activate()
        return object_ids(path)

    reply(start)
    serve({'counters': path.counters, 'pool': path.pool, 'deactivate': path.deactivate,
           'cleanup': path.cleanup})


if __name__ == '__main__':
    main()
