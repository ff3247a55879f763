"""A root array of one interface, until the process is killed; see support.array_processes."""

import json
from pathlib import Path
import sys
from types import SimpleNamespace

from ipc_bypass.xdp.interfaces import find
from ipc_bypass.xdp.kinds import SlotProgram
from ipc_bypass.xdp.root import RootArray, RootSettings

from support.processes import reply


def main(name, pin_directory, program):
    """Make the array, say what it has, and wait for the end of the input."""
    source, function = json.loads(program)
    interface = find(name) if name else SimpleNamespace(index=1, mtu=1500)
    with RootArray(interface, RootSettings(pin_directory=pin_directory)) as array:
        def ready():
            slot = array.load(2, SlotProgram('own', Path(source), function))
            if name:
                array.attach('native')
            return {'program': slot.program_id}
        reply(ready)
        sys.stdin.read()


if __name__ == '__main__':
    main(*sys.argv[1:])
