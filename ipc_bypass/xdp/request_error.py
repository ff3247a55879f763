"""A request to the XDP helper that was refused, with the code that its services answer."""

from __future__ import annotations

from ipc_bypass.kernel.errors import BypassError


class RequestError(BypassError):
    """
    A request was refused.

    :param code: name of the error code that the services answer with, 'INVALID_SLOT' and others
    :param rule_id: the rule that is in the way (ALREADY_THERE), 0 where there is none
    """

    def __init__(self, what: str, reason: str = '', *, code: str, rule_id: int = 0,
                 errno: int = 0, next_step: str = '', log: str = '') -> None:
        super().__init__(what, reason, errno=errno, next_step=next_step, log=log)
        self.code = code
        self.rule_id = rule_id
