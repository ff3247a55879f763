"""
The filter's rules as classic BPF on a socket of the user's own program: dropping is real there.

It needs no privilege and no XDP. It judges what the kernel hands to that one socket: whole
datagrams of UDP, or segments of TCP, so that settings about fragments, broken frames and sizes
have no meaning. Rules are looked at one by one in the order of their ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
import ctypes
import socket
import struct

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.xdp.filter.rule_table import FilterTable
from ipc_bypass.xdp.filter.rules import FilterRule, RTPS, TCP, UDP
from ipc_bypass.xdp.filter.settings import FilterSettings

#: BPF_MAXINSNS of uapi/linux/bpf_common.h.
MOST_INSTRUCTIONS = 4096
# asm-generic/socket.h
_ATTACH, _DETACH = 26, 27
# uapi/linux/bpf_common.h, uapi/linux/filter.h: classes, sizes and modes, as one code each.
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_LENGTH = 0x20, 0x28, 0x30, 0x80
_AND, _SHIFT_RIGHT, _RETURN = 0x54, 0x74, 0x06
_JUMP, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST = 0x05, 0x15, 0x25, 0x35
_NETWORK = 0xfff00000  # SKF_NET_OFF: from the start of the IP header
_PASS, _DROP = 0xffffffff, 0
_NEXT_RULE = -1
_MAGIC = 0x52545053  # 'RTPS'


def filter_socket(sock: socket.socket, settings: FilterSettings,
                  rules: Iterable[FilterRule] | None = None) -> int:
    """
    Have a socket drop what the rules deny, in place of any filter that it has.

    :param sock: of UDP or TCP, IPv4 or IPv6
    :param settings: default_action, and the rules unless `rules` are given
    :returns: how many instructions it took
    :raises BypassError: it is another kind of socket, or the rules are too many
    """
    if rules is None:
        table = FilterTable()
        table.replace(settings.rules)
        rules = table.rules()
    protocols = {socket.SOCK_DGRAM: UDP, socket.SOCK_STREAM: TCP}
    if sock.type not in protocols or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise BypassError('filter a socket', 'it is neither of UDP nor of TCP',
                          next_step='use UserSpaceFilter for frames')
    code = assemble(settings, rules, protocols[sock.type], sock.family == socket.AF_INET6)
    if len(code) > MOST_INSTRUCTIONS:
        raise BypassError('filter a socket', f'the rules take {len(code)} instructions, '
                          f'{MOST_INSTRUCTIONS} have room',
                          next_step='use ranges and prefixes, or fewer rules')
    block = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *one) for one in code))
    try:
        # struct sock_fprog of uapi/linux/filter.h
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH,
                        struct.pack('@HP', len(code), ctypes.addressof(block)))
    except OSError as error:
        raise BypassError('filter a socket', f'{len(code)} instructions: {error.strerror}',
                          errno=error.errno or 0,
                          next_step='use fewer rules, or raise net.core.optmem_max') from error
    return len(code)


def release_socket(sock: socket.socket) -> None:
    """Take the filter off a socket; having none is no error."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    except FileNotFoundError:
        pass


def assemble(settings: FilterSettings, rules: Iterable[FilterRule],
             protocol: int, ipv6: bool = True) -> list[tuple[int, int, int, int]]:
    """
    Return the program as (code, jump if true, jump if false, number).

    :param protocol: that of the socket
    :param ipv6: whether packets of IPv6 come to it, and of IPv4 as well
    """
    ordered = [rule for rule in sorted(rules, key=lambda rule: rule.rank)
               if rule.protocol in (None, protocol)]
    last = (_RETURN, 0, 0, _DROP if settings.default_action == 'deny' else _PASS)
    parts = {version: [step for rule in ordered for step in _rule(rule, version)] + [last]
             for version in (4, 6)}
    if not ipv6:
        return parts[4]
    return [(_LOAD_BYTE, 0, 0, _NETWORK), (_SHIFT_RIGHT, 0, 0, 4),
            (_IF_EQUAL, 1, 0, 4), (_JUMP, 0, 0, len(parts[4])), *parts[4], *parts[6]]


def _rule(rule, version):
    """Return the steps of one rule; a condition that does not hold jumps behind the last one."""
    steps = []
    for network, place in ((rule.source, 12 if version == 4 else 8),
                           (rule.destination, 16 if version == 4 else 24)):
        if network is not None:
            if network.version != version:
                return []
            steps += _address(network, place)
    for ports, place in ((rule.source_ports, 0), (rule.destination_ports, 2)):
        if ports is not None:
            steps.append((_LOAD_HALF, 0, 0, place))
            if ports[0] == ports[1]:
                steps.append((_IF_EQUAL, 0, _NEXT_RULE, ports[0]))
            else:
                steps += [(_IF_AT_LEAST, 0, _NEXT_RULE, ports[0]),
                          (_IF_GREATER, _NEXT_RULE, 0, ports[1])]
    if rule.payload == RTPS:
        steps += [(_LOAD_LENGTH, 0, 0, 0), (_IF_AT_LEAST, 0, _NEXT_RULE, 12),
                  (_LOAD_HALF, 0, 0, 4), (_IF_AT_LEAST, 0, _NEXT_RULE, 12),
                  (_LOAD_WORD, 0, 0, 8), (_IF_EQUAL, 0, _NEXT_RULE, _MAGIC)]
    elif rule.payload:
        # Too short for it: on to the verdict, over what is left of these steps.
        steps += [(_LOAD_LENGTH, 0, 0, 0), (_IF_AT_LEAST, 0, 4, 12),
                  (_LOAD_HALF, 0, 0, 4), (_IF_AT_LEAST, 0, 2, 12),
                  (_LOAD_WORD, 0, 0, 8), (_IF_EQUAL, _NEXT_RULE, 0, _MAGIC)]
    steps.append((_RETURN, 0, 0, _PASS if rule.action == 'allow' else _DROP))
    return [(code, *(len(steps) - 1 - number if jump == _NEXT_RULE else jump
                     for jump in jumps), value)
            for number, (code, *jumps, value) in enumerate(steps)]


def _address(network, place):
    """Return the steps that compare an address with a prefix, by words of 32 bits."""
    wanted, mask = network.network_address.packed, network.netmask.packed
    steps = []
    for start in range(0, len(wanted), 4):
        word, bits = (int.from_bytes(block[start:start + 4], 'big') for block in (wanted, mask))
        if bits:
            steps.append((_LOAD_WORD, 0, 0, _NETWORK + place + start))
            if bits != 0xffffffff:
                steps.append((_AND, 0, 0, bits))
            steps.append((_IF_EQUAL, 0, _NEXT_RULE, word))
    return steps
