"""A server that only reads, as a process: `reader_process.py ADDRESS PORT`."""

import sys

from support.connections import accept, Place
from support.processes import reply, serve
from support.traffic import receive


def main():
    """Listen, and answer 'read' with the number of bytes of the next connection."""
    listener = Place('process', sys.argv[1]).listen(int(sys.argv[2]))
    reply(str, 'listening')
    serve({'accept': lambda: connections.append(accept(listener)),
           'read': lambda size: receive(connections[-1], size).size})


connections = []

if __name__ == '__main__':
    main()
