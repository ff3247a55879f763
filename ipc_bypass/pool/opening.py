"""How a consumer comes to the memory of a pool: by its pins, or by what the node hands over."""

from __future__ import annotations

import os

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool.channel import Client
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.waking import Waking


def open_pool(client: Client, answer: dict) -> tuple[PoolMemory, Waking]:
    """
    Map the pool of a node, and what it wakes its consumers by; raises PoolError.

    :param answer: the node's answer to 'open'
    """
    if answer.get('pins'):
        try:
            return _by_pins(client, answer['pins'], int(answer['pool_id']), answer['rings'])
        except (PoolError, OSError):
            pass  # no bpffs here, or a kernel or a folder that keeps ordinary users out
    handed, descriptors = client.ask(op='maps')
    try:
        names = handed['descriptors']
        if len(names) != len(descriptors):
            raise PoolError('map the pool', f'{len(descriptors)} of {len(names)} descriptors came',
                            next_step='raise the limit of open files: ulimit -n')
        by_name = dict(zip(names, descriptors, strict=True))
        wakes = {int(name[5:]): fd for name, fd in by_name.items() if name.startswith('wake_')}
        if answer['backing'] == 'file':
            memory = PoolMemory.from_file_descriptor(by_name['file'])
        else:
            memory = PoolMemory.from_descriptors(by_name)
        return memory, Waking(wakes, client.fileno(), ring=answer['backing'] == 'kernel')
    finally:
        for fd in descriptors:
            os.close(fd)


def _by_pins(client, directory, identifier, rings):
    memory = PoolMemory.from_pins(directory, identifier)
    wakes = {}
    try:
        for ring in range(rings):
            wakes[ring] = syscall.obj_get(f'{directory}/wake_{ring}')
        return memory, Waking(wakes, client.fileno())
    finally:
        for fd in wakes.values():
            os.close(fd)


def own_name() -> str:
    """Return this process's command, by which the node shows a consumer."""
    with open('/proc/self/comm', encoding='utf-8') as stream:
        return stream.read().strip()
