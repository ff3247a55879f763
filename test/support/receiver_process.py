"""A bound UDP socket as a process: `receiver_process.py ADDRESS PORT`."""

import os
import sys

from support.capturing import Route
from support.processes import reply, serve


def main():
    """Bind, tell the process's id, and wait; a second receiver may bind beside this one."""
    receiver = Route('process', sys.argv[1]).receiver(int(sys.argv[2]), reuse=True)
    reply(os.getpid)
    serve({})
    receiver.close()


if __name__ == '__main__':
    main()
