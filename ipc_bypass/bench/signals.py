"""An orderly end of a bench: what a context manager made is removed on a signal as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unwinding() -> Iterator[None]:
    """
    Turn the first SIGINT, SIGTERM or SIGHUP within into SystemExit(128 + number).

    Further ones do nothing, so that the removal is not cut short.
    """
    def stop(number: int, _frame: object) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
