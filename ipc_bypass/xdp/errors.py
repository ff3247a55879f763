"""Errors of the XDP room: one class a cause, as in ipc_bypass.kernel.errors."""

from ipc_bypass.kernel.errors import BypassError


class InterfaceError(BypassError):
    """An interface is not there, or a pattern of interfaces makes no sense."""


class SanityError(BypassError):
    """
    An interface is not fit for what was asked.

    :param findings: all that was found, the reasons for the refusal among them
    """

    def __init__(self, what: str, reason: str = '', *, findings: tuple = (), errno: int = 0,
                 next_step: str = '') -> None:
        super().__init__(what, reason, errno=errno, next_step=next_step)
        self.findings = findings


class AttachError(BypassError):
    """A program cannot be attached to an interface, replaced there or detached."""


class OccupiedError(AttachError):
    """
    Another's program is on the interface; it is never replaced.

    :param occupant: what is known of it (ipc_bypass.xdp.occupant.Occupant)
    """

    def __init__(self, what: str, reason: str = '', *, occupant: object = None, errno: int = 0,
                 next_step: str = '') -> None:
        super().__init__(what, reason, errno=errno, next_step=next_step)
        self.occupant = occupant


class DispatcherError(AttachError):
    """A program cannot be added to libxdp's dispatcher, or taken out of it."""


class OffloadError(BypassError):
    """A setting of an interface (ethtool) cannot be read, changed or put back."""
