"""
Who is left out of the TCP path: by name or user as it is listed, and who was seen to need it.

A connection is left out when one of its sockets carries a mark: the program mark_socket puts it on
sockets that are made, and this module on listeners that were there before.
"""

from dataclasses import dataclass
import os
import pwd
import socket
import time

from ipc_bypass.kernel import syscall
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.tcp.owners import comm, duplicate, open_process, socket_descriptors

USER = 'user:'
_NAME_BYTES = 15
_MOST = 200
_LISTED = 'listed'


@dataclass(frozen=True)
class Excluded:
    """
    One that is left out.

    `port` is that of the rule, 0 for any; `reason` a name of UNFIT_* in lower case: 'listed', or
    what it was seen to do; `pid` of the process that did it, 0 where it is listed.
    """

    name: str
    port: int
    reason: str
    pid: int = 0

    def __str__(self):
        """Return it in words."""
        if self.reason == _LISTED:
            return f'{self.name} is left out: it is listed in `exclude`'
        return (f'{self.name} is left out on port {self.port}: process {self.pid} was seen to use '
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
                users.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
            except KeyError:
                raise BypassError(what, f'there is no user {user}') from None
        elif not entry or len(entry.encode()) > _NAME_BYTES or '/' in entry or '\0' in entry:
            raise BypassError(what, 'it is no name of a process: 1 to 15 bytes, as /proc/PID/comm '
                              'has it')
        else:
            names.add(entry)
    if len(names) > _MOST or len(users) > _MOST:
        raise BypassError('read exclude', f'there are more than {_MOST} entries')
    return names, users


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
        self._users, self._known = set(), {}
        # Of maps that were taken over.
        self._names = {one.name for one in self.found() if one.reason == _LISTED}

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
        exclusions = self._maps['exclusions']
        found = []
        for packed in list(syscall.map_keys(exclusions.fd, exclusions.key_size)):
            value = syscall.map_lookup(exclusions.fd, packed, exclusions.value_size)
            if value is None:
                continue
            key, entry = exclusions.key.unpack(packed), exclusions.value.unpack(value)
            name = key['name']['text'].decode(errors='replace')
            found.append(Excluded(name, key['port'], self._reasons[entry['reason']],
                                  entry['pid']))
        found += [Excluded(f'{USER}{user}', 0, _LISTED) for user in self._users]
        return sorted(found, key=lambda one: (one.reason != _LISTED, one.name, one.port))

    def mark_listeners(self, pids=()):
        """Mark the listening TCP sockets of what is listed, and of these processes."""
        if not (self._names or self._users or pids):
            return
        for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
            name = comm(pid)
            try:
                by_user = os.stat(f'/proc/{pid}').st_uid in self._users
            except OSError:
                continue
            if name in self._names or by_user or pid in pids:
                _mark(self._maps['exclusion_marks'], pid, name, by_user)

    def look(self):
        """Tell of those that are new, and mark what they listen with."""
        new = {}
        for one in self.found():
            if one.reason != _LISTED and (one.name, one.port) not in self._known:
                self._known[one.name, one.port] = one
                new[one.pid] = one
                self._told(one)
        for pid, one in new.items():
            # By the name that was seen: a thread may have one of its own.
            _mark(self._maps['exclusion_marks'], pid, one.name, False)
            # Its sockets may be made by a thread that has the program's.
            self.add(pid, one.port, self._numbers[f'UNFIT_{one.reason.upper()}'])

    def add(self, pid, port, number):
        """Leave a process out that has set an option; `number` is one of enum unfit."""
        name = comm(pid)
        key = self._key(name, port)
        exclusions = self._maps['exclusions']
        if name and syscall.map_lookup(exclusions.fd, key, exclusions.value_size) is None:
            self._insert(name, port, {'found_ns': time.monotonic_ns(), 'pid': pid,
                                      'reason': number})

    def _insert(self, name, port, value):
        exclusions = self._maps['exclusions']
        syscall.map_update(exclusions.fd, self._key(name, port), exclusions.value.pack(value))
        names = self._maps['excluded_names']
        syscall.map_update(names.fd, names.key.pack({'text': name.encode()}), _number(1))

    def _key(self, name, port):
        return self._maps['exclusions'].key.pack({'name': {'text': name.encode()}, 'port': port})


def _number(value):
    return value.to_bytes(4, 'little')


def _mark(marks, pid, name, by_user):
    """Mark the listening TCP sockets of a process: what they accept has the mark, too."""
    value = marks.value.pack({'name': {'text': name.encode()}, 'user': int(by_user)})
    process = None
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
