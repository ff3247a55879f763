"""How a call is refused: by one error with one line."""

import pytest


def refusal(kind, call, *arguments):
    """Return the one line with which a call is refused."""
    with pytest.raises(kind) as error:
        call(*arguments)
    assert '\n' not in str(error.value)
    return str(error.value)
