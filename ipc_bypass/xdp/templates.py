"""Programs of root arrays, compiled once whatever the number of interfaces, and kept."""

import threading

from ipc_bypass.kernel.errors import LoaderError
from ipc_bypass.kernel.loader import ProgramSpec, read_source
from ipc_bypass.kernel.sources import bpf_source
from ipc_bypass.kernel.template_cache import cached_template
from ipc_bypass.kernel.uapi import AttachType, ProgType
from ipc_bypass.xdp.kinds import SHARED_MAPS


class Templates:
    """The compiled programs that this process has used; safe for several threads."""

    def __init__(self):
        """Make an empty one."""
        self._lock, self._compiled = threading.Lock(), {}

    def root(self, frags, attach_type=AttachType.XDP):
        """Return the Template of the root program; all of an array have one attach type."""
        return self._get(bpf_source('xdp_root.bpf.c'), 'xdp_root', {}, frags, attach_type)

    def slot(self, program, index, frags, attach_type=AttachType.XDP):
        """Return the Template of a SlotProgram for the slot of this number."""
        return self._get(program.source, program.program,
                         {**program.definitions, 'SLOT': index}, frags, attach_type)

    def _get(self, source, program, definitions, frags, attach_type):
        text = read_source(source)
        if frags:
            definitions = {**definitions, 'XDP_FRAGS': 1}
        key = text, program, tuple(sorted(definitions.items())), attach_type
        with self._lock:
            if key not in self._compiled:
                made = cached_template(source, definitions, [
                    ProgramSpec(program, ProgType.XDP, attach_type)])
                if not set(SHARED_MAPS) <= set(made.maps):
                    raise LoaderError(
                        f'compile {source.name}', 'it does not include xdp_slot.bpf.h',
                        next_step='write the program with XDP_SLOT(name), see docs/xdp.md')
                self._compiled[key] = made
            return self._compiled[key]
