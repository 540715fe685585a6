"""How much time a list of cases still takes."""

from __future__ import annotations

import time

from iterreg.progress import Progress

FINISHING = 0.99
"""Fraction of the work that is done when only the end is left: tables, or a zip."""


class RemainingTime:
    """Estimates the remaining time from the cases that were worked on in this call.

    Args:
        cases: how many there are.

    Example:
        >>> RemainingTime(2).event("p1: done", worked=False).message
        'p1: done; 1 to go'
    """

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._done = 0
        self._worked = 0
        self._begun = time.perf_counter()

    def event(self, message: str, *, worked: bool) -> Progress:
        """Make an event for the case that ended last.

        Args:
            message: what to say of it.
            worked: whether it took work; cases that were done already tell nothing.
        """
        self._done += 1
        self._worked += worked
        left = self._cases - self._done
        line = f"{message}; {left} to go"
        if left and self._worked:
            seconds = (time.perf_counter() - self._begun) / self._worked * left
            line += f", about {_minutes(seconds)}"
        return Progress("case", FINISHING * self._done / self._cases, line)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
