"""Read captured datagrams: as the owner of rules, or as an observer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import contextlib
import os
import socket
import time

from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.kernel.ordering import full_barrier
from ipc_bypass.pool import layout
from ipc_bypass.pool.batch import Batch, Statistics
from ipc_bypass.pool.channel import Client, DEFAULT_SOCKET, VERSION
from ipc_bypass.pool.memory import PoolMemory
from ipc_bypass.pool.opening import open_pool, own_name
from ipc_bypass.pool.reader import ObserverPlaces, OwnerPlaces
from ipc_bypass.rules.table import parse
import numpy as np

#: Seconds between two attempts to reach a node that is gone, or to get a lease that was lost.
_AGAIN = 0.5
#: Looks at the pool between two looks at the clock.
_SPINS = range(64)
_NOTHING = np.empty(0, layout.DESCRIPTOR)

_monotonic = time.monotonic


class Consumer:
    """
    A reader of the pool, for one thread.

    The owner of a rule holds its lease: only then are datagrams captured, its reading renews the
    heartbeat, and it has to release each batch. There is one owner a rule and any number of
    observers, who need not release, and are told what they missed.

    An owner reads at least every `heartbeat_ms` of the node (a read that waits counts), or its
    datagrams go the usual way; a diverted one that it never took is sent on by the node. A lease
    that was lost, and a node that went, are asked for again while it reads; `problem` says why
    nothing comes meanwhile, '' when all is well.
    """

    def __init__(self, rules: Iterable[str] = (), *, observe: bool = False, spin: bool = False,
                 control: str | os.PathLike = DEFAULT_SOCKET, claims: Iterable[str] = (),
                 name: str = '', watermark: int = 1, fallback: bool = False) -> None:
        """
        Reach the node, map the pool, and ask for the lease or begin to observe.

        :param rules: texts as 'udp:7400-7500:divert' or 'udp:7400-7500' for either action; the
            rules within them are asked for or observed; none means all
        :param observe: look only
        :param spin: wait by looking again at once, never by sleeping
        :param control: the node's Unix socket
        :param claims: prefixes outside of this host that may be diverted to this owner (a bridge)
        :param name: shown by the node; the command's name when left out
        :param watermark: datagrams after which a sleeping owner is woken; a heartbeat's third
            after the first of them it wakes by itself
        :param fallback: the node's own: own what is mirrored and nobody else owns
        :raises PoolError: where there is no node, no permission, or no free lease
        :raises RuleError: where `rules` cannot be read
        """
        texts = [text if ':' in text else f'udp:{text}' for text in rules]
        self._filter = [_span(text) for text in texts]
        self._request = {'observe': observe, 'rules': texts, 'claims': list(claims),
                         'name': name or own_name(), 'version': VERSION, 'fallback': fallback}
        self._watermark = watermark
        self._observe, self._spin, self._control = observe, spin, control
        self.statistics, self.problem = Statistics(), ''
        #: Texts of the rules that were enrolled when the node was reached.
        self.rules: list[str] = []
        self._passed: dict[str, int] = {}
        self._client = self._waking = self._memory = None
        self._places, self._due, self._beat_every, self._closed = [], 0.0, _AGAIN, False
        self._connect()

    # Reading ----------------------------------------------------------------------------------

    def read(self, timeout: float | None = None, most: int = 4096) -> Batch:
        """
        Return the next Batch, empty when `timeout` seconds went by; None waits for ever.

        What a node that is gone left in the pool is read first, then the next node's.
        """
        end = None
        take = self._observed if self._observe else self._owned
        while True:
            for places in self._places:
                if places.ready():
                    batch = take(places, most)
                    if batch is not None:
                        return batch
            now = _monotonic()
            if end is None:
                end = float('inf') if timeout is None else now + timeout
            if now >= self._due:
                self._tend(now)
            elif now >= end:
                return Batch(_NOTHING, self._memory)
            else:
                self._wait(now, min(end, self._due))

    def batches(self, timeout: float | None = None, most: int = 4096) -> Iterator[Batch]:
        """Yield batches, releasing each after its turn; empty ones at each timeout."""
        while True:
            with self.read(timeout, most) as batch:
                yield batch

    def skip(self) -> None:
        """Go on with what is captured from now on; an observer's way past what is too much."""
        for places in self._places:
            places.skip()

    def exempt(self, sock: socket.socket) -> None:
        """
        Have the sends of a socket of ours go the usual way; may be called from any thread.

        :raises PoolError: where the node does not do it
        """
        client = self._client
        if client is None:
            raise PoolError('exempt a socket', 'the node is gone')
        client.ask(op='exempt', handed=[sock.fileno()])

    def passed_by_reason(self) -> dict[str, int]:
        """Return how many datagrams were not captured, by reason, as last known."""
        with contextlib.suppress(PoolError, KeyError):
            if self._client:
                self._passed = dict(self._client.ask(op='counters')[0]['passed'])
        return self._passed

    @property
    def connected(self) -> bool:
        """Return whether a node is there."""
        return self._client is not None

    @property
    def memory(self) -> PoolMemory:
        """Return the PoolMemory that is read now."""
        return self._memory

    def close(self) -> None:
        """End the lease; what was not taken is sent on by the node where it was diverted."""
        for part in (self._waking, self._client):
            if part:
                part.close()
        self._client = self._waking = None
        self._places, self._closed, self._due = [], True, 0.0

    def __enter__(self) -> Consumer:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close."""
        self.close()

    # Taking -----------------------------------------------------------------------------------

    def _owned(self, places, most):
        """Return a batch of what is in our ring, None where nothing of it is ours any more."""
        found, statistics = places.take(most), self.statistics
        if not places.holds():
            found = self._settle(places, found)
        fresh = places.fresh(found)
        statistics.expired += len(found) - len(fresh)
        count = len(fresh)
        statistics.taken += count
        return Batch(fresh, places.memory, places, statistics, places.single) if count else None

    def _observed(self, places, most):
        """Return a batch of what is in a ring, None where nothing of it is wanted."""
        missed = places.missed
        found = self._wanted(places.take(most))
        self.statistics.missed += places.missed - missed
        self.statistics.taken += len(found)
        if len(self._places) > 1:  # the others come first next time
            turn = self._places.index(places) + 1
            self._places = self._places[turn:] + self._places[:turn]
        return Batch(found, places.memory, None, self.statistics) if len(found) else None

    def _wanted(self, found):
        """Return those of `found` that the rules of an observer name."""
        if not self._filter or not len(found):
            return found
        ports, actions = found['destination_port'], found['action']
        wanted = np.zeros(len(found), dtype=bool)
        for first, last, action in self._filter:
            span = (ports >= first) & (ports <= last)
            wanted |= span & (actions == action) if action else span
        return found[wanted]

    def _settle(self, places, found):
        """Let go of a lease that was revoked; return those of `found` that are ours still."""
        self.statistics.leases_lost += 1
        self._places, self._due = [], 0.0
        counts = None
        if self._client:
            try:
                counts = int(self._client.ask(op='revoked', ring=places.ring,
                                              generation=places.generation)[0]['cursor'])
            except (PoolError, KeyError, TypeError, ValueError) as error:
                self._disconnect(str(error))
        if counts is None:
            counts = places.counted()
        kept = found[found['number'] <= counts]
        self.statistics.revoked += len(found) - len(kept)
        return kept

    # Waiting ----------------------------------------------------------------------------------

    def _wait(self, now, until):
        """Wait for a datagram or for news of the node, until a moment at the latest."""
        if not self._places or self._client is None:
            time.sleep(until - now)
        elif self._spin:
            self._look(until)
        else:
            self._sleep(until - now)

    def _look(self, until):
        """Look again and again."""
        numbers = self._places[0].memory.descriptor_words
        watched = [places.watch() for places in self._places]
        if len(watched) == 1:
            word, wanted = watched[0]
            while _monotonic() < until:
                for _ in _SPINS:
                    if numbers[word] >= wanted:
                        return
        else:
            while _monotonic() < until:
                for _ in _SPINS:
                    for word, wanted in watched:
                        if numbers[word] >= wanted:
                            return

    def _sleep(self, seconds):
        """Sleep until somebody wakes us."""
        for places in self._places:
            places.ask_to_wake(self._watermark)
        full_barrier()
        if any(places.ready() for places in self._places):
            woken = ended = False
        else:
            woken, ended = self._waking.wait(seconds)
            self.statistics.wakes += woken
        if self._observe or self._places[0].holds():
            for places in self._places:
                places.awake()
        else:
            self._due = 0.0
        if ended and not self._client.alive():
            self._disconnect('the node ended the connection')

    def _tend(self, now):
        """Do what is due now and then: the heartbeat, and a look at the lease and the node."""
        if self._closed:
            raise PoolError('read', 'the consumer is closed')
        self._due = now + _AGAIN
        try:
            if self._client is None:
                self._connect()
            elif not self._client.alive():
                self._disconnect('the node ended the connection')
            elif not self._places:
                self._places, self.problem = self._lease(self._client, self._memory,
                                                         self._waking)
        except PoolError as error:
            self.problem = str(error)
            return
        if self._client and self._places:
            self._due = now + self._beat_every
        for places in self._places:
            if self._observe or places.holds():
                places.beat()
            else:
                self._settle(places, _NOTHING)

    # The node ---------------------------------------------------------------------------------

    def _connect(self):
        """Reach the node; what there was is kept until that is done."""
        client, waking = Client(self._control), None
        try:
            answer, _ = client.ask(op='open', **self._request)
            memory, waking = open_pool(client, answer)
            if self._observe:
                places, problem = [ObserverPlaces(memory, ring)
                                   for ring in range(len(memory.rings))], ''
            else:
                places, problem = self._lease(client, memory, waking)
        except BaseException as error:
            for part in (waking, client):
                if part:
                    part.close()
            if isinstance(error, (KeyError, TypeError, ValueError)):
                raise PoolError('reach the node', f'its answer makes no sense: {error}',
                                next_step='use one installation for both') from error
            raise
        if self._waking:
            self._waking.close()
        self._client, self._waking, self._memory = client, waking, memory
        self._places, self.problem, self.rules = places, problem, answer.get('rules', [])
        self._beat_every = answer['heartbeat_ms'] / 3000
        self._due = _monotonic() + self._beat_every

    @staticmethod
    def _lease(client, memory, waking):
        answer, _ = client.ask(op='lease')
        waking.choose([answer['ring']])
        places = [OwnerPlaces(memory, answer['ring'], answer['generation'], answer['cursor'])]
        return places, '' if answer['rules'] else 'no enrolled rule lies within what it asks for'

    def _disconnect(self, reason):
        """Let go of a node that is gone; what its pool holds can still be read."""
        if self._client:
            self._client.close()
        self._client, self.problem, self._due = None, reason, 0.0


def _span(text):
    """Return (first port, last port, action's number or 0) of a rule's text."""
    rule = parse(text)
    number = {name: action for action, name in layout.ACTIONS.items()}
    return rule.port_first, rule.port_last, number[rule.action] if text.count(':') > 1 else 0
