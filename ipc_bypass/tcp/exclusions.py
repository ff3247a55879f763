"""
Who is left out of the TCP path: by name or user as it is listed, and who was seen to need it.

A connection is left out when one of its sockets carries a mark: the program mark_socket puts it on
sockets that are made, and this module on listeners that were there before.
"""

from dataclasses import dataclass
import errno
import os
import pwd
import socket
import time

from ipc_bypass.graph.parameter_list import printable
from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.tcp.owners import (
    duplicate,
    open_process,
    raw_comm,
    real_user,
    socket_descriptors,
)

USER = 'user:'
_NAME_BYTES = 15
_MOST = 200
_NOBODY = 2 ** 32 - 1  # what setuid(2) takes for nobody at all
_LISTED = 'listed'


@dataclass(frozen=True)
class Excluded:
    """
    One that is left out.

    `name` is that of the process, with surrogates for bytes that are no text; `port` is that of
    the rule, 0 for any; `reason` a name of UNFIT_* in lower case: 'listed', or what it was seen
    to do; `pid` of the process that did it, 0 where it is listed.
    """

    name: str
    port: int
    reason: str
    pid: int = 0

    def __str__(self):
        """Return it in words, for a terminal."""
        name = printable(self.name)
        if self.reason == _LISTED:
            return f'{name} is left out: it is listed in `exclude`'
        return (f'{name} is left out on port {self.port}: process {self.pid} was seen to use '
                f'{_WORDS.get(self.reason, self.reason)}')


_WORDS = {'splice': 'splice(2), which finds nothing in a redirected socket',
          'waitall': 'MSG_WAITALL, which a redirected socket does not wait for',
          'zerocopy': 'SO_ZEROCOPY, of which redirected sends have no completions',
          'low_water_mark': 'SO_RCVLOWAT, which a redirected socket does not heed'}


def parse(entries):
    """
    Return (names, uids) of the parameter `exclude`: 'haproxy', or 'user:NAME' or 'user:1000'.

    :raises BypassError: when an entry is empty, too long, or names no user
    """
    names, users = set(), set()
    for entry in entries:
        what = f"read '{entry}' in exclude"
        if entry.startswith(USER):
            user = entry.removeprefix(USER)
            try:
                uid = int(user) if user.isascii() and user.isdecimal() else \
                    pwd.getpwnam(user).pw_uid
            except (KeyError, ValueError):
                raise BypassError(what, f'there is no user {user}') from None
            if uid >= _NOBODY:
                raise BypassError(what, f'user ids are below {_NOBODY}')
            users.add(uid)
        elif not _is_name(entry):
            raise BypassError(what, 'it is no name of a process: 1 to 15 bytes, as /proc/PID/comm '
                              'has it')
        else:
            names.add(entry)
    if len(names) > _MOST or len(users) > _MOST:
        raise BypassError('read exclude', f'there are more than {_MOST} entries')
    return names, users


def _is_name(entry):
    try:
        raw = _raw(entry)
    except UnicodeEncodeError:
        return False
    return 0 < len(raw) <= _NAME_BYTES and b'/' not in raw and b'\0' not in raw


