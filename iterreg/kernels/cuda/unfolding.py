"""Look for folds, and take them out: the definition is :mod:`iterreg.kernels.lattice`."""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels.cuda.launch import BLOCK, grid_of, launch
from iterreg.kernels.cuda.programs import folds
from iterreg.kernels.lattice import (
    LEAST_DET,
    LEAST_LENGTH,
    OVERSHOOT,
    WANTED_DET,
    Lattice,
    rest_det,
)
from iterreg.to_device import on_device


def folding_voxels(total_vox: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.folding_voxels`."""
    flat = total_vox.shape[0] == 2
    if flat:
        total_vox = torch.cat((torch.zeros_like(total_vox[:1]), total_vox)).unsqueeze(1)
    shape, count = total_vox.shape[1:], total_vox[0].numel()
    out = torch.empty(shape, dtype=torch.int8, device=total_vox.device)
    operands = (total_vox.contiguous(), out, count, *shape)
    launch(folds.folding_voxels, grid_of(count), *operands, INNER=min(shape) > 1, B=BLOCK)
    return out.bool()[0] if flat else out.bool()


def folds_among(lattice: Lattice, at: Tensor, limit: float) -> Tensor:
    """See :func:`iterreg.kernels.lattice.folds_among`."""
    simplices = lattice.simplices
    low = torch.empty(len(simplices), len(at), dtype=torch.int8, device=at.device)
    programs = (*grid_of(len(at)), len(simplices))
    tables = (_offsets(lattice, 3), _rest(lattice))
    operands = (at, *_field(lattice), *tables, low, limit, len(at), *_sizes(lattice))
    has_table = lattice.glued is not None
    launch(folds.low_simplices, programs, *operands, HAS_TABLE=has_table, B=BLOCK)
    return at[low.amax(0) > 0] if len(at) else at


def unfold(lattice: Lattice, at: Tensor) -> None:
    """See :func:`iterreg.kernels.lattice.unfold`."""
    count, slots_each = lattice.u_mm.shape[1], 4 * len(lattice.simplices)
    slots = lattice.u_mm.new_empty(slots_each, 4, len(at))
    still = lattice.labels if lattice.still is None else lattice.still.byte()
    tables = (_offsets(lattice, 3), _rest(lattice), slots)
    aims = (LEAST_DET, WANTED_DET, LEAST_LENGTH)
    launch(
        folds.simplex_moves,
        (*grid_of(len(at)), len(lattice.simplices)),
        at,
        *_field(lattice),
        still,
        *tables,
        *aims,
        len(at),
        *_sizes(lattice),
        HAS_TABLE=lattice.glued is not None,
        HAS_STILL=lattice.still is not None,
        B=BLOCK,
    )
    number = torch.full((count,), -1, dtype=torch.int32, device=at.device)
    number[at] = torch.arange(len(at), dtype=torch.int32, device=at.device)
    operands = (at, number, lattice.u_mm, _offsets(lattice, 4), slots, OVERSHOOT)
    sizes = (len(at), count, *lattice.shape)
    programs = (*grid_of(len(at)), slots_each)
    launch(folds.apply_moves, programs, *operands, *sizes, SLOTS=slots_each, B=BLOCK)


def surroundings(at: Tensor, shape: tuple[int, ...], reach: int) -> Tensor:
    """See :func:`iterreg.kernels.lattice.surroundings`."""
    marks = torch.zeros(shape, dtype=torch.int8, device=at.device).flatten()
    programs = (*grid_of(len(at)), (2 * reach + 1) ** 3)
    launch(folds.mark_around, programs, at, marks, reach, len(at), *shape, B=BLOCK)
    return marks.nonzero().flatten()


def _field(lattice: Lattice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Displacement, labels, the table of what is glued, and voxels per mm."""
    glued = lattice.labels if lattice.glued is None else lattice.glued.byte()
    return lattice.u_mm, lattice.labels, glued, lattice.scale


def _sizes(lattice: Lattice) -> tuple[int, ...]:
    kinds = 0 if lattice.glued is None else len(lattice.glued)
    return lattice.u_mm.shape[1], *lattice.shape, kinds


def _offsets(lattice: Lattice, vertices: int) -> Tensor:
    """(simplices, vertices, 3) int32; the fourth vertex is the voxel itself."""
    rows = [[*simplex, (0, 0, 0)][:vertices] for simplex in lattice.simplices]
    return on_device(rows, lattice.device, torch.int32)


def _rest(lattice: Lattice) -> Tensor:
    """(simplices,) determinants if nothing moves."""
    return on_device([rest_det(simplex) for simplex in lattice.simplices], lattice.device)
