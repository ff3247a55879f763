"""One end of a stream: `stream_process.py server|client ADDRESS PORT SEED`."""

import itertools
import random
import sys
import threading

from support.connections import accept, block, close, Place
from support.processes import reply, serve
from support.traffic import Job, receive, send

_LARGEST = 256 << 10


def main():
    """Connect, then send random messages and read what comes until 'stop'."""
    role, address, port, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    place, stopped = Place('process', address), threading.Event()
    if role == 'server':
        listener = place.listen(port)
        reply(str, 'listening')
        sock = accept(listener)
        listener.close()
    else:
        sock = block(place.connect(port))
        reply(str, 'connected')
    generator = random.Random(seed)
    sizes = itertools.takewhile(lambda _: not stopped.is_set(),
                                iter(lambda: int(2 ** generator.uniform(0, 18)), _LARGEST + 1))
    received = 0

    def note(size):
        nonlocal received
        received = size

    sending = Job(send, sock, sizes, seed, finish=True)
    receiving = Job(receive, sock, before=note)

    def stop():
        stopped.set()
        answer = {name: [job.result().size, job.result().hash.hexdigest()]
                  for name, job in (('sent', sending), ('received', receiving))}
        close(sock)
        return answer

    serve({'stop': stop, 'received': lambda: received})


if __name__ == '__main__':
    main()
