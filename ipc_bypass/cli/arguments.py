"""Types of arguments that several commands take, for argparse."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return a whole number from 1 on; raises ArgumentTypeError."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is less than 1')
    return number


def seconds(text: str) -> float:
    """Return a number of seconds above 0; raises ArgumentTypeError."""
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f'{text} is no number of seconds above 0')
    return number
