"""
The program's arrays, mapped into this process: flow records, totals, settings, port rules.

All are BPF_F_MMAPABLE arrays (from kernel 5.5), so that reading a thousand flows is no system
call. One word is written at a time, by a memoryview of that width: the programs run meanwhile.
"""

from dataclasses import dataclass
import mmap
import socket
import struct

_WORD = 8
ADDRESS_PREFIX_V4 = b'\0' * 10 + b'\xff\xff'


class ArrayView:
    """An mmapable array of `count` values of a StructLayout (or of u32 without one)."""

    def __init__(self, loaded_map):
        """Map a LoadedMap, read and write."""
        self.layout = loaded_map.value
        self.count = loaded_map.max_entries
        # The kernel rounds each value up to eight bytes (kernel/bpf/arraymap.c).
        self.stride = (loaded_map.value_size + _WORD - 1) // _WORD * _WORD
        self._map = mmap.mmap(loaded_map.fd, self.stride * self.count, mmap.MAP_SHARED,
                              mmap.PROT_READ | mmap.PROT_WRITE)
        self._wide = memoryview(self._map).cast('Q')
        self._narrow = memoryview(self._map).cast('I')

    def close(self):
        """Unmap; the view cannot be used afterwards."""
        self._wide.release()
        self._narrow.release()
        self._map.close()

    def get(self, index, field):
        """Return one number of one value."""
        words, place = self._place(index, field)
        return words[place]

    def put(self, index, field, value):
        """Write one number of one value, with one store."""
        words, place = self._place(index, field)
        words[place] = value

    def put_item(self, index, field, item, value):
        """Write one number of an array of eight-byte numbers in one value."""
        words, place = self._wide, self.layout.fields[field].offset // 8
        words[index * self.stride // 8 + place + item] = value

    def record(self, index):
        """Return one value as a dict, from one copy of its bytes."""
        start = index * self.stride
        return self.layout.unpack(self._map[start:start + self.layout.size])

    def clear(self, index):
        """Write zeros over one value; nothing else may use it."""
        start = index * self.stride
        self._map[start:start + self.stride] = bytes(self.stride)

    def _place(self, index, field):
        place = self.layout.fields[field]
        start = index * self.stride + place.offset
        return (self._wide, start // 8) if place.size == 8 else (self._narrow, start // 4)


class RulesView(ArrayView):
    """The action of each TCP port."""

    def write(self, actions):
        """Write a list of 65,536 actions; only ports that change are touched."""
        step, words = self.stride // 4, self._narrow
        for port, action in enumerate(actions):
            if words[port * step] != action:
                words[port * step] = action


class FlowsView(ArrayView):
    """The flow records."""

    def live(self):
        """Return the indices of the records in use."""
        step, first = self.stride // 8, self.layout.fields['cookie'].offset // 8
        words = self._wide
        return [index for index in range(self.count) if words[index * step + first]]


class TotalsView(ArrayView):
    """The sums over closed flows, and the events."""

    def consistent(self, read):
        """
        Return (totals as a dict, what `read()` returned), with no close in between.

        A close adds a record to the totals and then frees it; read across one, its messages
        would count twice or not at all.
        """
        for _ in range(64):
            before = self.record(0)
            if before['closing'] == before['closed']:
                answer = read()
                if self.get(0, 'closing') == before['closing']:
                    return before, answer
        return self.record(0), read()


@dataclass(frozen=True)
class Endpoint:
    """An address (text, IPv4 where it is a mapped one) and a port."""

    address: str
    port: int


def endpoints(key):
    """Return (family 4 or 6, local Endpoint, remote Endpoint) of an unpacked struct end_key."""
    local, remote = (struct.pack('=4I', *key[name])
                     for name in ('local_address', 'remote_address'))
    mapped = local.startswith(ADDRESS_PREFIX_V4)
    return (4 if mapped else 6, Endpoint(_text(local, mapped), key['local_port']),
            Endpoint(_text(remote, mapped), key['remote_port']))


def _text(address, mapped):
    if mapped:
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)
