"""What a forward is told: where it listens, where it connects, and its limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from ipc_bypass.proxy.endpoint import Endpoint, is_local
from ipc_bypass.proxy.errors import ForwardError

#: How bytes may be moved; 'auto' takes the first that can be had and helps.
PATHS = ('auto', 'shortcut', 'sk_skb', 'splice')
_SWITCHES = {'on': True, 'true': True, 'yes': True, 'off': False, 'false': False, 'no': False}
_LIMITS = {'idle_timeout_s': (0.0, 604_800.0), 'connect_timeout_s': (0.05, 600.0),
           'max_connections': (1, 100_000)}


@dataclass(frozen=True)
class Forward:
    """
    One forward.

    :param listen: where it listens
    :param backend: where it connects for each connection that it accepts
    :param path: one of PATHS; what a connection cannot have is replaced by 'splice'
    :param idle_timeout_s: seconds without a byte after which a connection is closed; 0: never
    :param connect_timeout_s: seconds that the backend has to accept
    :param max_connections: at once; those above wait in the listener's queue
    :param proxy_protocol: tell the backend who the client is, by a PROXY protocol v2 header
    """

    listen: Endpoint
    backend: Endpoint
    path: str = 'auto'
    idle_timeout_s: float = 0.0
    connect_timeout_s: float = 5.0
    max_connections: int = 10_000
    proxy_protocol: bool = False

    @classmethod
    def parse(cls, text: str, defaults: Forward | None = None) -> Forward:
        """
        Return the forward that a text like '0.0.0.0:9090 -> 192.0.2.7:9090 path=splice' names.

        :param defaults: a forward whose options hold where the text names none
        :raises ForwardError: when it cannot be read or makes no sense
        """
        words = text.replace('->', ' -> ').split()
        if len(words) < 3 or words[1] != '->':
            raise ForwardError(f"read the forward '{text}'", 'it is not of the form '
                               'listen:port -> backend:port option=value ...',
                               code='INVALID_ADDRESS')
        options = {}
        for word in words[3:]:
            name, equals, value = word.partition('=')
            if not equals or name not in _OPTIONS:
                raise ForwardError(f"read the forward '{text}'", f"there is no option '{word}'",
                                   code='INVALID_OPTION',
                                   next_step='options are ' + ', '.join(_OPTIONS))
            options[name] = _read(name, value, text)
        ends = {'listen': Endpoint.parse(words[0]), 'backend': Endpoint.parse(words[2])}
        made = cls(**ends, **options) if defaults is None else replace(
            defaults, **ends, **options)
        return made.check()

    def check(self) -> Forward:
        """Return itself if its values make sense; raises ForwardError."""
        if self.path not in PATHS:
            raise ForwardError(f"use the path '{self.path}'", 'there is no such path',
                               code='INVALID_OPTION', next_step='use one of ' + ', '.join(PATHS))
        if self.listen.is_name:
            raise ForwardError(f'listen on {self.listen}', 'it is a name',
                               code='INVALID_ADDRESS', next_step='name an address of this host')
        if self.backend.is_wildcard:
            raise ForwardError(f'connect to {self.backend}', 'it stands for every address',
                               code='INVALID_ADDRESS', next_step='name one address')
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ForwardError(f'use {name}={value:g}', f'it is {least:g} to {most:g}',
                                   code='INVALID_OPTION')
        return self

    def __str__(self) -> str:
        """Return the form that parse takes, with the options that are not the default's."""
        words = [f'{self.listen} -> {self.backend}']
        for name, default in _OPTIONS.items():
            value = getattr(self, name)
            if value != default:
                text = {True: 'on', False: 'off'}.get(value) if isinstance(value, bool) else (
                    value if isinstance(value, str) else f'{value:g}')
                words.append(f'{name}={text}')
        return ' '.join(words)


_OPTIONS = {each.name: each.default for each in fields(Forward)
            if each.name not in ('listen', 'backend')}


def _read(name: str, value: str, text: str) -> str | bool | int | float:
    default = _OPTIONS[name]
    try:
        if isinstance(default, bool):
            return _SWITCHES[value.lower()]
        return type(default)(value)
    except (KeyError, ValueError):
        raise ForwardError(f"read the forward '{text}'", f"{name} cannot be '{value}'",
                           code='INVALID_OPTION') from None


def check_loop(wanted: Forward, backends: Iterable[Endpoint],
               others: Iterable[tuple[Forward, Iterable[Endpoint]]]) -> None:
    """
    Refuse a forward by which a connection would come back to where it began.

    Only what can be seen from here is found: forwards of this node, in this network namespace.

    :param backends: the addresses of its backend
    :param others: the other forwards, with the addresses of theirs
    :raises ForwardError: FORWARD_TO_ITSELF
    """
    there, seen = [(wanted, tuple(backends)), *others], {id(wanted)}
    waiting = [there[0]]
    while waiting:
        _forward, targets = waiting.pop()
        for target in targets:
            if not is_local(target.host):
                continue
            for each, behind in there:
                if not _listens_at(each.listen, target):
                    continue
                if each is wanted:
                    raise ForwardError(f'forward {wanted.listen} to {wanted.backend}',
                                       'that comes back to the forward itself',
                                       code='FORWARD_TO_ITSELF',
                                       next_step='name another backend')
                if id(each) not in seen:
                    seen.add(id(each))
                    waiting.append((each, behind))


def _listens_at(listen: Endpoint, target: Endpoint) -> bool:
    """Return whether a listener takes what is sent to a local address."""
    if listen.port != target.port:
        return False
    return listen.host == target.host or listen.host == '::' or (
        listen.host == '0.0.0.0' and ':' not in target.host)
