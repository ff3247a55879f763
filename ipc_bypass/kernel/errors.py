"""Errors that a user can act upon: one class a cause, each with the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import errno as errnos
import os

from ipc_bypass.kernel.logs import lacking

#: What a kernel answers that could do what was asked at another time.
SHORTAGES = (errnos.ENOMEM, errnos.ENOSPC, errnos.EBUSY, errnos.EAGAIN)


class BypassError(RuntimeError):
    """
    Something that this package needs could not be had.

    `str()` is one line: what failed, the reason, the next step.

    :param what: what was tried, for example 'attach sock_ops to /sys/fs/cgroup'
    :param reason: why it failed; taken from `errno` when left out
    :param errno: the kernel's error number, 0 where there is none
    :param next_step: what the user can do about it
    :param log: full compiler or verifier log, '' where there is none
    """

    def __init__(self, what: str, reason: str = '', *, errno: int = 0, next_step: str = '',
                 log: str = '') -> None:
        self.what = _one_line(what)
        self.reason = _one_line(reason or (os.strerror(errno) if errno else ''))
        self.errno = errno
        self.next_step = _one_line(next_step)
        self.log = log
        text = f'{self.what}: {self.reason}' if self.reason else self.what
        super().__init__(f'{text}; {self.next_step}' if self.next_step else text)


class PrivilegeError(BypassError):
    """The process lacks a capability; the reason names it."""


class HeadersError(BypassError):
    """No usable tree of kernel headers; the next step names the package."""


class CompileError(BypassError):
    """A program does not compile; the reason is the first error with its file and line."""


class VerifierError(BypassError):
    """
    The kernel's verifier refused a program; the reason is the last meaningful line.

    Where that line tells of an instruction that the kernel lacks, the reason and the next step
    name it.
    """

    def __init__(self, what: str, reason: str = '', *, errno: int = 0, next_step: str = '',
                 log: str = '') -> None:
        reason, next_step = lacking(reason) or (reason, next_step)
        super().__init__(what, reason, errno=errno, next_step=next_step, log=log)


class LoaderError(BypassError):
    """The loader process died, hung or answered nonsense."""


class UnsupportedError(BypassError):
    """The kernel or the system lacks something; the reason names it and from when it exists."""


class CgroupError(BypassError):
    """There is no cgroup v2 to attach to, or it cannot be opened."""


class PinError(BypassError):
    """An object cannot be pinned, or a pin cannot be trusted."""


class PinsInUseError(PinError):
    """Another process owns a folder of pins: no fault of this host, and nothing to go without."""


class MapFullError(BypassError):
    """A map has no room for another entry."""


class ConformanceError(BypassError):
    """A path does not behave on this kernel as its users may expect."""


class PoolError(BypassError):
    """The pool, or the node that owns it, cannot be used as asked."""


class RuleError(BypassError):
    """
    A rule was refused.

    :param code: name of the error code that the services answer with, 'INVALID_PORT' and others
    :param rule_id: the rule that is in the way (ALREADY_ENROLLED), 0 where there is none
    """

    def __init__(self, what: str, reason: str = '', *, code: str, rule_id: int = 0,
                 errno: int = 0, next_step: str = '', log: str = '') -> None:
        super().__init__(what, reason, errno=errno, next_step=next_step, log=log)
        self.code = code
        self.rule_id = rule_id


@contextmanager
def system_errors(what: str) -> Iterator[None]:
    """Turn what system calls within raise, without an error of its own, into a BypassError."""
    try:
        yield
    except MemoryError as error:
        raise BypassError(what, errno=errnos.ENOMEM, next_step='look for memory limits') from error
    except OSError as error:
        raise BypassError(what, error.strerror or str(error), errno=error.errno or 0,
                          next_step='see: ipc-bypass doctor') from error


def _one_line(text: str) -> str:
    """Return `text` with every run of white space as one space."""
    return ' '.join(str(text).split())
