"""Pairs of processes with numbered streams between them, and the sum of what they saw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
import time

from fault_lab.script import Script, ScriptError

#: Bytes a second of each direction.
RATE = 20e6
_PATIENCE = 120.0


@dataclass
class Interval:
    """
    What all streams saw since the mark before.

    `plain_s` is the longest time that a direction spent on plain TCP, `gap_s` the longest time
    that a reader got nothing; `lost` is known at the end of a stream alone; `faults` are what
    was not right, one line each.
    """

    sent: int = 0
    received: int = 0
    plain_bytes: int = 0
    plain_s: float = 0.0
    gap_s: float = 0.0
    lost: int = 0
    faults: list[str] = field(default_factory=list)


class Pair:
    """One connection, numbered both ways, between two processes; a context manager."""

    def __init__(self, address: str, port: int, *, server_prefix: Sequence[str] = (),
                 client_prefix: Sequence[str] = (), rate: float = RATE) -> None:
        """Start both, with these words before their commands."""
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.server, self.client = [self._started(stack, role, address, port, rate, words)
                                        for role, words in (('server', server_prefix),
                                                            ('client', client_prefix))]
            self.port = self.client.ask('source')
            self._stack = stack.pop_all()
        self._before: tuple[dict, ...] = ({}, {})

    @staticmethod
    def _started(stack, role, address, port, rate, prefix) -> Script:
        script = stack.enter_context(Script('fault_lab.stream_process', role, address, str(port),
                                            str(rate), prefix=prefix))
        script.answer()  # it listens, or is connected
        return script

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_exception) -> None:
        self._stack.close()

    def mark(self) -> Interval:
        """Return what came of it since the last mark."""
        return self._sum(self.client.ask('mark'), self.server.ask('mark', self.port))

    def finish(self) -> Interval:
        """Stop both directions; what one end sent and the other did not get is a fault."""
        self.client.tell('stop')
        server = self.server.ask('end', self.port)
        client = self.client.answer()
        found = self._sum(client, server)
        for one, other, way in ((client, server, 'to the server'), (server, client, 'back')):
            if one['sent'] != other['received']:
                found.lost += abs(one['sent'] - other['received'])
                found.faults.append(f"{one['sent'] - other['received']} bytes lost {way}")
        return found

    def probe(self, size: int = 1 << 20) -> dict:
        """Use a new connection; return {'plain_share', 'faults'}."""
        port, client = self.client.ask('probe', size)
        server = self.server.ask('end', port)
        faults = client['faults'] + server['faults']
        for one, other in ((client, server), (server, client)):
            if one['sent'] != other['received']:
                faults.append(f"{one['sent'] - other['received']} bytes lost, new connection")
        return {'plain_share': client['passed'] / max(1, client['sent']), 'faults': faults}

    def _sum(self, client: dict, server: dict) -> Interval:
        found = Interval()
        for now, before in zip((client, server), self._before, strict=True):
            found.sent += now['sent'] - before.get('sent', 0)
            found.received += now['received'] - before.get('received', 0)
            found.plain_bytes += now['passed'] - before.get('passed', 0)
            found.plain_s = max(found.plain_s, now['passed_s'])
            found.gap_s = max(found.gap_s, now['gap_s'])
            found.faults += now['faults']
        self._before = client, server
        return found


class Streams:
    """Several pairs as one."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = list(pairs)

    def mark(self) -> Interval:
        """Return what came of all since the last mark."""
        return self._sum([pair.mark() for pair in self.pairs])

    def finish(self) -> Interval:
        """Stop all; return what came of them since the last mark."""
        return self._sum([pair.finish() for pair in self.pairs])

    def wait(self, *, plain: bool | None = False, least: int = 1 << 20,
             timeout: float = _PATIENCE) -> Interval:
        """
        Wait until each pair moved `least` bytes more; return what came of all meanwhile.

        :param plain: all of these by redirect (False), all by TCP (True), or any way (None)
        :raises ScriptError: when that does not come
        """
        deadline, whole = time.monotonic() + timeout, []
        for pair in self.pairs:
            moved = 0
            while moved < least:
                step = pair.mark()
                whole.append(step)
                right = plain is None or (step.plain_bytes == 0) is not plain
                moved = moved + step.received if right else 0
                if time.monotonic() > deadline:
                    raise ScriptError('wait for the streams', f'after {timeout:g} s: {step}')
                time.sleep(0.02)
        return self._sum(whole)

    @staticmethod
    def _sum(parts: Sequence[Interval]) -> Interval:
        """Sum what came one after the other or side by side; of times, the longest or the sum."""
        found = Interval()
        for part in parts:
            for name in ('sent', 'received', 'plain_bytes', 'lost'):
                setattr(found, name, getattr(found, name) + getattr(part, name))
            found.plain_s = max(found.plain_s, part.plain_s)
            found.gap_s = max(found.gap_s, part.gap_s)
            found.faults += [fault for fault in part.faults if fault not in found.faults]
        return found
