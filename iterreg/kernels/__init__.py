"""The hot loops, on whatever device their tensors are.

Each kernel is defined in :mod:`iterreg.kernels.reference`. A backend is a module with the same
names and signatures for one type of device; a device without a backend, or without the
package that its backend needs, uses the definition. Set
``ITERREG_COMPILED=0`` to use the definition everywhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch

from iterreg.errors import DeviceError
from iterreg.kernels import reference
from iterreg.kernels._fork import use_threads
from iterreg.kernels.lattice import Lattice
from iterreg.kernels.samples import SampleGroup, Samples
from iterreg.kernels.types import (
    PAIRS,
    IndexMap,
    LinearSystem,
    NormalEquations,
    NormalJump,
    Workspace,
)

__all__ = [
    *reference.__all__,
    "PAIRS",
    "IndexMap",
    "Lattice",
    "LinearSystem",
    "NormalEquations",
    "NormalJump",
    "SampleGroup",
    "Samples",
    "Workspace",
    "set_threads",
]

BACKENDS = {"cpu": ("iterreg.kernels.cpu", "numba"), "cuda": ("iterreg.kernels.cuda", "triton")}
"""Per type of device, a module and the package that it needs."""

THREADS = "NUMBA_NUM_THREADS"

P = ParamSpec("P")
R = TypeVar("R")


class SlowKernelsWarning(UserWarning):
    """The kernels of a device cannot run; their definitions do."""


@cache
def _backend(device: torch.device) -> ModuleType:
    """The module whose kernels run on a device."""
    module, package = BACKENDS.get(device.type, ("", ""))
    if not module or os.environ.get("ITERREG_COMPILED", "1") == "0":
        return reference
    if not importlib.util.find_spec(package):
        return reference
    _require_threads()
    backend = importlib.import_module(module)
    trouble = backend.trouble_on(device) if hasattr(backend, "trouble_on") else ""
    if trouble:
        warnings.warn(
            SlowKernelsWarning(
                f"{device}: kernels cannot be compiled here ({trouble}): plain torch is used, "
                "which takes twelve times as long"
            ),
            stacklevel=2,
        )
        return reference
    return backend


def _require_threads() -> None:
    """Refuse a number of threads with which numba cannot even be loaded."""
    given = os.environ.get(THREADS, "1").strip()
    if not (given.isascii() and given.isdigit() and len(given) < 9 and int(given) > 0):
        raise DeviceError(f"{THREADS}: expected a whole number of at least 1, got {given!r:.40}")


def _dispatched(kernel: Callable[P, R]) -> Callable[P, R]:
    """The same kernel, taken from the backend of its first argument's device."""

    @wraps(kernel)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        device: torch.device = (*args, *kwargs.values())[0].device  # type: ignore[attr-defined]
        backend = _backend(device)
        if backend is reference:
            return kernel(*args, **kwargs)
        use_threads()
        answer: R = getattr(backend, kernel.__name__)(*args, **kwargs)
        return answer

    return call


add_laplacian = _dispatched(reference.add_laplacian)
add_normal_jump = _dispatched(reference.add_normal_jump)
apply_blocks = _dispatched(reference.apply_blocks)
block_majority = _dispatched(reference.block_majority)
cheapest = _dispatched(reference.cheapest)
conjugate_gradient = _dispatched(reference.conjugate_gradient)
cost_volume = _dispatched(reference.cost_volume)
edge_degree = _dispatched(reference.edge_degree)
folding_voxels = _dispatched(reference.folding_voxels)
folds_among = _dispatched(reference.folds_among)
laplacian = _dispatched(reference.laplacian)
mark_reached = _dispatched(reference.mark_reached)
nearest_along = _dispatched(reference.nearest_along)
normal_equations = _dispatched(reference.normal_equations)
outside_equations = _dispatched(reference.outside_equations)
region_slope = _dispatched(reference.region_slope)
sample_with_slope = _dispatched(reference.sample_with_slope)
self_similarity = _dispatched(reference.self_similarity)
squared_difference = _dispatched(reference.squared_difference)
squared_differences = _dispatched(reference.squared_differences)
squared_residuals = _dispatched(reference.squared_residuals)
surroundings = _dispatched(reference.surroundings)
unfold = _dispatched(reference.unfold)
upsample = _dispatched(reference.upsample)


def set_threads(threads: int) -> None:
    """Use this many CPU threads, here and in torch.

    Raises:
        DeviceError: this process was forked after iterreg had been used in its parent, or
            ``NUMBA_NUM_THREADS`` is no number.
    """
    use_threads()
    backend = _backend(torch.device("cpu"))
    if backend is not reference:
        backend.set_threads(threads)
    torch.set_num_threads(threads)
