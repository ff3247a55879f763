"""
The sampler's structs and constants, for processes that have nothing but its pinned maps.

A mirror of bpf/xdp_sampler.h and of struct xdp_facts in bpf/xdp_common.h; a test holds it against
what the compiler says of them.
"""

import struct

#: Most bytes of a packet in a sample; places are 0 for packets without a rule, then the rules.
SNAP, PLACES = 256, 16
#: Readers in the order of enum sampler_reader, with the maps of their ring buffers.
READERS = {'node': 'sampler_samples', 'capture': 'sampler_captures'}
WORD_GENERATION, WORD_HEARTBEAT = 0, 1
RANDOM, ADDRESSES = 1, 2

#: source, source_mask, destination, destination_mask, every, port_first, port_span, protocol,
#: protocol_mask, family, family_mask
RULE = struct.Struct('=16s16s16s16sIHHBBBB')
#: every, snap, rules, flags, heartbeat_ns; PLACES rules follow, the first of them unused.
SETTINGS_HEAD = struct.Struct('=IIIIQ')
SETTINGS_SIZE = SETTINGS_HEAD.size + PLACES * RULE.size
#: seen, selected by place, written, full and unread by reader, not_copied
STATE = struct.Struct(f'={1 + PLACES + 3 * len(READERS) + 1}Q')
#: ... and places' countdowns, and a generation
STATE_SIZE = STATE.size + 4 * PLACES + 8
#: time_ns, interface, queue, captured, every, place, unused; then the facts: magic, family,
#: protocol, flags, ethertype, l3_offset, l4_offset, payload_offset, source_port,
#: destination_port, vlan, length; then the captured bytes
SAMPLE = struct.Struct('=QIIIIII' 'HBBHHHHHHHHI')
#: reader, epoch
LEASE_KEY = struct.Struct('=II')
#: taken_ns, pid, pid_namespace, name
LEASE = struct.Struct('=QII16s')
MAPS = ('sampler_words', 'sampler_settings', 'sampler_state', 'sampler_leases', *READERS.values())
