"""What the tests of `ipc-bypass record` share."""

import signal

from support.waiting import PATIENCE

#: What tshark is asked for; its checksum status is 1 for a good one.
FIELDS = ('_ws.col.Protocol', 'rtps.sm.id', 'rtps.guidPrefix.src', '_ws.malformed',
          'udp.checksum.status', 'ip.checksum.status', 'ip.src', 'ipv6.src', 'udp.srcport',
          'udp.dstport', 'frame.interface_name', 'frame.time_epoch', 'frame.comment',
          'frame.drop_count', 'frame.cap_len', 'frame.len')
GOOD = ['1']


def end(process, number=signal.SIGINT):
    """End a recorder by a signal; return what it said."""
    process.send_signal(number)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert out == ''
    return errors
