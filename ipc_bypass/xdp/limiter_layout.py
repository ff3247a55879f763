"""
The rate limiter's structs and constants, for processes that have nothing but its pinned maps.

A mirror of bpf/xdp_limiter.h; a test holds it against what the compiler says of it.
"""

import struct

#: Limits at a time, and ranges of ports of one limit.
LIMITS, RANGES = 1024, 8
TIME_SHIFT, COST_SHIFT = 8, 22
#: Kinds of limits in the order of enum limiter_kind: what they hold for, the narrowest first.
KINDS = ('discovery', 'ports', 'all')
WORD_KINDS, WORD_DRY_RUN, WORD_CLOCK = 0, 1, 2
DRY_RUN, PACKETS, BYTES = 1, 2, 4

#: prefix_bits, kind, family, unused, address
PREFIX = struct.Struct('=IBBH16s')
PREFIX_HEAD_BITS = 32
#: packet_cost, packet_capacity, byte_cost, byte_capacity, identity, place, flags, unused, mask,
#: (first, last) of each range
LIMIT = struct.Struct(f'=QQQQIIII16s{2 * RANGES}H')
#: identity, address
BUCKET_KEY = struct.Struct('=I16s')
#: packets, bytes
BUCKET = struct.Struct('=QQ')
#: Fields of struct limiter_counts, in their order.
COUNTS = ('passed', 'passed_bytes', 'dropped_by_packets', 'dropped_by_bytes', 'dropped_bytes',
          'would_drop_by_packets', 'would_drop_by_bytes', 'would_drop_bytes', 'contended',
          'table_full')
#: Fields of struct limiter_totals before its counts.
TOTALS = ('off', 'not_ip', 'unlimited', 'buckets_made')
COUNTS_STRUCT = struct.Struct(f'={len(COUNTS)}Q')
TOTALS_STRUCT = struct.Struct(f'={len(TOTALS) + len(COUNTS)}Q')
MAPS = ('limiter_words', 'limiter_limits', 'limiter_buckets', 'limiter_counts', 'limiter_totals')
