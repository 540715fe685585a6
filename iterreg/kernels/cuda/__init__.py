"""The kernels on an NVIDIA GPU, compiled by Triton, and plain torch where nothing is gained.

Names and signatures are those of :mod:`iterreg.kernels.reference`, which defines them. No program
adds to what another one adds to, and every sum has a fixed order, so one GPU gives the same bytes
each time. No value leaves the device. Where there is no GPU, Triton's interpreter
(``TRITON_INTERPRET=1``) runs the same kernels on tensors of the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from iterreg.kernels.blocks import ROUNDING_SHARE
from iterreg.kernels.cuda import features, linear_algebra, sampling
from iterreg.kernels.reference import (
    apply_blocks,
    edge_degree,
    laplacian,
    normal_equations,
    outside_equations,
    sample_with_slope,
)
from iterreg.kernels.types import (
    IndexMap,
    LinearSystem,
    NormalEquations,
    NormalJump,
    SampleGroup,
    Samples,
    Workspace,
)

__all__ = [
    "add_laplacian",
    "add_normal_jump",
    "apply_blocks",
    "block_majority",
    "cheapest",
    "conjugate_gradient",
    "cost_volume",
    "edge_degree",
    "folding_voxels",
    "laplacian",
    "nearest_along",
    "normal_equations",
    "outside_equations",
    "region_slope",
    "sample_with_slope",
    "self_similarity",
    "squared_difference",
    "squared_differences",
    "upsample",
]

BLOCK = 256
"""Voxels, or samples of one channel, that a program handles."""

SUMMED = 4096
"""Partial sums that are added at once."""

CHANNELS = 8
"""So many channels of a sample are read at once: 16 bytes of half precision."""

TILE = 1024
"""Values that a program handles: larger tiles do not fit into the registers."""


def _launch(kernel: Any, programs: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel; every launch passes here."""
    kernel[programs](*arguments, **constants)


