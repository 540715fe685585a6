"""The hot loops: compiled on the CPU where numba is installed, plain torch anywhere else.

Each function here has the contract of its twin in :mod:`iterreg.kernels.reference`.
Set ``ITERREG_COMPILED=0`` to run the plain torch versions on the CPU too.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from iterreg.kernels import reference
from iterreg.kernels.contact import Contact
from iterreg.kernels.reference import IndexMap, edge_degree, normal_equations, sample_with_slope

__all__ = [
    "Contact",
    "IndexMap",
    "Workspace",
    "add_contact",
    "add_laplacian",
    "cheapest",
    "conjugate_gradient",
    "cost_volume",
    "edge_degree",
    "nearest_along",
    "normal_equations",
    "sample_with_slope",
    "self_similarity",
    "squared_difference",
    "upsample",
]


@cache
def _compiled() -> ModuleType | None:
    if os.environ.get("ITERREG_COMPILED", "1") == "0" or not importlib.util.find_spec("numba"):
        return None
    from iterreg.kernels import compiled

    return compiled


def _fast(*tensors: Tensor) -> ModuleType | None:
    """The compiled kernels where they can run on these tensors."""
    return _compiled() if all(t.device.type == "cpu" for t in tensors) else None


def set_threads(threads: int) -> None:
    """Use this many CPU threads, here and in torch."""
    torch.set_num_threads(threads)
    if _compiled() is not None:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def squared_difference(
    fixed: Tensor,
    moving: Tensor,
    voxels: Tensor,
    weights: Tensor,
    u_mm: Tensor,
    mapping: IndexMap,
    pull: float,
    gradient: Tensor,
    curvature: Tensor,
) -> Tensor:
    """Energy of the weighted squared feature difference; adds to gradient and curvature."""
    fast = _fast(u_mm)
    if fast is None:
        return reference.squared_difference(
            fixed, moving, voxels, weights, u_mm, mapping, pull, gradient, curvature
        )
    energy = torch.zeros(-(-len(voxels) // fast.CHUNK_SAMPLES), dtype=torch.float64)
    samples = (fixed, moving, voxels, weights, u_mm, mapping.linear, mapping.shift, mapping.from_mm)
    arrays = [t.numpy() for t in samples]
    fast.squared_difference(
        *arrays, _float32(pull), gradient.numpy(), curvature.numpy(), energy.numpy()
    )
    return energy.sum()


def add_laplacian(v: Tensor, edges: Tensor, into: Tensor) -> Tensor:
    """Add ``L v`` to ``into`` and return ``v . L v``, a float64 scalar."""
    fast = _fast(v)
    if fast is None:
        force = reference.laplacian(v, edges)
        into += force
        return torch.dot(v.flatten(), force.flatten()).double()
    rows = _rows(v)
    fast.add_laplacian(v.numpy(), edges.numpy(), into.numpy(), rows.numpy())
    return rows.sum()


def add_contact(v: Tensor, contact: Contact, into: Tensor) -> Tensor:
    """Add ``C v`` to ``into`` and return ``v . C v``, a float64 scalar."""
    fast = _fast(v)
    if fast is None:
        return reference.add_contact(v, contact, into)
    flat, out = v.view(3, -1).numpy(), into.view(3, -1).numpy()
    total = torch.zeros((), dtype=torch.float64)
    for edges in zip(contact.low, contact.high, contact.across, strict=True):
        low, high, across = (t.numpy() for t in edges)
        jump = torch.empty(len(low))
        fast.normal_jump(flat, low, high, across, jump.numpy())
        fast.push(out, low, across, jump.numpy(), _float32(-1))
        fast.push(out, high, across, jump.numpy(), _float32(1))
        total += torch.dot(jump, jump)
    return total


class Workspace:
    """Tensors that are used again from step to step: fresh memory costs more than filling it."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def zeros(self, name: str, like: Tensor, channels: int = 3) -> Tensor:
        """A zero tensor (channels, Z, Y, X) on the device of ``like``; the last one is gone."""
        if name not in self._tensors:
            self._tensors[name] = like.new_empty(channels, *like.shape[1:])
        return self._tensors[name].zero_()


