"""
Where this kernel keeps what the TCP path reads of sockets, from the kernel's own BTF.

The BTF of a kernel is several megabytes, so it is read in a short-lived child:
`python -m ipc_bypass.tcp.offsets` prints the offsets as JSON.
"""

import sys

from ipc_bypass.kernel.btf_child import from_child, print_answer
from ipc_bypass.kernel.errors import UnsupportedError
from ipc_bypass.tcp.watch_offsets import watch_definitions

#: Definition for the program: struct and member. `None` in the answer where there is no such.
MEMBERS = {
    'OFFSET_COOKIE': ('sock', '__sk_common.skc_cookie'),
    'OFFSET_USER_DATA': ('sock', 'sk_user_data'),
    'OFFSET_RMEM_ALLOC': ('sock', 'sk_backlog.rmem_alloc'),
    'OFFSET_COPIED_SEQ': ('tcp_sock', 'copied_seq'),
    'OFFSET_RCV_NXT': ('tcp_sock', 'rcv_nxt'),
    'OFFSET_WRITE_SEQ': ('tcp_sock', 'write_seq'),
    'OFFSET_ULP_OPS': ('inet_connection_sock', 'icsk_ulp_ops'),
    'OFFSET_RCVLOWAT': ('sock', 'sk_rcvlowat'),
    'OFFSET_PSOCK_BACKLOG': ('sk_psock', 'ingress_skb.qlen'),
    'OFFSET_PSOCK_QUEUED': ('sk_psock', 'msg_tot_len'),
}
#: Without one of these the program cannot prove that TCP's queues are empty.
REQUIRED = ('OFFSET_COOKIE', 'OFFSET_USER_DATA', 'OFFSET_COPIED_SEQ', 'OFFSET_RCV_NXT',
            'OFFSET_WRITE_SEQ', 'OFFSET_PSOCK_BACKLOG')
#: One of these says how much a receiver has queued; sk_rmem_alloc counts redirected bytes from
#: kernel 6.13 on (tcp_bpf: sk_rmem_alloc related logic), so that it is used from there only.
QUEUED = ('OFFSET_PSOCK_QUEUED', 'OFFSET_RMEM_ALLOC')
UNKNOWN = 0xffffffff
#: In the answer: what `watch_offsets.watch_definitions` returns.
WATCH = 'watch'


def kernel_offsets():
    """
    Return the offsets in bytes by definition name, None where the kernel has no such member.

    Raises UnsupportedError where the kernel offers no BTF.
    """
    return from_child(__name__)


def _read(btf):
    found = {}
    for name, (struct, member) in MEMBERS.items():
        try:
            found[name] = btf.offset(struct, member)
        except UnsupportedError:
            found[name] = None
    return {**found, **_zerocopy(btf), WATCH: watch_definitions(btf)}


def _zerocopy(btf):
    """Return where the word of a socket's flags is that says SO_ZEROCOPY, and the bit in it."""
    try:
        place, bit = btf.offset('sock', '__sk_common.skc_flags'), btf.enumerator('SOCK_ZEROCOPY')
    except UnsupportedError:
        return {'OFFSET_SOCK_FLAGS': None, 'MASK_ZEROCOPY': 0}
    if sys.byteorder == 'big':
        return {'OFFSET_SOCK_FLAGS': None, 'MASK_ZEROCOPY': 0}  # a word of 32 bits, or of 64
    return {'OFFSET_SOCK_FLAGS': place + bit // 32 * 4, 'MASK_ZEROCOPY': 1 << bit % 32}


if __name__ == '__main__':
    print_answer(_read)