class Exclusions:
    """
    The lists of a TcpObjects.

    :param objects: a TcpObjects
    :param told: called with each Excluded that is new
    """

    def __init__(self, objects, told=lambda excluded: None):
        """Make an empty list."""
        self._maps, self._told = objects.maps, told
        self._numbers = objects.enums['unfit']
        self._reasons = {number: name.removeprefix('UNFIT_').lower()
                         for name, number in self._numbers.items()}
        self._known = {}
        # Of maps that were taken over.
        self._users = {int.from_bytes(key, 'little') for key in
                       syscall.map_keys(self._maps['excluded_users'].fd, 4)}
        self._names = {name for _, name, _, entry in self._entries() if self._is_listed(entry)}

    def list_only(self, entries):
        """Make these the listed ones, and mark their listeners; raises BypassError."""
        names, users = parse(entries)
        for name in self._names - names:
            syscall.map_delete(self._maps['exclusions'].fd, self._key(name, 0))
        for user in self._users - users:
            syscall.map_delete(self._maps['excluded_users'].fd, _number(user))
        for name in names - self._names:
            self._insert(name, 0, {})
        for user in users - self._users:
            syscall.map_update(self._maps['excluded_users'].fd, _number(user), _number(1))
        self._names, self._users = names, users
        self.mark_listeners()

    def found(self):
        """Return the Excluded, listed ones first."""
        found = [Excluded(name, port, self._reasons[entry['reason']], entry['pid'])
                 for _, name, port, entry in self._entries()]
        found += [Excluded(f'{USER}{user}', 0, _LISTED) for user in self._users]
        return sorted(found, key=lambda one: (one.reason != _LISTED, one.name, one.port))

    def mark_listeners(self):
        """Mark the listening TCP sockets of who is left out; raises OSError."""
        names = {_raw(name) for _, name, _, _ in self._entries()}
        if not (names or self._users):
            return
        for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
            name = raw_comm(pid)
            if name in names or (self._users and real_user(pid) in self._users):
                _mark(self._maps['exclusion_marks'], pid, name)

    def look(self):
        """Tell of those that are new, and mark what they listen with."""
        self._keep_room()
        new = {}
        for one in self.found():
            if one.reason != _LISTED and (one.name, one.port) not in self._known:
                self._known[one.name, one.port] = one
                new[one.pid] = one
                self._told(one)
        for pid, one in new.items():
            # By the name that was seen: a thread may have one of its own.
            _mark(self._maps['exclusion_marks'], pid, _raw(one.name))
            # Its sockets may be made by a thread that has the program's.
            self.add(pid, one.port, self._numbers[f'UNFIT_{one.reason.upper()}'])

    def add(self, pid, port, number):
        """Leave a process out that has set an option; `number` is one of enum unfit."""
        name = _text(raw_comm(pid))
        key = self._key(name, port)
        exclusions = self._maps['exclusions']
        if name and syscall.map_lookup(exclusions.fd, key, exclusions.value_size) is None:
            self._insert(name, port, {'found_ns': time.monotonic_ns(), 'pid': pid,
                                      'reason': number})

    def _entries(self):
        """Return [(packed key, name, port, entry)] of who is left out by name."""
        exclusions, found = self._maps['exclusions'], []
        for packed in list(syscall.map_keys(exclusions.fd, exclusions.key_size)):
            value = syscall.map_lookup(exclusions.fd, packed, exclusions.value_size)
            if value is not None:
                key = exclusions.key.unpack(packed)
                found.append((packed, _text(key['name']['text']), key['port'],
                              exclusions.value.unpack(value)))
        return found

    def _is_listed(self, entry):
        return self._reasons[entry['reason']] == _LISTED

    def _insert(self, name, port, value):
        exclusions, names = self._maps['exclusions'], self._maps['excluded_names']
        _put(exclusions, self._key(name, port), exclusions.value.pack(value), self._drop_oldest)
        _put(names, names.key.pack({'text': _raw(name)}), _number(1), self._drop_names)

    def _keep_room(self):
        """Make room where the programs find none: they cannot."""
        for name, drop in (('exclusions', self._drop_oldest),
                           ('excluded_names', self._drop_names)):
            table = self._maps[name]
            if len(list(syscall.map_keys(table.fd, table.key_size))) >= table.max_entries:
                drop()

    def _drop_oldest(self):
        """Forget who was seen first: it is seen again."""
        seen = [(entry['found_ns'], packed, name, port)
                for packed, name, port, entry in self._entries() if not self._is_listed(entry)]
        if seen:
            _, packed, name, port = min(seen)
            syscall.map_delete(self._maps['exclusions'].fd, packed)
            self._known.pop((name, port), None)

    def _drop_names(self):
        """Drop the names that are left out no more."""
        names = self._maps['excluded_names']
        there = set(syscall.map_keys(names.fd, names.key_size))
        # In this order: a program notes who it sees first, and then the name.
        wanted = {names.key.pack({'text': _raw(name)}) for _, name, _, _ in self._entries()}
        for packed in there - wanted:
            syscall.map_delete(names.fd, packed)

    def _key(self, name, port):
        return self._maps['exclusions'].key.pack({'name': {'text': _raw(name)}, 'port': port})


def _raw(name):
    """Return a name as the kernel has it."""
    return name.encode('utf-8', 'surrogateescape')


def _text(raw):
    """Return such a name as text, of which `_raw` makes the same bytes again."""
    return raw.decode('utf-8', 'surrogateescape')


def _put(table, key, value, make_room):
    """Write an entry; where the table is full, call `make_room` and try again."""
    try:
        syscall.map_update(table.fd, key, value)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        make_room()
        syscall.map_update(table.fd, key, value)


def _number(value):
    return value.to_bytes(4, 'little')


def _mark(marks, pid, name):
    """Mark the listening TCP sockets of a process: what they accept has the mark, too."""
    user, process = real_user(pid), None
    if user is None:
        return  # it ended
    value = marks.value.pack({'name': {'text': name[:_NAME_BYTES]}, 'user': user})
    try:
        process = open_process(pid)
        for number, _target in socket_descriptors(pid):
            fd = duplicate(process, number)
            if fd is None:
                continue
            try:
                if _listens(fd):
                    syscall.map_update(marks.fd, _number(fd), value)
            finally:
                os.close(fd)
    except OSError:
        pass  # it ended, or belongs to another user and CAP_SYS_PTRACE is missing
    finally:
        if process is not None:
            os.close(process)


def _listens(fd):
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return (sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
                    and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1)
    except OSError:
        return False
