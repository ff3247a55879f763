"""
Who may use the pool: root, and the processes of one group.

The group owns the pins of the pool's maps and the file of the control socket; the socket's
server asks the kernel who is at the other end, too.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import struct

from ipc_bypass.kernel.errors import PoolError, PrivilegeError

#: Modes of files (pins, sockets) and folders.
FILE_MODE, FOLDER_MODE = 0o660, 0o750

_SO_PEERGROUPS = 59  # uapi/asm-generic/socket.h, from 4.13
_CREDENTIALS = struct.Struct('=iII')  # struct ucred: pid, uid, gid
_GROUP = struct.Struct('=I')
# What Python's getsockopt() takes; the kernel answers ERANGE where the groups do not fit.
_MOST_BYTES = 1024


class Access:
    """
    The pool's group: `group` is its number, `name` its name, or the number where it has none.

    :param pool_group: a name or a number; '' is root's
    :raises PoolError: there is no such group
    """

    def __init__(self, pool_group: str = '') -> None:
        self.group = _number(pool_group)
        try:
            self.name = grp.getgrgid(self.group).gr_name
        except KeyError:
            self.name = str(self.group)

    def give(self, path: str | os.PathLike) -> None:
        """
        Give a file (0660) or a folder (0750) of this user to the group.

        A symbolic link is not followed. A Unix socket is bound under a umask that leaves it to
        this user, so that it is never open to others on the way.

        :raises PrivilegeError: this process may not
        :raises PoolError: it cannot be done
        """
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                kind = os.fstat(fd).st_mode
                if stat.S_ISLNK(kind):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                place = f'/proc/self/fd/{fd}'  # the very file, whatever its name is by now
                os.chown(place, -1, self.group)
                os.chmod(place, FOLDER_MODE if stat.S_ISDIR(kind) else FILE_MODE)
            finally:
                os.close(fd)
        except OSError as error:
            what = f'give {os.fspath(path)} to group {self.name}'
            if error.errno in (errno.EPERM, errno.EACCES):
                raise PrivilegeError(
                    what, 'needs CAP_CHOWN, or to be in that group', errno=error.errno,
                    next_step='run the node with sudo, or set pool_group to a group of its user'
                ) from error
            raise PoolError(what, errno=error.errno or 0) from error

    def refusal(self, connection: socket.socket) -> str:
        """
        Return why the peer of a Unix socket may not use the pool, '' when it may.

        It may when it is root, or when the group is its primary group or one of its
        supplementary ones, as they were when it connected; of more than 256 groups none counts.
        """
        try:
            pid, uid, primary = _CREDENTIALS.unpack(connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid == 0 or primary == self.group:
                return ''
            groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
        except OSError as error:
            return f'the kernel does not tell who asks: {error.strerror}'
        if (self.group,) in _GROUP.iter_unpack(groups):
            return ''
        return (f'process {pid} of user {uid} is not in group {self.name}, which pool_group '
                f'names; add the user to it and log in again')


def _number(pool_group: str) -> int:
    """Return the number of a group; raises PoolError."""
    if not pool_group:
        return 0
    try:
        return grp.getgrnam(pool_group).gr_gid
    except KeyError:
        pass
    # The largest number would mean 'leave it as it is' to chown(2).
    if pool_group.isascii() and pool_group.isdecimal() and int(pool_group) < 0xffffffff:
        return int(pool_group)
    raise PoolError(f"give the pool to group '{pool_group}'", 'there is no such group',
                    errno=errno.ENOENT,
                    next_step=f'groupadd --system {pool_group}, or set pool_group to the name or '
                    "the number of one, or to '' for root's")
