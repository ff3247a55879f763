"""A server that answers what it hears, and its client; `serve PORT` or `talk PORT ROUNDS`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from statistics import median
import sys
import time

import websockets

_OPTIONS = {'max_size': None, 'ping_interval': None}


async def serve(port: int) -> None:
    """Send each message back in as many fragments as it came in words."""
    async def answer(connection):
        async for message in connection:
            if isinstance(message, str) and message.startswith('{'):
                asked = json.loads(message)
                await connection.send(json.dumps({'op': 'answer', 'id': asked['id'],
                                                  'msg': asked['msg']}))
            else:
                await connection.send(message)
    async with websockets.serve(answer, '127.0.0.1', port, **_OPTIONS):
        await asyncio.get_running_loop().create_future()


async def talk(port: int, rounds: int) -> None:
    """Converse, compressed and not; print bytes, hash, and the median round trip in us."""
    content, total, times = hashlib.blake2b(digest_size=16), 0, []
    for compression in (None, 'deflate'):
        chosen = random.Random(7)  # the same messages each time
        async with websockets.connect(f'ws://127.0.0.1:{port}', compression=compression,
                                      **_OPTIONS) as client:
            for number in range(rounds):
                asked = {'op': 'publish', 'id': number, 'topic': '/chatter',
                         'msg': {'data': 'x' * chosen.randrange(2000)}}
                began = time.monotonic()
                await client.send(json.dumps(asked))
                got = json.loads(await client.recv())
                times.append(time.monotonic() - began)
                assert got == {'op': 'answer', 'id': number, 'msg': asked['msg']}, got
                content.update(json.dumps(got).encode())
            for size in (0, 1, 125, 126, 65535, 65536, 3 << 20):
                message = chosen.randbytes(size)
                await client.send(message)
                assert await client.recv() == message
                content.update(message)
                total += 2 * size
            parts = [chosen.randbytes(70_000) for _ in range(9)]
            await client.send(parts)  # one message of nine fragments
            assert await client.recv() == b''.join(parts)
            total += 2 * 9 * 70_000
            await (await client.ping(b'still there?'))
        assert client.close_code == 1000
    print(total, content.hexdigest(), 1e6 * median(times))


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        asyncio.run(serve(int(sys.argv[2])))
    else:
        asyncio.run(asyncio.wait_for(talk(int(sys.argv[2]), int(sys.argv[3])), 60))
