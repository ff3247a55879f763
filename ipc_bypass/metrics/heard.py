"""The last message of a node, and for how long it holds."""

from __future__ import annotations

from collections.abc import Callable

#: States in which a node publishes in periods, as lifecycle_msgs State ids: inactive and active.
PERIODIC = (2, 3)
# Periods of a topic after which a message is stale.
_PERIODS = 3.0


class Heard:
    """
    The last message of a topic, and until when it holds.

    :param stale_after: seconds without a message after which the last one is stale; three
        periods of the topic, where that is longer
    :param clock: seconds that never go back
    """

    def __init__(self, stale_after: float, clock: Callable[[], float]) -> None:
        self._stale_after, self._clock = stale_after, clock
        self._at = self._period = 0.0
        #: The last message, also where it does not hold any more; None before the first one.
        self.last = None

    def take(self, message) -> None:
        """Note a message."""
        now = self._clock()
        same = self.last is not None and self.last.state == message.state
        self._period = now - self._at if same else 0.0
        self.last, self._at = message, now

    @property
    def silence(self) -> float:
        """
        Return for how many seconds nothing came, 0 where that is no cause for worry.

        A node that is not configured publishes at changes only.
        """
        silent = self._clock() - self._at
        if self.last is None or self.last.state not in PERIODIC or silent <= max(
                self._stale_after, _PERIODS * self._period):
            return 0.0
        return silent

    def fresh(self, publishers: int = 1):
        """
        Return the last message, None where it does not hold any more.

        :param publishers: of the topic; none is enough where a node publishes at changes only,
            and DDS forgets one some time after a crash
        """
        if not publishers:
            self.last = None
        return None if self.silence else self.last
