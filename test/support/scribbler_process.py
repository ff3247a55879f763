"""A consumer gone mad: `scribbler_process.py CONTROL`; overwrites all that it maps."""

import os
import random
import sys

from ipc_bypass.pool.channel import Client, VERSION
from ipc_bypass.pool.opening import open_pool

from support.processes import reply, serve


def main():
    """Map the pool as an observer does; then overwrite what is told, many times."""
    client = Client(sys.argv[1])
    answer, _ = client.ask(op='open', version=VERSION, name='scribbler', rules=[], claims=[],
                           observe=True)
    memory, waking = open_pool(client, answer)
    generator = random.Random(1)

    def scribble(rounds, parts):
        for _ in range(rounds):
            for name in parts or memory.part_names:
                view = memoryview(memory._parts[name]).cast('B')
                for start in range(0, len(view), 1 << 20):
                    end = min(len(view), start + (1 << 20))
                    view[start:end] = generator.randbytes(end - start)
            for room in waking._room.values():
                room._consumed[0] = generator.getrandbits(64)
        return True

    reply(os.getpid)
    serve({'scribble': scribble, 'uid': os.getuid})


if __name__ == '__main__':
    main()
