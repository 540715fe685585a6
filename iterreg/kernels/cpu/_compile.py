"""How the loops are compiled, and the names of their arrays' types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from iterreg.kernels.cpu._cache import KernelCache

Array = NDArray[np.float32]
Rows = NDArray[np.int32]
Indices = NDArray[np.int64]
Places = NDArray[np.uint64]
Sums = NDArray[np.float64]

FAST_MATH = {"nnan", "ninf", "nsz", "arcp", "reassoc"}
"""Sums may be reordered, so that they use the vector units. Fused multiply-adds are left out: with
them, code that was just compiled and the same code from the cache rounded differently."""

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

_parallel: Compiler = numba.njit(parallel=True, fastmath=FAST_MATH, nogil=True)
inlined: Compiler = numba.njit(fastmath=FAST_MATH, inline="always")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called; its code is kept for the next process."""
    dispatcher: Any = _parallel(function)
    dispatcher._cache = KernelCache(function)
    return dispatcher  # type: ignore[no-any-return]