def conjugate_gradient(
    curvature: Tensor,
    edges: Tensor,
    residual: Tensor,
    spans: Tensor,
    steps: int,
    damping: float,
    workspace: Workspace,
    contact: Contact | None = None,
) -> Tensor:
    """Solve ``(curvature + L + C) step = residual`` roughly; ``residual`` is overwritten.

    The step lives in the workspace until the next call.
    """
    fast = _fast(residual)
    if fast is None:
        return reference.conjugate_gradient(
            curvature, edges, residual, spans, steps, damping, contact
        )
    blocks = workspace.zeros("blocks", curvature, 6)
    step, product, preconditioned, direction = (
        workspace.zeros(name, residual)
        for name in ("step", "product", "preconditioned", "direction")
    )
    rows = _rows(residual)
    diagonal = reference.block_diagonal(curvature, edges, damping)
    fast.invert_blocks(curvature.numpy(), diagonal.numpy(), blocks.numpy())
    if contact is not None:
        contact.precondition(curvature, diagonal, blocks)
    views = [t.numpy() for t in (step, residual, direction, product, blocks, spans)]

    def descend(alpha: float) -> float:
        fast.descend(*views, _float32(alpha), preconditioned.numpy(), rows.numpy())
        return float(rows.sum())

    old = descend(0.0)
    beta = 0.0
    for _ in range(steps):
        fast.redirect(direction.numpy(), preconditioned.numpy(), spans.numpy(), _float32(beta))
        arrays = [t.numpy() for t in (direction, edges, curvature, spans, product, rows)]
        fast.edge_product(*arrays)
        along = float(rows.sum())
        if contact is not None:
            along += float(add_contact(direction, contact, product))
        new = descend(old / max(along, 1e-30))
        beta, old = new / max(old, 1e-30), new
    return step


def upsample(
    coarse: Tensor,
    coarse_labels: Tensor,
    fine_labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    affinity: Tensor,
) -> Tensor:
    """Label-aware linear interpolation of a coarse field on a fine grid."""
    fast = _fast(coarse)
    if fast is None:
        return reference.upsample(coarse, coarse_labels, fine_labels, scale, shift, affinity)
    out = coarse.new_empty(coarse.shape[0], *fine_labels.shape)
    arrays = (coarse, coarse_labels, fine_labels, scale, shift, affinity, out)
    fast.upsample(*[t.contiguous().numpy() for t in arrays])
    return out


def cost_volume(
    fixed: Tensor, moving: Tensor, nodes: Tensor, centre: Tensor, offsets: Tensor
) -> Tensor:
    """Squared feature difference of each node to each offset around its place, (N, K)."""
    fast = _fast(fixed)
    if fast is None:
        return reference.cost_volume(fixed, moving, nodes, centre, offsets)
    out = fixed.new_empty(len(nodes), len(offsets))
    fast.cost_volume(*[t.numpy() for t in (fixed, moving, nodes, centre, offsets, out)])
    return out


def cheapest(cost: Tensor, offsets_mm: Tensor, at_mm: Tensor, coupling: float) -> Tensor:
    """Index of the offset with the least ``cost + coupling |offset - at|^2``, node by node."""
    fast = _fast(cost)
    if fast is None:
        return reference.cheapest(cost, offsets_mm, at_mm, coupling)
    out = torch.empty(len(cost), dtype=torch.int64)
    fast.cheapest(cost.numpy(), offsets_mm.numpy(), at_mm.numpy(), _float32(coupling), out.numpy())
    return out


def nearest_along(squared: Tensor, axis: int, costs: Tensor) -> Tensor:
    """The least of ``squared`` plus ``costs[k]`` over voxels k steps away on an axis."""
    fast = _fast(squared)
    if fast is None:
        return reference.nearest_along(squared, axis, costs)
    out = torch.empty_like(squared)
    fast.nearest_along(squared.numpy(), axis, costs.numpy(), out.numpy())
    return out


def self_similarity(
    volume: Tensor, first: Tensor, second: Tensor, radius: Tensor, clamp: tuple[float, float]
) -> Tensor:
    """``exp(-D / V)`` of patch distances D between pairs of shifted copies of a volume."""
    fast = _fast(volume)
    if fast is None:
        return reference.self_similarity(volume, first, second, radius, clamp)
    out = volume.new_empty(*volume.shape, len(first))
    row_sum = torch.empty(volume.shape[0] * volume.shape[1], dtype=torch.float64)
    arrays = (volume, first, second, radius, out, row_sum)
    fast.patch_distances(*[t.numpy() for t in arrays])
    typical = max(float(row_sum.sum()) / volume.numel(), 1e-12)
    fast.exponentiate(out.numpy(), _float32(typical * clamp[0]), _float32(typical * clamp[1]))
    return out


def _rows(v: Tensor) -> Tensor:
    return torch.empty(v.shape[1] * v.shape[2], dtype=torch.float64)


def _float32(number: float) -> object:
    """A float32 scalar: numba would widen the whole loop to float64 for a Python float."""
    import numpy

    return numpy.float32(number)
