"""
Where this kernel keeps what the trace path reads of a send, from the kernel's own BTF.

`python -m ipc_bypass.trace.offsets` prints the definitions as JSON.
"""

from ipc_bypass.kernel.btf_child import from_child, print_answer
from ipc_bypass.kernel.errors import UnsupportedError

#: Definition for the program: structs and members, the first that this kernel has.
MEMBERS = {
    'OFFSET_FAMILY': (('sock', '__sk_common.skc_family'),),
    'OFFSET_PORT': (('sock', '__sk_common.skc_num'),),
    'OFFSET_REMOTE_PORT': (('sock', '__sk_common.skc_dport'),),
    'OFFSET_REMOTE_V4': (('sock', '__sk_common.skc_daddr'),),
    'OFFSET_LOCAL_V4': (('sock', '__sk_common.skc_rcv_saddr'),),
    'OFFSET_REMOTE_V6': (('sock', '__sk_common.skc_v6_daddr'),),
    'OFFSET_LOCAL_V6': (('sock', '__sk_common.skc_v6_rcv_saddr'),),
    'OFFSET_COOKIE': (('sock', '__sk_common.skc_cookie'),),
    'OFFSET_NAME': (('msghdr', 'msg_name'),),
    'OFFSET_ITERATOR': (('msghdr', 'msg_iter'),),
    'OFFSET_SKIP': (('iov_iter', 'iov_offset'),),
    'OFFSET_COUNT': (('iov_iter', 'count'),),
    'OFFSET_SEGMENTS': (('iov_iter', '__iov'), ('iov_iter', 'iov')),  # renamed in 6.4
    'OFFSET_SEGMENTS_NUMBER': (('iov_iter', 'nr_segs'),),
    'OFFSET_KIND': (('iov_iter', 'iter_type'), ('iov_iter', 'type')),  # a byte from 5.14 on
}
#: No kind of bytes: the kernel has no iterator of one user address (ITER_UBUF, from 6.0).
_NO_KIND = 0xff


def definitions(btf):
    """Return the program's definitions for a kernel's Btf; raises UnsupportedError."""
    found = {name: _first(btf, places) for name, places in MEMBERS.items()}
    # Before 5.14 the lowest bit of the kind is the direction.
    found['KIND_MASK'] = 0xfe if _first(btf, (('iov_iter', 'iter_type'),), None) is None else 0xff
    found['KIND_SEGMENTS'] = btf.enumerator('ITER_IOVEC')
    try:
        found['KIND_BYTES'] = btf.enumerator('ITER_UBUF')
    except UnsupportedError:
        found['KIND_BYTES'] = _NO_KIND
    return found


def _first(btf, places, *default):
    for number, (struct, member) in enumerate(places):
        try:
            return btf.offset(struct, member)
        except UnsupportedError:
            if number == len(places) - 1:
                if default:
                    return default[0]
                raise
    return None


def kernel_definitions():
    """Return the running kernel's definitions; raises UnsupportedError."""
    return from_child(__name__)


if __name__ == '__main__':
    print_answer(definitions)
