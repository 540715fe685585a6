"""How the loops are compiled, and the names of their arrays' types."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from iterreg.kernels.cpu._cache import KernelCache
from iterreg.kernels.cpu._threads import share_out

Array = NDArray[np.float32]
Rows = NDArray[np.int32]
Indices = NDArray[np.int64]
Places = NDArray[np.uint64]
Sums = NDArray[np.float64]

FAST_MATH = {"nnan", "ninf", "nsz", "arcp", "reassoc"}
"""Sums may be reordered, so that they use the vector units. Fused multiply-adds are left out: with
them, code that was just compiled and the same code from the cache rounded differently."""

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

inlined: Compiler = numba.njit(fastmath=FAST_MATH, inline="always")
_loop: Compiler = numba.njit(fastmath=FAST_MATH, nogil=True)


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop when it is first called; its code is kept for the next process.

    The loop takes its first index and one past its last, and then its arguments; it is called with
    the number of indices instead, and several threads share them. numba can share a loop by itself,
    but then it compiles three times as long.
    """
    loop: Any = _loop(function)
    loop._cache = KernelCache(function)

    @wraps(function)
    def run(count: int, *arguments: Any) -> None:
        share_out(loop, count, arguments)

    return run
