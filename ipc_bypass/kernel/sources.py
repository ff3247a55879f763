"""Where the BPF sources are: installed in the package's share folder, or in the source tree."""

import os
from pathlib import Path

from ipc_bypass.kernel.errors import BypassError


def bpf_source(name):
    """
    Return the path of a BPF source file.

    The tree that this module is in comes first, so that a checkout uses its own programs; then
    share/ipc_bypass/bpf of every prefix on AMENT_PREFIX_PATH. Raises BypassError.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / 'bpf']
    # lib/pythonX.Y/site-packages/ipc_bypass of an install prefix
    places += [parent / 'share' / 'ipc_bypass' / 'bpf' for parent in package.parents[2:5]]
    places += [Path(prefix) / 'share' / 'ipc_bypass' / 'bpf'
               for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise BypassError(f'find the program {name}', 'no bpf folder holds it',
                      next_step='build the package with colcon and source its install/setup.sh')