def _blocks(count: int, block: int = BLOCK) -> tuple[int]:
    return (max(1, -(-count // block)),)


def squared_difference(
    samples: Samples, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_difference`."""
    mapping = samples.own_map(mapping)
    channels = samples.fixed.shape[1]
    at_once = min(CHANNELS, triton.next_power_of_2(channels))
    block = TILE // 2 // max(at_once, 4)
    programs = _blocks(len(samples.voxels), block)
    partial = torch.empty(programs, dtype=torch.float64, device=u_mm.device)
    _launch(
        sampling.squared_difference,
        programs,
        samples.fixed.contiguous(),
        samples.moving.contiguous(),
        samples.voxels.contiguous(),
        samples.weights,
        u_mm,
        *_parts(mapping),
        into.gradient,
        into.curvature,
        partial,
        float(samples.outside_weight),
        len(samples.voxels),
        u_mm[0].numel(),
        *u_mm.shape[2:],
        *samples.moving.shape[:3],
        C=channels,
        CP=at_once,
        WIDE=max(samples.moving.numel(), samples.fixed.numel()) >= 1 << 31,
        B=block,
    )
    return partial.sum()


def squared_differences(
    group: SampleGroup, u_mm: Tensor, mapping: IndexMap, into: NormalEquations
) -> Tensor:
    """See :func:`iterreg.kernels.reference.squared_differences`."""
    joined = group.joined
    programs = _blocks(len(joined.voxels), BLOCK // 2)
    partial = torch.empty(programs, dtype=torch.float64, device=u_mm.device)
    _launch(
        sampling.squared_differences,
        programs,
        joined.voxels,
        joined.starts,
        joined.terms,
        joined.fixed,
        joined.weights,
        joined.moving,
        joined.places,
        joined.sizes,
        joined.maps(mapping),
        joined.outside_weights,
        u_mm,
        into.gradient,
        into.curvature,
        partial,
        len(joined.voxels),
        u_mm[0].numel(),
        *u_mm.shape[2:],
        B=BLOCK // 2,
    )
    return partial.sum()


def add_laplacian(v: Tensor, edges: Tensor, into: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.add_laplacian`."""
    count = v[0].numel()
    programs = _blocks(count)
    partial = torch.empty(programs, dtype=torch.float64, device=v.device)
    operands = (v.contiguous(), edges, into, partial, count, *v.shape[1:])
    _launch(linear_algebra.add_laplacian, programs, *operands, B=BLOCK)
    return partial.sum()


def add_normal_jump(v: Tensor, jump: NormalJump, into: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.add_normal_jump`."""
    programs = _blocks(len(jump.by_voxel.voxels))
    partial = torch.empty(programs, dtype=torch.float64, device=v.device)
    _add_jump(v, jump, into, partial)
    return partial.sum()


def _add_jump(v: Tensor, jump: NormalJump, into: Tensor, partial: Tensor) -> None:
    faces = jump.by_voxel
    _launch(
        linear_algebra.add_normal_jump,
        _blocks(len(faces.voxels)),
        v,
        faces.voxels,
        faces.there,
        faces.across,
        into,
        partial,
        len(faces.voxels),
        v[0].numel(),
        B=BLOCK,
    )


def conjugate_gradient(
    system: LinearSystem, residual: Tensor, steps: int, damping: float, workspace: Workspace
) -> Tensor:
    """See :func:`iterreg.kernels.reference.conjugate_gradient`.

    ``residual`` is overwritten, and the step lives in the workspace until the next call.
    """
    shape, count = residual.shape[1:], residual[0].numel()
    blocks = _preconditioner(system, damping, workspace)
    step, product, preconditioned, direction, spare = (
        workspace.zeros(name, residual)
        for name in ("step", "product", "preconditioned", "direction", "spare")
    )
    programs, jump = _blocks(count), system.normal_jump
    jumps = 0 if jump is None else _blocks(len(jump.by_voxel.voxels))[0]
    partial = torch.zeros(programs[0] + jumps, dtype=torch.float64, device=residual.device)
    scalars = torch.zeros(3, device=residual.device)

    def update() -> None:
        operands = (step, residual, direction, product, blocks, scalars, preconditioned, partial)
        _launch(linear_algebra.cg_update, programs, *operands, count, B=BLOCK)
        _launch(linear_algebra.cg_beta, (1,), partial, programs[0], scalars, B=SUMMED, num_warps=8)

    update()
    scalars[2:].zero_()
    for _ in range(steps):
        operands = (preconditioned, direction, scalars, system.edges, system.curvature)
        answers = (spare, product, partial)
        _launch(linear_algebra.cg_product, programs, *operands, *answers, count, *shape, B=BLOCK)
        direction, spare = spare, direction
        if jump is not None:
            _add_jump(direction, jump, product, partial[programs[0] :])
        _launch(
            linear_algebra.cg_alpha, (1,), partial, len(partial), scalars, B=SUMMED, num_warps=8
        )
        update()
    return step


def _preconditioner(system: LinearSystem, damping: float, workspace: Workspace) -> Tensor:
    """(6, Z, Y, X), the inverse of each voxel's block; zero where nothing may move."""
    curvature, edges, rows = system.curvature, system.edges, system.active_rows
    blocks = workspace.zeros("blocks", curvature, 6)
    shape, count = curvature.shape[1:], curvature[0].numel()
    sizes = (count, *shape, damping, ROUNDING_SHARE)
    operands = (curvature, edges, rows)
    _launch(linear_algebra.invert_blocks, _blocks(count), *operands, blocks, *sizes, B=BLOCK)
    if system.normal_jump is not None:
        voxels, extra = system.normal_jump.diagonal_blocks
        operands = (*operands, voxels, extra.contiguous(), blocks, len(voxels))
        programs = _blocks(len(voxels))
        _launch(linear_algebra.correct_at_interfaces, programs, *operands, *sizes, B=BLOCK)
    return blocks


def upsample(
    coarse: Tensor,
    coarse_labels: Tensor,
    fine_labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    affinity: Tensor,
) -> Tensor:
    """See :func:`iterreg.kernels.reference.upsample`."""
    out = coarse.new_empty(coarse.shape[0], *fine_labels.shape)
    arrays = (coarse, coarse_labels, fine_labels, scale, shift, affinity)
    sizes = (fine_labels.numel(), *fine_labels.shape, *coarse.shape[1:], len(affinity))
    _launch(
        sampling.upsample,
        _blocks(fine_labels.numel()),
        *[t.contiguous() for t in arrays],
        out,
        *sizes,
        C=coarse.shape[0],
        B=BLOCK,
    )
    return out


def cost_volume(
    fixed: Tensor, moving: Tensor, nodes: Tensor, centre: Tensor, offsets: Tensor
) -> Tensor:
    """See :func:`iterreg.kernels.reference.cost_volume`."""
    channels = fixed.shape[-1]
    padded = triton.next_power_of_2(channels)
    block = TILE // padded
    out = fixed.new_empty(len(nodes), len(offsets))
    _launch(
        features.cost_volume,
        (len(nodes), *_blocks(len(offsets), block)),
        *[t.contiguous() for t in (fixed, moving, nodes, centre, offsets)],
        out,
        len(offsets),
        *fixed.shape[1:3],
        *moving.shape[:3],
        C=channels,
        CP=padded,
        B=block,
    )
    return out


def cheapest(cost: Tensor, offsets_mm: Tensor, at_mm: Tensor, coupling: float) -> Tensor:
    """See :func:`iterreg.kernels.reference.cheapest`."""
    out = torch.empty(len(cost), dtype=torch.int64, device=cost.device)
    arrays = [t.contiguous() for t in (cost, offsets_mm, at_mm)]
    _launch(features.cheapest, (len(cost),), *arrays, out, coupling, cost.shape[1], B=TILE)
    return out


def nearest_along(squared: Tensor, axis: int, costs: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.nearest_along`."""
    squared = squared.contiguous()
    out = torch.empty_like(squared)
    if squared.numel() and len(costs) > 1:
        sizes = (squared.numel(), squared.shape[axis], squared.stride(axis))
        step = float(costs[1]), len(costs) - 1
        _launch(
            features.nearest_along, _blocks(squared.numel()), squared, out, *step, *sizes, B=BLOCK
        )
        return out
    return out.copy_(squared)


def block_majority(labels: Tensor, axes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """See :func:`iterreg.kernels.reference.block_majority`."""
    shape = [len(first) for first, _ in axes]
    out = torch.empty(shape, dtype=torch.int32, device=labels.device)
    widths = [shares.shape[1] for _, shares in axes]
    tables = [t.contiguous() for axis in axes for t in axis]
    sizes = (out.numel(), *shape[1:], *labels.shape, *widths)
    block = BLOCK // 2
    programs = _blocks(out.numel(), block)
    _launch(features.block_majority, programs, labels.contiguous(), *tables, out, *sizes, B=block)
    return out


def self_similarity(
    volume: Tensor, first: Tensor, second: Tensor, radius: Tensor, clamp: tuple[float, float]
) -> Tensor:
    """See :func:`iterreg.kernels.reference.self_similarity`."""
    pairs, count = len(first), volume.numel()
    padded = triton.next_power_of_2(pairs)
    block = max(1, TILE // padded)
    programs = _blocks(count, block)
    distances = volume.new_empty(*volume.shape, pairs)
    partial = torch.empty(programs, dtype=torch.float64, device=volume.device)
    constants = {"P": pairs, "PP": padded, "B": block}
    reach = dict(zip(("RZ", "RY", "RX"), radius.tolist(), strict=True))
    operands = (volume.contiguous(), first.contiguous(), second.contiguous(), distances, partial)
    sizes = (count, *volume.shape)
    _launch(features.patch_distances, programs, *operands, *sizes, **reach, **constants)
    typical = partial.sum() / count
    operands = (distances, distances, typical, count, *clamp)
    _launch(features.exponentiate, programs, *operands, **constants)
    return distances


def folding_voxels(total_vox: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.folding_voxels`."""
    flat = total_vox.shape[0] == 2
    if flat:
        total_vox = torch.cat((torch.zeros_like(total_vox[:1]), total_vox)).unsqueeze(1)
    shape, count = total_vox.shape[1:], total_vox[0].numel()
    out = torch.empty(shape, dtype=torch.int8, device=total_vox.device)
    constants = {"INNER": min(shape) > 1, "B": BLOCK}
    operands = (total_vox.contiguous(), out, count, *shape)
    _launch(features.folding_voxels, _blocks(count), *operands, **constants)
    return out.bool()[0] if flat else out.bool()


def region_slope(
    labels: Tensor, voxels: Tensor, reach: int, sigma: float, spacing_zyx_mm: tuple[float, ...]
) -> Tensor:
    """See :func:`iterreg.kernels.reference.region_slope`."""
    out = torch.empty(3, len(voxels), device=labels.device)
    spacing = out.new_tensor(spacing_zyx_mm)
    operands = (labels.contiguous(), voxels, spacing, out, len(voxels), *labels.shape)
    decay = -1 / (2 * sigma**2)
    _launch(features.region_slope, _blocks(len(voxels)), *operands, decay, R=reach, B=BLOCK)
    return out


def _parts(mapping: IndexMap) -> tuple[Tensor, Tensor, Tensor]:
    return mapping.linear.contiguous(), mapping.shift, mapping.from_mm.contiguous()
