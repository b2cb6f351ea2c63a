"""Types of command-line options, for argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """Some of the known names, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            message = f"no {', '.join(unknown)}; there are: {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return names

    return parse


def positive_numbers(text: str) -> list[int]:
    """Positive integers, separated by commas."""
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers")
    return [int(number) for number in numbers]
