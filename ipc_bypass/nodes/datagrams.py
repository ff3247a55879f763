"""What the UDP path says, as members of the statistics message."""

from ipc_bypass_interfaces.msg import Counter, EndpointCounter

#: Counters whose growth is shown as a rate.
CAPTURED = ('captured_mirror', 'captured_divert', 'captured_mirror_bytes',
            'captured_divert_bytes')
#: Most senders and ports in one message; those that sent most come first.
MOST_ENDPOINTS = 256


def add_datagrams(message, path, rates):
    """
    Fill in what a BypassStatistics message says of datagrams; UDP counters begin with 'udp_'.

    :param path: the UdpPath
    :param rates: conversions.Rates of CAPTURED
    """
    counters = path.counters()
    if not counters:
        return
    message.datagrams_mirrored = counters['captured_mirror']
    message.datagrams_diverted = counters['captured_divert']
    message.datagrams_passed = sum(passed_by_reason(counters).values())
    message.datagrams = (message.datagrams_mirrored + message.datagrams_diverted
                         + message.datagrams_passed)
    message.datagram_bytes_captured = (counters['captured_mirror_bytes']
                                       + counters['captured_divert_bytes'])
    growth = rates.update(counters)
    message.datagrams_captured_per_second = growth['captured_mirror'] + growth['captured_divert']
    message.datagram_bytes_captured_per_second = (growth['captured_mirror_bytes']
                                                  + growth['captured_divert_bytes'])
    pool = path.pool
    message.pool_slots, message.pool_slots_used = list(pool['slots']), list(pool['used'])
    message.counters = [*message.counters, *(
        Counter(name=f'udp_{name}', value=value, unit=unit_of(name))
        for name, value in counters.items())]
    endpoints = path.endpoints()
    message.endpoints = [
        EndpointCounter(**{name: endpoint[name] for name in (
            'port', 'pid', 'command', 'captured', 'captured_bytes', 'passed', 'passed_bytes')})
        for endpoint in sorted(endpoints, key=lambda one: -one['captured'] - one['passed'])
        [:MOST_ENDPOINTS]]
    message.endpoints_left_out = max(0, len(endpoints) - MOST_ENDPOINTS)


def passed_by_reason(counters):
    """Return the counters of datagrams that went the usual way, by name."""
    return {name: value for name, value in counters.items()
            if name.startswith('passed_') and name != 'passed_bytes'}


def unit_of(counter):
    """Return the unit of a UDP counter's value."""
    if counter.endswith('_bytes') or counter.startswith('trace_bytes'):
        return 'bytes'
    if counter.startswith(('captured_', 'passed_', 'sent_on', 'stranded', 'endpoints_full')):
        return 'datagrams'
    return 'slots' if counter.startswith('slot') else 'events'
