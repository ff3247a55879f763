"""Sources of programs for slots, as a user writes them."""

import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp.array_view import VERDICTS
from ipc_bypass.xdp.kinds import SlotProgram

#: Stores the facts of the last packet, and passes it on.
NOTE = """
#include "xdp_slot.bpf.h"
BPF_ARRAY(noted, struct xdp_facts, 1);
struct both {
  __u32 source[4];
  __u32 destination[4];
};
BPF_ARRAY(addresses, struct both, 1);
XDP_SLOT(note_facts)
{
  struct both found = {};
  __u32 zero = 0;
  struct xdp_facts *place = noted.lookup(&zero);

  if (place)
    *place = *facts;
  source_address(ctx, facts, found.source);
  destination_address(ctx, facts, found.destination);
  addresses.update(&zero, &found);
  return XDP_CONTINUE;
}
"""
#: Answers what `answers` says to packets by their destination port, and counts them by it.
ANSWER = """
#include "xdp_slot.bpf.h"
BPF_HASH(by_port, __u16, __u64, 64);
BPF_HASH(answers, __u16, int, 64);
XDP_SLOT(answer_port)
{
  __u16 port = facts->destination_port;
  int *answer = answers.lookup(&port);

  by_port.atomic_increment(port);
  return answer ? *answer : XDP_CONTINUE;
}
"""
#: Cuts CUT bytes off the end of a packet, and passes it on.
CUT = """
#include "xdp_slot.bpf.h"
XDP_SLOT(cut_tail)
{
  bpf_xdp_adjust_tail(ctx, -CUT);
  return XDP_CONTINUE;
}
"""


def own(folder, source, name, **definitions):
    """Return the SlotProgram of a source, written to a file of that folder."""
    path = folder / f'{name}.bpf.c'
    path.write_text(source)
    return SlotProgram('own', path, name, definitions)


def verdicts(**counts):
    """Return counters of a slot: these, and 0 for every other verdict."""
    return {**dict.fromkeys(VERDICTS, 0), **counts}


def set_answers(slot, answers):
    """Have a slot of ANSWER answer so from now on: {port: answer}."""
    for port, value in answers.items():
        syscall.map_update(slot.maps['answers'].fd, struct.pack('=H', port),
                           struct.pack('=i', value))


def seen_ports(slot):
    """Return {port: packets} that a slot of ANSWER counted."""
    return {struct.unpack('=H', key)[0]: struct.unpack('=Q', value)[0]
            for key, value in syscall.map_items(slot.maps['by_port'].fd, 2, 8)}
