"""Regions that keep their volume, such as a lesion: its size is a finding that must not be lost.

After the last level the field u gets the smoothest correction v that gives a region R its volume
back::

    minimise sum over edges of w |grad v|^2 + |v|^2 / length^2
    so that  log of the mean over R of det J(u + v) = 0

so v solves a linear system whose right side is the gradient of the volume. R is the fixed region,
and also the moving one as it is warped: after a true change the two are not the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iterreg.energy.interfaces import normal_jump
from iterreg.energy.smoothness import edge_weights
from iterreg.geometry import Matrix
from iterreg.kernels import IndexMap, LinearSystem, Workspace, conjugate_gradient
from iterreg.metrics import det_jacobian_within
from iterreg.neighbourhood import Box
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces, Pair
from iterreg.optimize.problem import active_rows
from iterreg.sampling import sample_nearest

FALLOFF_MM = 10.0
"""Over this length the surroundings make room."""

REACH_LENGTHS = 3.0
"""Nothing moves that is farther away than so many of these lengths."""

CG_STEPS = 40
HELD = 100.0
"""Stiffness (1/mm^2) that holds what must not move; that of an edge is about 1."""

CLOSED = 20.0
"""How much more a gap costs than it did: a region must not keep its volume by leaving one."""

STEPS = 4
"""In each pass, along the directions that are found."""

CLOSE_ENOUGH = 1e-3
"""Of the logarithm of the volume: a tenth of a percent."""

LONGEST_STEP = 0.1
"""A step changes the logarithm of the volume at most by this."""

SAME_VOLUME = (0.05, 0.05, 0.01, 0.01)
"""In each pass, fixed and warped region are one if their gradients differ by less than this share:
to correct them apart bends more."""


def preserve_volumes(
    field: Field, pair: Pair, affine_lps: Matrix, still: Tensor | None = None
) -> Field:
    """Give each region that must keep its volume that volume back.

    Args:
        field: at full resolution.
        pair: its ``preserved`` are the compact labels of those regions.
        affine_lps: what follows the field: the total motion keeps the volume.
        still: (Z, Y, X) bool, voxels that keep their displacement; None: all may move.

    Returns:
        The corrected field.
    """
    u_mm = field.u_mm.clone() if pair.preserved else field.u_mm
    for value in pair.preserved:
        patch = _Patch.of(field.side.labels, pair, affine_lps, value)
        if patch is not None:
            here = (slice(None), *patch.box)
            u_mm[here] = patch.corrected(u_mm[here], still)
    return Field(u_mm, field.side)


def volume_ratio(field: Field, pair: Pair, affine_lps: Matrix, value: int) -> float:
    """Volume of a region after the motion over that before; 1 if it does not change.

    Args:
        field: at full resolution.
        pair: whose field it is.
        affine_lps: what follows the field.
        value: compact label.

    Returns:
        Of the fixed region as it is mapped, and of the moving one as it is warped, what is farther
        from 1; NaN if the region is empty.
    """
    patch = _Patch.of(field.side.labels, pair, affine_lps, value)
    if patch is None:
        return float("nan")
    logs, _ = patch.volumes(field.u_mm[(slice(None), *patch.box)])
    return float(np.exp(max(logs, key=abs)))


@dataclass(frozen=True)
class _Patch:
    """A region and its surroundings.

    Args:
        box: of the fixed grid, whose shape is ``shape``.
        region: (z, y, x) bool, the fixed region in the box.
        labels: (z, y, x), of the box.
        moving_region: (Z, Y, X) bool, on the moving grid.
        mapping: of the pair.
        interfaces: of the pair.
        spacing_mm: (z, y, x).
        log_affine: logarithm of the affine's determinant.
    """

    box: Box
    shape: tuple[int, ...]
    region: Tensor
    labels: Tensor
    moving_region: Tensor
    mapping: IndexMap
    interfaces: Interfaces
    spacing_mm: tuple[float, ...]
    log_affine: float

    @classmethod
    def of(cls, labels: Tensor, pair: Pair, affine_lps: Matrix, value: int) -> _Patch | None:
        """The patch around a region; None if the fixed image lacks it."""
        if value not in pair.fixed.boxes:
            return None
        region = pair.fixed.region(value)
        reach = [round(REACH_LENGTHS * FALLOFF_MM / s) for s in pair.fixed.spacing_mm]
        box = region.grown_box(reach)
        return cls(
            box,
            tuple(labels.shape),
            labels[box] == value,
            labels[box].contiguous(),
            pair.moving.labels == value,
            pair.index_map(affine_lps),
            pair.interfaces,
            pair.fixed.spacing_mm,
            float(np.log(abs(np.linalg.det(affine_lps)))),
        )

    def corrected(self, u_mm: Tensor, still: Tensor | None) -> Tensor:
        """The displacement with which the region keeps its volume."""
        free = self._free(still)
        system = self._system(free)
        for share in SAME_VOLUME:
            logs, gradients = self.volumes(u_mm)
            if max(map(abs, logs)) < CLOSE_ENOUGH:
                break
            ways = [
                conjugate_gradient(system, g * free, CG_STEPS, 0.0, Workspace()).clone() * free
                for g in gradients
            ]
            for _ in range(STEPS):
                u_mm = u_mm + _step(logs, gradients, ways, share)
                logs, gradients = self.volumes(u_mm)
                if max(map(abs, logs)) < CLOSE_ENOUGH:
                    break
        return u_mm

    def volumes(self, u_mm: Tensor) -> tuple[list[float], list[Tensor]]:
        """Logarithm of each volume's ratio, and its gradient (3, z, y, x), 1/mm."""
        logs, gradients = [], []
        for mask in (self.region, self._warped(u_mm)):
            if not bool(mask.any()):
                continue
            with torch.enable_grad():
                moved = u_mm.detach().clone().requires_grad_()
                vox = moved / moved.new_tensor(self.spacing_mm).view(3, 1, 1, 1)
                det = det_jacobian_within(vox, mask.int())[mask]
                log = det.mean().clamp(min=1e-6).log() + self.log_affine
            (gradient,) = torch.autograd.grad(log, moved)
            logs.append(float(log.detach()))
            gradients.append(gradient)
        return logs, gradients

    def _warped(self, u_mm: Tensor) -> Tensor:
        """(z, y, x) bool: where the moving region comes to lie."""
        axes = [torch.arange(part.start, part.stop, device=u_mm.device) for part in self.box]
        voxels = torch.stack(torch.meshgrid(*axes, indexing="ij")).float()
        index = self.mapping.apply(voxels.view(3, -1), u_mm.reshape(3, -1))
        return sample_nearest(self.moving_region, index).view_as(self.region)

    def _free(self, still: Tensor | None) -> Tensor:
        """(z, y, x) float: 1 where the displacement may change, 0 where it may not.

        The outermost voxels of the box keep theirs, unless the image ends there.
        """
        free = torch.ones_like(self.region, dtype=torch.float32)
        for axis, (part, n) in enumerate(zip(self.box, self.shape, strict=True)):
            if part.start > 0:
                free.select(axis, 0).zero_()
            if part.stop < n:
                free.select(axis, -1).zero_()
        return free if still is None else free * ~still[self.box]

    def _system(self, free: Tensor) -> LinearSystem:
        """What a correction costs."""
        labels, interfaces = self.labels, self.interfaces
        curvature = free.new_zeros(6, *free.shape)
        curvature[[0, 3, 5]] = 1 / FALLOFF_MM**2 + HELD * (1 - free)
        return LinearSystem(
            curvature,
            edge_weights(labels, interfaces.tangential, self.spacing_mm),
            active_rows(None, self.region),
            normal_jump(labels, interfaces.normal * CLOSED, self.spacing_mm),
        )


def _step(logs: list[float], gradients: list[Tensor], ways: list[Tensor], share: float) -> Tensor:
    """The combination of directions that takes all volumes towards their goal."""
    effect = np.array([[float((g * way).sum()) for way in ways] for g in gradients])
    wanted = -np.clip(np.array(logs), -LONGEST_STEP, LONGEST_STEP)
    amounts = np.linalg.lstsq(effect, wanted, rcond=share)[0]
    total = torch.zeros_like(ways[0])
    for amount, way in zip(amounts.tolist(), ways, strict=True):
        total += amount * way
    return total
