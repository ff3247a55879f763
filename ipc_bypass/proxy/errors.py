"""Errors of the proxy."""

from ipc_bypass.kernel.errors import BypassError


class ForwardError(BypassError):
    """
    A forward was refused.

    :param code: name of the error code that the services answer with, 'ADDRESS_IN_USE' and others
    """

    def __init__(self, what: str, reason: str = '', *, code: str, errno: int = 0,
                 next_step: str = '') -> None:
        super().__init__(what, reason, errno=errno, next_step=next_step)
        self.code = code
