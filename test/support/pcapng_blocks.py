"""The blocks of a pcapng file, read by hand: for what tshark does not show."""

import struct


def blocks(data):
    """Yield (type, body, {option: [values]}) of a file, its lengths checked."""
    place = 0
    fixed = {0x0a0d0d0a: 16, 1: 8, 5: 12}
    while place < len(data):
        kind, total = struct.unpack_from('<II', data, place)
        assert total % 4 == 0
        assert struct.unpack_from('<I', data, place + total - 4) == (total,)
        body = data[place + 8:place + total - 4]
        if kind == 6:
            captured, = struct.unpack_from('<I', body, 12)
            size = 20 + captured + -captured % 4
        else:
            size = fixed[kind]
        yield kind, body[:size], dict(options(body[size:]))
        place += total


def options(data):
    """Yield (code, value) up to the end of options."""
    place = 0
    while place < len(data):
        code, length = struct.unpack_from('<HH', data, place)
        if code == 0:
            assert place + 4 == len(data)
            return
        yield code, data[place + 4:place + 4 + length]
        place += 4 + length + -length % 4
