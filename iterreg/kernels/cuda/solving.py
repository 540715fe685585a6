"""The linear algebra of a Gauss-Newton step: Laplacian, normal jumps, conjugate gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.kernels import reference
from iterreg.kernels.blocks import ROUNDING_SHARE
from iterreg.kernels.cuda.launch import BLOCK, SUMMED, grid_of, launch
from iterreg.kernels.cuda.programs import linear_algebra
from iterreg.kernels.types import LinearSystem, NormalJump, Workspace


def laplacian(v: Tensor, edges: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.laplacian`."""
    if len(v) != 3:
        return reference.laplacian(v, edges)
    into = torch.zeros_like(v)
    add_laplacian(v, edges, into)
    return into


def add_laplacian(v: Tensor, edges: Tensor, into: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.add_laplacian`."""
    count = v[0].numel()
    programs = grid_of(count)
    partial = torch.empty(programs, dtype=torch.float64, device=v.device)
    operands = (v.contiguous(), edges, into, partial, count, *v.shape[1:])
    launch(linear_algebra.add_laplacian, programs, *operands, B=BLOCK)
    return partial.sum()


def add_normal_jump(v: Tensor, jump: NormalJump, into: Tensor) -> Tensor:
    """See :func:`iterreg.kernels.reference.add_normal_jump`."""
    programs = grid_of(len(jump.by_voxel.voxels))
    partial = torch.empty(programs, dtype=torch.float64, device=v.device)
    _add_jump(v, jump, into, partial)
    return partial.sum()


def _add_jump(v: Tensor, jump: NormalJump, into: Tensor, partial: Tensor) -> None:
    faces = jump.by_voxel
    launch(
        linear_algebra.add_normal_jump,
        grid_of(len(faces.voxels)),
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
    programs, jump = grid_of(count), system.normal_jump
    jumps = 0 if jump is None else grid_of(len(jump.by_voxel.voxels))[0]
    partial = torch.zeros(programs[0] + jumps, dtype=torch.float64, device=residual.device)
    scalars = torch.zeros(3, device=residual.device)

    def update() -> None:
        operands = (step, residual, direction, product, blocks, scalars, preconditioned, partial)
        launch(linear_algebra.cg_update, programs, *operands, count, B=BLOCK)
        launch(linear_algebra.cg_beta, (1,), partial, programs[0], scalars, B=SUMMED, num_warps=8)

    update()
    scalars[2:].zero_()
    for _ in range(steps):
        operands = (preconditioned, direction, scalars, system.edges, system.curvature)
        answers = (spare, product, partial)
        launch(linear_algebra.cg_product, programs, *operands, *answers, count, *shape, B=BLOCK)
        direction, spare = spare, direction
        if jump is not None:
            _add_jump(direction, jump, product, partial[programs[0] :])
        launch(linear_algebra.cg_alpha, (1,), partial, len(partial), scalars, B=SUMMED, num_warps=8)
        update()
    return step


def _preconditioner(system: LinearSystem, damping: float, workspace: Workspace) -> Tensor:
    """(6, Z, Y, X), the inverse of each voxel's block; zero where nothing may move."""
    curvature, edges, rows = system.curvature, system.edges, system.active_rows
    blocks = workspace.zeros("blocks", curvature, 6)
    shape, count = curvature.shape[1:], curvature[0].numel()
    sizes = (count, *shape, damping, ROUNDING_SHARE)
    operands = (curvature, edges, rows)
    launch(linear_algebra.invert_blocks, grid_of(count), *operands, blocks, *sizes, B=BLOCK)
    if system.normal_jump is not None:
        voxels, extra = system.normal_jump.diagonal_blocks
        corrected = (voxels, extra.contiguous(), blocks, len(voxels))
        programs = grid_of(len(voxels))
        kernel = linear_algebra.correct_at_interfaces
        launch(kernel, programs, *operands, *corrected, *sizes, B=BLOCK)
    return blocks
