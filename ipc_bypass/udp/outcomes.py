"""What may become of a packet that the TUN bridge was given: names and meanings."""

from __future__ import annotations

import threading

#: What became of the datagrams that were taken from the pool; 'taken' is their sum.
POOL_OUTCOMES = {
    'to_device': 'written to the device',
    'to_local': 'an answer to an address of the local device: written to that',
    'device_refused': 'the device refused it: it is down',
    'mirrored': 'a copy of what goes the usual way, through the local device',
    'sent_on': 'diverted though not to a claimed prefix: sent the usual way',
    'stranded': 'the same, and could not be sent',
    'not_claimed': 'a copy of what goes the usual way, to somewhere else',
    'truncated': 'its first bytes only, of a TCP connection, or scribbled over',
    'overwritten': 'its slot was taken away before it was read',
}
#: What became of packets that were routed into the local device; 'local' is their sum.
LOCAL_OUTCOMES = {
    'local_to_device': 'written to the device',
    'local_refused': 'the device refused it',
    'local_not_claimed': 'not to a claimed prefix',
    'local_malformed': 'no IP packet',
}
#: What became of packets that came out of the device; 'device' is their sum.
DEVICE_OUTCOMES = {
    'answers': 'carried back',
    'answers_refused': 'the local device, or the kernel, refused it',
    'answers_not_claimed': 'not from a claimed prefix',
    'answers_not_carried': 'multicast, broadcast, or to the far end itself',
    'answers_malformed': 'no IP packet',
}
GROUPS = {'taken': POOL_OUTCOMES, 'local': LOCAL_OUTCOMES, 'device': DEVICE_OUTCOMES}


class Tally:
    """Counters by these names; thread-safe. Of each group the first is the sum of the others."""

    def __init__(self) -> None:
        """Begin with zeros."""
        self._lock = threading.Lock()
        self._counters = {name: 0 for total, outcomes in GROUPS.items()
                          for name in (total, *outcomes)}

    def add(self, total: str, outcomes: dict[str, int]) -> None:
        """Count what became of some packets of one group."""
        with self._lock:
            for name, number in outcomes.items():
                self._counters[name] += number
            self._counters[total] += sum(outcomes.values())

    def counters(self) -> dict[str, int]:
        """Return the counters at one moment."""
        with self._lock:
            return dict(self._counters)
