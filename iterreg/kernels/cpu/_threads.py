"""Threads that share the indices of a loop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba

PIECES = 4
"""Pieces of a loop for each thread, so that one that starts late does less."""

_threads: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]


def set_threads(threads: int) -> None:
    """Let loops use this many threads, or as many as there are."""
    global _threads
    _threads = min(threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def share_out(loop: Callable[..., None], count: int, arguments: tuple[Any, ...]) -> None:
    """Call ``loop(begin, end, *arguments)`` for pieces of 0 ... count, on several threads."""
    pieces = min(count, PIECES * _threads) if _threads > 1 else 1
    if pieces <= 1:
        loop(0, count, *arguments)
        return
    bounds = [count * k // pieces for k in range(pieces + 1)]
    started = [
        _pool(_threads).submit(loop, begin, end, *arguments) for begin, end in pairwise(bounds)
    ]
    for piece in started:
        piece.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "iterreg loop")
