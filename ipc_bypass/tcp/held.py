"""
Records of connections that ended while no program was attached to see it.

The program gives a record back when its socket closes. After a crash, and while the node is
inactive, nobody does; then the sockhash tells which sockets are still there.
"""

from ipc_bypass.kernel import syscall
from ipc_bypass.tcp.flows import SUMS


def collect_closed(objects):
    """
    Give back the records of sockets that are gone, with their counters; return how many.

    Only while nothing is attached: the program does the same, and once is enough.
    """
    flows, totals = objects.flows, objects.totals
    closed_event = objects.enums['total_event']['EVENT_ENDS_CLOSED']
    collected = 0
    for index in flows.live():
        record = flows.record(index)
        if objects.entered(record['key']):
            continue
        sums = totals.record(0)
        for name in SUMS:
            totals.put(0, name, sums[name] + record[name])
        for field, number, count in (
                *(('passed_by_reason', number, count)
                  for number, count in enumerate(record['passed_by_reason'])),
                ('events', closed_event, 1)):
            totals.put_item(0, field, number, sums[field][number] + count)
        flows.put(index, 'cookie', 0)
        syscall.map_delete(objects.maps['ends'].fd,
                           objects.maps['ends'].key.pack(record['key']))
        syscall.map_delete(objects.maps['arrivals'].fd, record['cookie'].to_bytes(8, 'little'))
        syscall.map_update(objects.maps['free_flows'].fd, b'', index.to_bytes(4, 'little'))
        collected += 1
    return collected
