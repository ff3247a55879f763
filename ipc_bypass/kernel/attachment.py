"""A program on a cgroup: by a link, or by an attachment on kernels without links."""

import contextlib
import errno
import os

from ipc_bypass.kernel import cgroup, syscall
from ipc_bypass.kernel.capabilities import privilege_error
from ipc_bypass.kernel.errors import CgroupError, UnsupportedError
from ipc_bypass.kernel.rcu import wait_for_programs
from ipc_bypass.kernel.uapi import AttachFlag


class Attachment:
    """
    One place to attach to; raises CgroupError where it is none.

    A link (kernel 5.7) ends with the process. An attachment does not: it is known by its
    program's name, our mark, so that the next start can remove what a crash left.
    """

    def __init__(self, path, prog_type, attach_type, what):
        """
        Open the cgroup v2 folder `path`, '' for the mount point.

        `prog_type` and `attach_type` as in kernel/uapi.py; `what` names the program in errors.
        """
        self._prog_type, self._attach_type, self._what = prog_type, attach_type, what
        self._cgroup_fd = cgroup.open_cgroup(path or cgroup.find_cgroup2())
        self._link = self._program = None

    def attach(self, program):
        """Attach a program; raises PrivilegeError, CgroupError, UnsupportedError."""
        try:
            self._link = syscall.link_create(program, self._cgroup_fd, self._attach_type)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise self._error(error) from error
        try:
            syscall.prog_attach(self._cgroup_fd, program, self._attach_type,
                                AttachFlag.ALLOW_MULTI)
            self._program = program
        except OSError as error:
            raise self._error(error) from error

    def detach(self):
        """Detach, if anything is attached, and wait until the program runs nowhere any more."""
        attached = self._link is not None or self._program is not None
        if self._link is not None:
            os.close(self._link)
            self._link = None
        if self._program is not None:
            with contextlib.suppress(OSError):
                syscall.prog_detach(self._cgroup_fd, self._program, self._attach_type)
            self._program = None
        if attached:
            wait_for_programs()

    def remove_leftovers(self, name):
        """
        Detach attachments of programs of this name; return how many.

        The program behind a link cannot be detached this way, so that another node's stays.
        """
        removed = 0
        with contextlib.suppress(OSError):
            for identifier in syscall.prog_query(self._cgroup_fd, self._attach_type):
                with contextlib.suppress(OSError):
                    removed += self._remove(identifier, name)
        return removed

    def close(self):
        """Detach and close."""
        self.detach()
        os.close(self._cgroup_fd)

    def _remove(self, identifier, name):
        program = syscall.prog_get_fd_by_id(identifier)
        try:
            info = syscall.prog_info(program)
            if info.type != self._prog_type or info.name != name[:15]:
                return False
            syscall.prog_detach(self._cgroup_fd, program, self._attach_type)
            return True
        finally:
            os.close(program)

    def _error(self, error):
        what = f'attach {self._what} to the cgroup'
        if error.errno in (errno.EPERM, errno.EACCES):
            return privilege_error(what, ['CAP_NET_ADMIN', 'CAP_BPF'], error.errno)
        if error.errno == errno.EBADF:
            return CgroupError(what, 'cgroup_path is no cgroup v2 folder', errno=error.errno,
                               next_step="set cgroup_path to one, or to ''")
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return CgroupError(what, 'the cgroup was removed', errno=error.errno,
                               next_step='clean up, and configure again where there is one')
        return UnsupportedError(what, errno=error.errno, next_step='see: ipc-bypass doctor')
